# SPDX-License-Identifier: Apache-2.0
"""Network cards that are taken out of a domain and put in again; libvirt and the host's cards are stand-ins."""

from __future__ import annotations

from collections.abc import Callable
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
        self.gives_up: Callable[[], bool] = lambda: True
        self._asked: list[str] = []

    def XMLDesc(self, flags: int) -> str:  # noqa: N802 - libvirt's name
        if self.gives_up():
            self._cards = [one for one in self._cards if self._mac(one) not in self._asked]
            self._asked = []
        return f"<domain><devices>{''.join(self._cards)}</devices></domain>"

    def detachDeviceFlags(self, text: str, flags: int) -> None:  # noqa: N802
        if self._mac(text) not in map(self._mac, self._cards):
            raise libvirt.libvirtError("device not found")
        self._asked.append(self._mac(text))

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


class Monitor:
    """QEMU of a guest whose memory arrives, as often as it is asked ``times``."""

    def __init__(self, times: int) -> None:
        self._times = times

    def execute(self, command: str) -> dict[str, str]:
        assert command == "query-migrate"
        self._times -= 1
        return {"status": "postcopy-active" if self.arrives else "completed"}

    @property
    def arrives(self) -> bool:
        return self._times >= 0


@pytest.fixture(autouse=True)
def host_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(guest, "_HOST_CARDS", tmp_path)
    monkeypatch.setattr(guest, "_PLUG_SETTLE_S", 0.0)
    return tmp_path


def replaced(handle: Any) -> list[str]:
    DomainGuest(handle, Monitor(0), None).replace_cards()  # type: ignore[arg-type]
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


def test_a_guest_whose_memory_arrives_is_waited_for(host_cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "_UNPLUG_TIMEOUT_S", 0.2)
    handle, monitor = Handle(host_cards, [card(1)], [UP]), Monitor(9)
    handle.gives_up = lambda: not monitor.arrives
    DomainGuest(handle, monitor, None).replace_cards()  # type: ignore[arg-type]
    assert len(handle.attached) == 1


@pytest.mark.parametrize(("times", "held"), [(0, False), (2, False), (10**9, True)])
def test_a_card_that_the_guest_keeps_is_told(
    host_cards: Path, monkeypatch: pytest.MonkeyPatch, times: int, held: bool
) -> None:
    """Memory that comes only when it is asked for will never all be here."""
    monkeypatch.setattr(guest, "_UNPLUG_TIMEOUT_S", 0.05)
    handle = Handle(host_cards, [card(1)], [UP])
    handle.gives_up = lambda: False
    waiting = DomainGuest(handle, Monitor(times), None, memory_is_held=held)  # type: ignore[arg-type]
    with pytest.raises(CardsKept, match="did not give up fa:16:3e:00:00:01 within 0 s"):
        waiting.replace_cards()
    assert not handle.attached
