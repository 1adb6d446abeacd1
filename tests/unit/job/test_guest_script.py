# SPDX-License-Identifier: Apache-2.0
"""The script for the guest, run here by the shells that guests have, with a network that is only played.

What it does in a real guest is in ``tests/functional/test_personal.py``.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cloudlet_ext.job import cards as network_cards
from cloudlet_ext.job import guest_script
from cloudlet_ext.job.cards import Card

OLD, MAC = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02"
FIXED = {"address": "192.168.111.7/24", "gateway": "192.168.111.1", "handed_out": False}
FIXED_6 = {"address": "fd00::7/64", "gateway": "fd00::1", "handed_out": False}
LEASED = {"address": "10.1.0.9/16", "gateway": None, "handed_out": True}

IP = """#!/bin/sh
# Keeps addresses in a file, one a line, as "ip -o addr show" tells them.
echo "ip $*" >>{folder}/done
case $* in
    "-o addr show dev eth7") cat {folder}/addresses ;;
    "addr flush"*) : >{folder}/addresses ;;
    "-4 addr flush"*) sed -i '/inet /d' {folder}/addresses ;;
    "-4 addr add "*) echo "2: eth7    inet $4 scope global eth7" >>{folder}/addresses ;;
    "-6 addr add "*) echo "2: eth7    inet6 $4 scope global eth7" >>{folder}/addresses ;;
esac
"""


@pytest.fixture(params=["sh", "bash"])
def shell(request: pytest.FixtureRequest) -> str:
    # Not busybox: its shell would run its own date and ip.
    return str(request.param)


def card(*addresses: dict[str, Any], mtu: int | None = 1442) -> Card:
    (made,) = network_cards.of_job([OLD], [MAC], [{"mac": MAC, "mtu": mtu, "addresses": list(addresses)}])
    return made


def run(folder: Path, shell: str, cards: list[Card], **tools: str) -> tuple[int, list[str], str]:
    """Exit status, what was done to the network, what was said. ``tools``: further programs of the guest."""
    net = folder / "net/eth7"
    (net / "device").mkdir(parents=True)
    (net / "address").write_text(f"{OLD}\n")
    (folder / "addresses").write_text("2: eth7    inet 10.9.9.9/24 scope global eth7\n")
    programs = {"date": '[ "$1" = -u ] || exec /bin/date "$@"', "pidof": "exit 1", **tools}
    for name, text in programs.items():
        (folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{folder}/done\n{text}\n')
        (folder / name).chmod(0o755)
    (folder / "ip").write_text(IP.format(folder=folder))
    (folder / "ip").chmod(0o755)
    for name in ("sed", "cat", "sleep", "tr"):
        (folder / name).symlink_to(f"/bin/{name}")
    program, option, text, name, *arguments = guest_script.command(5.25, cards)
    assert (program, option) == ("/bin/sh", "-c")
    # Its own way to programs is shut, and its cards are ours.
    text = text.replace("PATH=$PATH:/usr/sbin:/sbin", "").replace("/sys/class/net", str(folder / "net"))
    arguments[1] = "1"
    done = subprocess.run(
        [shutil.which(shell) or shell, "-c", text, name, *arguments],
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    told = (folder / "done").read_text().splitlines()
    looks = ("-o addr", "+%s", "pidof")
    return done.returncode, [line for line in told if not any(look in line for look in looks)], done.stderr


def test_an_address_that_nobody_hands_out(tmp_path: Path, shell: str) -> None:
    status, done, said = run(tmp_path, shell, [card(FIXED, FIXED_6)])
    assert (status, said) == (0, "")
    assert done == [
        "date -u -s @5.250",
        "ip addr flush dev eth7 scope global",
        f"ip link set dev eth7 address {MAC}",
        "ip link set dev eth7 mtu 1442",
        "ip link set dev eth7 up",
        "ip link set dev eth7 up",
        "ip -4 addr flush dev eth7 scope global",
        "ip -4 addr add 192.168.111.7/24 brd + dev eth7",
        "ip -4 route replace default via 192.168.111.1 dev eth7 metric 100",
        "ip -6 addr add fd00::7/64 dev eth7 nodad",
        "ip -6 route replace default via fd00::1 dev eth7 metric 100",
    ]


@pytest.mark.parametrize("tool", ["networkctl", "ifup", "dhclient", "udhcpc"])
def test_a_lease_that_comes(tmp_path: Path, shell: str, tool: str) -> None:
    """Who brings it is asked, and nothing is set by ``ip``."""
    lease = f'echo "2: eth7    inet 10.1.0.9/16 scope global eth7" >>{tmp_path}/addresses'
    others = {"ifquery": "", "ifdown": ""} if tool == "ifup" else {}
    status, done, said = run(tmp_path, shell, [card(LEASED)], **{tool: lease}, **others)
    assert (status, said) == (0, "")
    assert any(line.startswith(f"{tool} ") for line in done)
    assert not any("addr add" in line or "route" in line for line in done)


def test_who_cannot_does_not_keep_others_from_it(tmp_path: Path, shell: str) -> None:
    """Debian has networkctl where ifupdown configures the card, and ifquery knows the card or not."""
    lease = f'echo "2: eth7    inet 10.1.0.9/16 scope global eth7" >>{tmp_path}/addresses'
    no = {"nmcli": "exit 1", "networkctl": "exit 1", "ifquery": "exit 1", "ifup": "exit 1"}
    status, done, _ = run(tmp_path, shell, [card(LEASED)], **no, dhclient=lease)
    assert status == 0
    assert "dhclient -nw eth7" in done


def test_a_lease_that_does_not_come(tmp_path: Path, shell: str) -> None:
    """The address is set all the same, in place of whatever the guest got."""
    wrong = f'echo "2: eth7    inet 10.9.9.9/24 scope global eth7" >>{tmp_path}/addresses'
    status, done, _ = run(tmp_path, shell, [card(LEASED, mtu=None)], dhclient=wrong)
    assert status == 0
    assert "ip -4 addr add 10.1.0.9/16 brd + dev eth7" in done
    assert (tmp_path / "addresses").read_text().count("inet ") == 1
    assert not any("mtu" in line or "route" in line for line in done)


def test_network_manager_is_told(tmp_path: Path, shell: str) -> None:
    nmcli = 'case $* in *STATE*) echo "100 (connected)" ;; esac'
    _, done, _ = run(tmp_path, shell, [card(FIXED, FIXED_6)], nmcli=nmcli)
    told = "nmcli device modify eth7 ipv4.method manual ipv4.addresses 192.168.111.7/24 ipv4.gateway 192.168.111.1"
    assert told in done


def test_a_card_that_is_not_there(tmp_path: Path, shell: str) -> None:
    """What a base says of a card is no program either."""
    strange = Card(f"$(touch {tmp_path}/made);`touch {tmp_path}/made`", MAC)
    status, done, said = run(tmp_path, shell, [strange], date="exit 1")
    assert status == guest_script.CLOCK_FAILED | guest_script.ADDRESS_FAILED
    assert "no network card has the address $(touch" in said
    assert not (tmp_path / "made").exists()
    assert done == ["date -u -s @5.250"]
