# SPDX-License-Identifier: Apache-2.0
"""What a guest is told that asks for its address by DHCP."""

from __future__ import annotations

import ipaddress
import socket
import struct

import pytest

from cloudlet_ext.hypervisor import dhcp
from cloudlet_ext.hypervisor.dhcp import Lease, LeaseServer, answer

COOKIE = b"\x63\x82\x53\x63"
CARD = bytes.fromhex("fa163e000001")
OWN, SERVER = ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("192.0.2.1")
LEASE = Lease(ipaddress.IPv4Interface(f"{OWN}/24"), ipaddress.IPv4Address(SERVER), ipaddress.IPv4Address(SERVER), 1442)
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6


def request(kind: int, *options: tuple[int, bytes], current: str = "0.0.0.0", op: int = 1) -> bytes:
    head = struct.pack(">4B4s2sH", op, 1, 6, 0, b"abcd", bytes(2), 0x8000)
    addresses = ipaddress.IPv4Address(current).packed + bytes(12)
    body = b"".join(bytes([code, len(value)]) + value for code, value in ((53, bytes([kind])), *options))
    return head + addresses + CARD.ljust(16, b"\0") + bytes(192) + COOKIE + b"\0" + body + b"\xff"


def read(packet: bytes) -> tuple[str, dict[int, bytes]]:
    """The address that is given, and the options."""
    assert packet[0] == 2
    assert packet[4:8] == b"abcd"
    assert packet[28:34] == CARD
    assert packet[236:240] == COOKIE
    options, at = {}, 240
    while packet[at] != 255:
        options[packet[at]] = packet[at + 2 : at + 2 + packet[at + 1]]
        at += 2 + packet[at + 1]
    return str(ipaddress.ip_address(packet[16:20])), options


def test_a_guest_that_has_no_address() -> None:
    offered = answer(request(DISCOVER), LEASE)
    assert offered is not None
    assert offered[1] == "255.255.255.255"
    given, options = read(offered[0])
    assert (given, options[53], options[54]) == (str(OWN), bytes([OFFER]), SERVER.packed)
    assert (options[1], options[3], options[26]) == (b"\xff\xff\xff\0", SERVER.packed, struct.pack(">H", 1442))
    taken = answer(request(REQUEST, (50, OWN.packed), (54, SERVER.packed)), LEASE)
    assert taken is not None
    assert taken[1] == "255.255.255.255"
    assert read(taken[0])[1][53] == bytes([ACK])


def test_a_guest_that_renews_its_lease() -> None:
    renewed = answer(request(REQUEST, current=str(OWN)), LEASE)
    assert renewed is not None
    assert renewed[1] == str(OWN)
    assert read(renewed[0])[1][53] == bytes([ACK])


@pytest.mark.parametrize("current", ["0.0.0.0", "192.0.2.9"])
def test_an_address_that_is_not_the_guests(current: str) -> None:
    wanted = ((50, ipaddress.ip_address("192.0.2.9").packed),) if current == "0.0.0.0" else ()
    refused = answer(request(REQUEST, *wanted, current=current), LEASE)
    assert refused is not None
    assert refused[1] == "255.255.255.255"
    given, options = read(refused[0])
    assert (given, options) == ("0.0.0.0", {53: bytes([NAK]), 54: SERVER.packed})


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        bytes(239),
        bytes(400),
        request(DISCOVER, op=2),
        request(DISCOVER).replace(COOKIE, b"none"),
        request(7),
        request(DISCOVER)[:241],
        request(DISCOVER)[:242],
        request(DISCOVER)[:243],
    ],
    ids=range(9),
)
def test_what_is_no_question(packet: bytes) -> None:
    assert answer(packet, LEASE) is None


def test_no_gateway_and_no_mtu() -> None:
    bare = Lease(LEASE.address, LEASE.server)
    offered = answer(request(DISCOVER), bare)
    assert offered is not None
    assert not {3, 26} & set(read(offered[0])[1])


def test_who_asks_by_the_socket_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as guest:
        guest.bind(("127.0.0.1", 0))
        guest.settimeout(10)
        monkeypatch.setattr(dhcp, "CLIENT_PORT", guest.getsockname()[1])
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind(("127.0.0.1", 0))
        own = Lease(ipaddress.IPv4Interface("127.0.0.1/8"), ipaddress.IPv4Address("127.0.0.1"))
        server = LeaseServer(bound, own)
        for packet in (b"nonsense", request(REQUEST, current="127.0.0.1")):
            guest.sendto(packet, bound.getsockname())
        assert read(guest.recv(4096))[0] == "127.0.0.1"
        server.close()
        assert bound.fileno() == -1
