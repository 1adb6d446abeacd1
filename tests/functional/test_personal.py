# SPDX-License-Identifier: Apache-2.0
"""A Debian guest gets the addresses of its server, whoever configures its network, handed out by the network or not.

QEMU's user network is 10.0.2.0/24; its DHCP server gives 10.0.2.15 to the first MAC that asks, 10.0.2.16 to the next.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.file_server import FileServer
from cloudlet_ext.hypervisor.agent import GuestAgent
from cloudlet_ext.job import cards as network_cards
from cloudlet_ext.job import guest_script, personal
from cloudlet_ext.job.cards import Card
from cloudlet_ext.job.personal import Personal, personalise
from cloudlet_ext.worker.server import Server, new_mac
from tests.functional import guest as tools
from tests.functional.conftest import Start
from tests.functional.guest import in_guest

GATEWAY, LEASED, FIXED = "10.0.2.2", "10.0.2.16", "10.0.2.77"
MTU = 1442
AGENT_S = 30.0

STATIC_NETWORK = """cat >/etc/systemd/network/10-eth0.network <<'END'
[Match]
Name=eth0
[Network]
Address=10.0.2.50/24
Gateway=10.0.2.2
LinkLocalAddressing=no
END
systemctl restart systemd-networkd"""
STOP_NETWORKD = """systemctl stop systemd-networkd.socket systemd-networkd
ip addr flush dev eth0"""
START_BUS = "systemctl daemon-reload; systemctl start dbus"
INTERFACES = """printf 'auto eth0\\niface eth0 inet %s\\n' >/etc/network/interfaces
mkdir -p /run/network
ifup eth0 >/dev/null 2>&1"""
START_MANAGER = "systemctl start NetworkManager; nmcli device set eth0 managed yes"
STATIC_PROFILE = """nmcli connection add type ethernet ifname eth0 con-name own ipv4.method manual \
ipv4.addresses 10.0.2.50/24 ipv4.gateway 10.0.2.2
nmcli -w 20 connection up own"""

PLAIN = {"networkd": ":", "networkd, static": STATIC_NETWORK}
"""What the guest is without another package: its systemd-networkd is out of reach for networkctl, which wants a bus."""

WITH_PACKAGES = {
    "networkd and a bus": START_BUS,
    "ifupdown": f"{STOP_NETWORKD}\n{INTERFACES % 'dhcp'}",
    "ifupdown, static": f"{STOP_NETWORKD}\n{INTERFACES % 'static'}".replace(
        "inet static\\n", "inet static\\n address 10.0.2.50/24\\n gateway 10.0.2.2\\n"
    ),
    "dhclient": f"{STOP_NETWORKD}\ndhclient eth0 >/dev/null 2>&1",
    "NetworkManager": f"{STOP_NETWORKD}\n{START_BUS}\n{START_MANAGER}",
    "NetworkManager, static": f"{STOP_NETWORKD}\n{START_BUS}\n{START_MANAGER}\n{STATIC_PROFILE}",
}


SET = ("networkd, static", "ifupdown, static")
"""Who is configured not to ask for leases, and cannot be told otherwise for a while."""


class ServerGuest:
    """A server of this package's own, as :class:`cloudlet_ext.job.personal.Guest`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def ask(self, command: str, **arguments: Any) -> Any:
        with GuestAgent(self._server.agent_path, AGENT_S) as agent:
            return agent.execute(command, AGENT_S, **arguments)

    def memory_arrives(self) -> bool:
        return False

    def replace_cards(self) -> None:
        # Its machine has no slot for another card: the guest forgets the one that it has, and meets it anew.
        tools.type_line(self._server, "cd $(readlink -f /sys/class/net/eth0/device/..); echo 1 >remove")
        tools.type_line(self._server, "sleep 1; echo 1 >/sys/bus/pci/rescan; cd /")


def card(server: Server, mac: str, *, address: str, handed_out: bool) -> Card:
    """The server's card with another MAC, and an address."""
    told = {"address": f"{address}/24", "gateway": GATEWAY, "handed_out": handed_out}
    captured = in_guest(server, "cat /sys/class/net/eth0/address")
    (made,) = network_cards.of_job([captured], [mac], [{"mac": mac, "mtu": MTU, "addresses": [told]}])
    return made


def given(server: Server, wanted: Card) -> Personal:
    return personalise(ServerGuest(server), [wanted], has_agent=True)


def addresses(server: Server) -> list[str]:
    lines = in_guest(server, "ip -4 -o addr show dev eth0 scope global").splitlines()
    return [line.split()[3] for line in lines]


def check(server: Server, wanted: Card, before: list[str]) -> None:
    """It has this address and none of those that it had before, and reaches the world with it."""
    (address,) = (str(one.interface) for one in wanted.addresses)
    now = addresses(server)
    # Where nobody shall ask for a lease there is one all the same in this network, and networkd cannot be told.
    assert address in now and not set(now) & (set(before) - {address}), now
    assert len(now) == 1 or wanted.fixed, now
    assert in_guest(server, "cat /sys/class/net/eth0/address") == wanted.mac
    assert in_guest(server, "cat /sys/class/net/eth0/mtu") == str(MTU)
    assert f"default via {GATEWAY} dev eth0" in in_guest(server, "ip route get 192.0.2.1; ip route show default")


