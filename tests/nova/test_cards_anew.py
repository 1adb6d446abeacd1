# SPDX-License-Identifier: Apache-2.0
"""Network cards that are taken out of a domain and put in again; libvirt and the host's cards are stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import libvirt
import pytest

from cloudlet_ext.hypervisor.errors import CardsKept
from cloudlet_ext.job import guest
from cloudlet_ext.job.guest import DomainGuest

UP, DOWN, GONE = "0x1003\n", "0x1002\n", "gone"


def card(number: int) -> str:
    return (
        f"<interface type='bridge'><mac address='fa:16:3e:00:00:0{number}'/><target dev='tap{number}'/>"
        f"<alias name='net{number}'/><address type='pci' slot='0x0{number}'/></interface>"
    )


class Handle:
    """A domain. The host's end of a card that is attached has the next of ``flags``; it is gone again where GONE is."""

    def __init__(self, host_cards: Path, cards: list[str], flags: list[str]) -> None:
        self._host_cards, self._cards, self._flags = host_cards, cards, flags
        self.attached: list[str] = []

    def XMLDesc(self, flags: int) -> str:  # noqa: N802 - libvirt's name
        return f"<domain><devices>{''.join(self._cards)}</devices></domain>"

    def detachDeviceFlags(self, text: str, flags: int) -> None:  # noqa: N802
        if self._mac(text) not in map(self._mac, self._cards):
            raise libvirt.libvirtError("device not found")
        self._cards = [one for one in self._cards if self._mac(one) != self._mac(text)]

    def attachDeviceFlags(self, text: str, flags: int) -> None:  # noqa: N802
        self.attached.append(text)
        if self._flags[0] == GONE:
            self._flags.pop(0)
            return
        self._cards.append(text)
        name = str(ET.fromstring(text).find("target").get("dev"))  # type: ignore[union-attr]
        (self._host_cards / name).mkdir(exist_ok=True)
        (self._host_cards / name / "flags").write_text(self._flags.pop(0))

    def _mac(self, text: str) -> str:
        return str(ET.fromstring(text).find("mac").get("address"))  # type: ignore[union-attr]


@pytest.fixture(autouse=True)
def host_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(guest, "_HOST_CARDS", tmp_path)
    monkeypatch.setattr(guest, "_PLUG_SETTLE_S", 0.0)
    return tmp_path


def replaced(handle: Any) -> list[str]:
    DomainGuest(handle, None, None).replace_cards()  # type: ignore[arg-type]
    return list(handle.attached)


def test_every_card_is_put_in_once(host_cards: Path) -> None:
    attached = replaced(Handle(host_cards, [card(1), card(2)], [UP, UP]))
    assert ["tap1" in attached[0], "tap2" in attached[1], len(attached)] == [True, True, 2]
    assert all("alias" not in text and 'enabled="no"' in text and "slot" in text for text in attached)


def test_a_card_whose_end_is_down_is_put_in_again(host_cards: Path) -> None:
    attached = replaced(Handle(host_cards, [card(1), card(2)], [DOWN, UP, UP]))
    assert [text.count("tap1") for text in attached] == [1, 1, 0]


def test_an_end_that_stays_down_is_told(host_cards: Path) -> None:
    with pytest.raises(CardsKept, match="fa:16:3e:00:00:01 stays down"):
        replaced(Handle(host_cards, [card(1)], [DOWN] * 9))


def test_a_card_that_is_gone_again_is_put_in_again(host_cards: Path) -> None:
    attached = replaced(Handle(host_cards, [card(1), card(2)], [GONE, UP, UP]))
    assert [text.count("tap1") for text in attached] == [1, 1, 0]


def test_a_card_that_goes_every_time_is_told(host_cards: Path) -> None:
    with pytest.raises(CardsKept, match="fa:16:3e:00:00:01 was put in and is gone again"):
        replaced(Handle(host_cards, [card(1)], [DOWN, *[GONE] * 9]))
