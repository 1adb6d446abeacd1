# SPDX-License-Identifier: Apache-2.0
"""DHCP (RFC 2131), as much of it as one guest needs that asks for the one address which it had before."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from dataclasses import dataclass

SERVER_PORT, CLIENT_PORT = 67, 68

_DISCOVER, _OFFER, _REQUEST, _ACK, _NAK = 1, 2, 3, 5, 6
_ASKS, _ANSWERS = 1, 2
_HEAD = struct.Struct(">4B4s2sH4s4s4s4s16s64s128s4s")
"""op, htype, hlen, hops; xid, secs, flags; ciaddr, yiaddr, siaddr, giaddr; chaddr, sname, file; the options' cookie."""
_COOKIE = b"\x63\x82\x53\x63"
_PAD, _MASK, _ROUTER, _MTU, _WANTED, _LEASE, _KIND, _SERVER, _END = 0, 1, 3, 26, 50, 51, 53, 54, 255
_LEASE_S = 86400
_LIMIT_BYTES = 4096
_POLL_S = 0.2
_NOBODY = bytes(4)


@dataclass(frozen=True)
class Lease:
    """What a guest is told. ``server``: the address that it is told by."""

    address: ipaddress.IPv4Interface
    server: ipaddress.IPv4Address
    gateway: ipaddress.IPv4Address | None = None
    mtu: int | None = None


def answer(request: bytes, lease: Lease) -> tuple[bytes, str] | None:
    """The answer and the address that it goes to; None to what is no question."""
    if len(request) < _HEAD.size:
        return None
    op, kind, length, _, xid, _, flags, current, _, _, _, card, _, _, cookie = _HEAD.unpack_from(request)
    options = _options(request[_HEAD.size :])
    asked = options.get(_KIND, b"")
    if op != _ASKS or cookie != _COOKIE or asked not in (bytes([_DISCOVER]), bytes([_REQUEST])):
        return None
    own = lease.address.ip.packed
    if asked[0] == _DISCOVER:
        said = _OFFER
    else:
        said = _ACK if options.get(_WANTED, current) == own else _NAK
    told = [(_KIND, bytes([said])), (_SERVER, lease.server.packed)]
    if said != _NAK:
        told += [(_LEASE, struct.pack(">I", _LEASE_S)), (_MASK, lease.address.netmask.packed)]
        told += [(_ROUTER, lease.gateway.packed)] if lease.gateway else []
        told += [(_MTU, struct.pack(">H", lease.mtu))] if lease.mtu else []
    given = _NOBODY if said == _NAK else own
    head = _HEAD.pack(
        _ANSWERS,
        kind,
        length,
        0,
        xid,
        bytes(2),
        flags,
        current,
        given,
        lease.server.packed,
        _NOBODY,
        card,
        b"",
        b"",
        _COOKIE,
    )
    body = b"".join(bytes([code, len(value)]) + value for code, value in told)
    knows_its_own = said == _ACK and current == own
    return head + body + bytes([_END]), str(lease.address.ip) if knows_its_own else "255.255.255.255"


def _options(data: bytes) -> dict[int, bytes]:
    """By code; as far as they can be read."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        if at + 2 > len(data):
            break
        end = at + 2 + data[at + 1]
        found[data[at]] = data[at + 2 : end]
        at = end
    return found


class LeaseServer:
    """Gives one lease to whoever asks by a bound socket, which it closes at its end."""

    def __init__(self, bound: socket.socket, lease: Lease) -> None:
        self._socket, self._lease = bound, lease
        self._socket.settimeout(_POLL_S)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="dhcp", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._is_over.set()
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._is_over.is_set():
            try:
                made = answer(self._socket.recv(_LIMIT_BYTES), self._lease)
                if made is not None:
                    self._socket.sendto(made[0], (made[1], CLIENT_PORT))
            except TimeoutError:
                continue
            except OSError:
                # The card may be away for a moment; the guest asks again.
                self._is_over.wait(_POLL_S)