@contextlib.contextmanager
def packages(guests: Path) -> Iterator[str]:
    """The line that brings them into a guest."""
    with FileServer(guests) as files:
        port = files.address.rsplit(":", 1)[1]
        yield f"busybox wget -q -O- http://10.0.2.2:{port}/app-network-files.tar | tar -x -C /"


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease comes, however busy this machine is."""
    monkeypatch.setattr(guest_script, "LEASE_S", 60)
    monkeypatch.setattr(personal, "_SCRIPT_TIMEOUT_S", 120.0)
    monkeypatch.setattr(personal, "_LEASE_S", 60.0)


def go_through(server: Server, *, asks: bool) -> None:
    """From what was captured to a lease, to an address that nobody hands out, and to a lease again.

    ``asks``: the guest can ask for its lease; where it cannot, the address is set all the same.
    """
    first, second = new_mac(), new_mac()
    for mac, address, handed_out in ((first, LEASED, True), (second, FIXED, False), (first, LEASED, True)):
        wanted, before = card(server, mac, address=address, handed_out=handed_out), addresses(server)
        result = given(server, wanted)
        assert result == Personal(True, True), result
        check(server, wanted, before)
        if handed_out:
            is_set = in_guest(server, "ip route show default") == f"default via {GATEWAY} dev eth0 metric 100"
            assert is_set is not asks
        # Nobody brings back what was captured.
        time.sleep(2)
        check(server, wanted, before)


@pytest.mark.parametrize("who", [one for one in (*PLAIN, *WITH_PACKAGES) if one not in SET])
@pytest.mark.usefixtures("patient")
def test_who_can_ask_for_a_lease(debian: str, start: Start, guests: Path, who: str) -> None:
    go_through(prepared(start(debian, "personal"), guests, who), asks=True)


@pytest.mark.parametrize("who", SET)
def test_who_cannot_ask_for_a_lease(debian: str, start: Start, guests: Path, who: str) -> None:
    go_through(prepared(start(debian, "personal"), guests, who), asks=False)


def prepared(server: Server, guests: Path, who: str) -> Server:
    """A server whose network is configured by somebody else."""
    if who in WITH_PACKAGES:
        with packages(guests) as line:
            in_guest(server, line)
    in_guest(server, {**PLAIN, **WITH_PACKAGES}[who])
    tools.wait_until("the captured guest has an address", lambda: addresses(server))
    return server


def test_the_link_local_address_is_its_own(debian: str, start: Start) -> None:
    """Ports that know a MAC let nothing else through, and a guest asks for its neighbours with this address."""
    server = start(debian, "personal")
    in_guest(server, f"{STOP_NETWORKD}\nip link set dev eth0 down; ip link set dev eth0 addrgenmode eui64 up")
    mac = "52:54:00:12:34:56"
    wanted = {"address": "fd00::7/64", "gateway": "fd00::1", "handed_out": False}
    port = {"mac": mac, "mtu": MTU, "addresses": [wanted]}
    captured = in_guest(server, "cat /sys/class/net/eth0/address")
    assert given(server, *network_cards.of_job([captured], [mac], [port])) == Personal(True, True)
    shown = in_guest(server, "ip -6 -o addr show dev eth0 scope link")
    assert shown.count("inet6") == 1 and " fe80::5054:ff:fe12:3456/64 " in shown
    assert "default via fd00::1 dev eth0" in in_guest(server, "ip -6 route show default")


def refuse_programs(server: Server) -> None:
    """Run another agent, as some distributions do by default."""
    again = "sleep 1; systemctl stop qemu-guest-agent; exec qemu-ga -b guest-exec,guest-exec-status"
    in_guest(server, f"date -s @1000000000; systemd-run --no-block /bin/sh -c '{again}'")
    guest = ServerGuest(server)

    def refuses() -> bool:
        with contextlib.suppress(Exception):
            known = guest.ask("guest-info")["supported_commands"]
            return not any(one["name"] == "guest-exec" and one["enabled"] for one in known)
        return False

    tools.wait_until("the agent runs no programs", refuses)


def captured_elsewhere(server: Server, address: str, *, handed_out: bool) -> Card:
    """The card as QEMU has it, while the guest has another MAC: that of the guest that was captured."""
    in_guest(server, f"ip link set dev eth0 address {new_mac()}")
    return card(server, server.record.mac, address=address, handed_out=handed_out)


@pytest.mark.usefixtures("patient")
def test_an_agent_that_runs_no_programs(debian: str, start: Start) -> None:
    """Its card is replaced, its clock is set."""
    server = start(debian, "personal")
    wanted = captured_elsewhere(server, "10.0.2.15", handed_out=True)
    refuse_programs(server)
    result = given(server, wanted)
    assert result.clock and result.address, result
    assert "refused guest-exec" in result.reason and "network cards were replaced" in result.reason
    told = ServerGuest(server).ask("guest-network-get-interfaces")
    assert network_cards.missing([wanted], told) == []
    assert abs(ServerGuest(server).ask("guest-get-time") / 1e9 - time.time()) < 5


def test_nobody_tells_the_guest_its_address(debian: str, start: Start) -> None:
    """No program may be run, and the network hands out another address: this is told."""
    server = start(debian, "personal")
    wanted = captured_elsewhere(server, FIXED, handed_out=False)
    refuse_programs(server)
    result = given(server, wanted)
    assert result.clock and result.address is False, result
    # A guest that is slow has not met its card yet, either.
    assert "still has not " in result.reason and result.reason.endswith(FIXED), result
