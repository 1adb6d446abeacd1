# SPDX-License-Identifier: Apache-2.0
"""The first phase of an NBD connection: the client asks for options until it has chosen the
export."""

from __future__ import annotations

import socket
import struct
import time

from cloudlet_ext.hypervisor import nbd_protocol as nbd

_TIME_LIMIT_S = 10.0
"""For the whole phase: a client that says nothing, or one byte at a time, does not hold a place for
long."""
_MAX_OPTIONS = 64
_MAX_OPTION_BYTES = 8192
"""A name has at most 4096 bytes; anything longer is no option that is answered here."""
_FLAGS = (
    nbd.TRANSMISSION_HAS_FLAGS
    | nbd.TRANSMISSION_READ_ONLY
    | nbd.TRANSMISSION_SEND_FLUSH
    | nbd.TRANSMISSION_CAN_MULTI_CONN
)


class Disconnected(Exception):
    """The client went away or broke the protocol; nothing is left to be said to it."""


def receive(sock: socket.socket, length: int) -> bytes:
    """Exactly ``length`` bytes; Disconnected when the client ends before, TimeoutError."""
    data = sock.recv(length, socket.MSG_WAITALL)
    while len(data) < length:
        more = sock.recv(length - len(data), socket.MSG_WAITALL)
        if not more:
            raise Disconnected(f"{len(data)} of {length} bytes")
        data += more
    return data


class Handshake:
    """Negotiates one export of ``size_bytes`` named ``name`` (the empty name means it, too)."""

    def __init__(self, sock: socket.socket, name: str, size_bytes: int) -> None:
        self._sock = sock
        self._name = name.encode()
        self._size_bytes = size_bytes
        self._deadline = 0.0
        self._zeroes = True

    def run(self) -> bool:
        """True when the client wants to read, False when it said goodbye; Disconnected,
        TimeoutError, OSError."""
        self._deadline = time.monotonic() + _TIME_LIMIT_S
        greeting = nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES
        self._sock.sendall(nbd.GREETING.pack(nbd.INIT_MAGIC, nbd.OPTION_MAGIC, greeting))
        (flags,) = nbd.CLIENT_FLAGS.unpack(self._receive(nbd.CLIENT_FLAGS.size))
        if flags & ~greeting:
            raise Disconnected(f"client flags {flags:#x}")
        self._zeroes = not flags & nbd.FLAG_NO_ZEROES
        for _ in range(_MAX_OPTIONS):
            outcome = self._option()
            if outcome is not None:
                self._sock.settimeout(None)
                return outcome
        raise Disconnected(f"more than {_MAX_OPTIONS} options")

    def _receive(self, length: int) -> bytes:
        if not length:
            return b""
        data = b""
        while len(data) < length:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._sock.settimeout(left)
            more = self._sock.recv(length - len(data))
            if not more:
                raise Disconnected(f"{len(data)} of {length} bytes of the handshake")
            data += more
        return data

    def _option(self) -> bool | None:
        magic, option, length = nbd.OPTION.unpack(self._receive(nbd.OPTION.size))
        if magic != nbd.OPTION_MAGIC:
            raise Disconnected(f"option magic {magic:#x}")
        if length > _MAX_OPTION_BYTES:
            raise Disconnected(f"option {option} of {length} bytes")
        data = self._receive(length)
        if option == nbd.OPT_EXPORT_NAME:
            return self._export_name(data)
        if option == nbd.OPT_ABORT:
            self._reply(option, nbd.REP_ACK)
            return False
        if option == nbd.OPT_LIST:
            self._list(option, data)
        elif option in (nbd.OPT_INFO, nbd.OPT_GO):
            return self._info(option, data)
        else:
            self._reply(option, nbd.REP_ERR_UNSUP)
        return None

    def _reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self._sock.sendall(nbd.OPTION_REPLY.pack(nbd.OPTION_REPLY_MAGIC, option, kind, len(data)) + data)

    def _export_name(self, name: bytes) -> bool:
        # This option has no way to say no but to hang up.
        if name not in (b"", self._name):
            raise Disconnected(f"export {name!r}")
        tail = nbd.EXPORT_ZEROES if self._zeroes else b""
        self._sock.sendall(nbd.EXPORT_NAME_REPLY.pack(self._size_bytes, _FLAGS) + tail)
        return True

    def _list(self, option: int, data: bytes) -> None:
        if data:
            self._reply(option, nbd.REP_ERR_INVALID, b"LIST carries no data")
            return
        self._reply(option, nbd.REP_SERVER, struct.pack(">I", len(self._name)) + self._name)
        self._reply(option, nbd.REP_ACK)

    def _info(self, option: int, data: bytes) -> bool | None:
        request = _parse_info(data)
        if request is None:
            self._reply(option, nbd.REP_ERR_INVALID, b"lengths do not add up")
            return None
        name, wanted = request
        if name not in (b"", self._name):
            self._reply(option, nbd.REP_ERR_UNKNOWN, b"no such export")
            return None
        export = nbd.INFO_EXPORT.pack(nbd.INFO_TYPE_EXPORT, self._size_bytes, _FLAGS)
        self._reply(option, nbd.REP_INFO, export)
        if nbd.INFO_TYPE_BLOCK_SIZE in wanted:
            sizes = (nbd.MINIMUM_BLOCK, nbd.PREFERRED_BLOCK, nbd.MAXIMUM_BLOCK)
            self._reply(option, nbd.REP_INFO, nbd.INFO_BLOCK_SIZE.pack(nbd.INFO_TYPE_BLOCK_SIZE, *sizes))
        self._reply(option, nbd.REP_ACK)
        return True if option == nbd.OPT_GO else None


def _parse_info(data: bytes) -> tuple[bytes, tuple[int, ...]] | None:
    """(export name, wanted information types) of INFO and GO; None when the lengths do not add
    up."""
    if len(data) < 6:
        return None
    (name_bytes,) = struct.unpack_from(">I", data)
    if name_bytes > len(data) - 6:
        return None
    name = data[4 : 4 + name_bytes]
    (count,) = struct.unpack_from(">H", data, 4 + name_bytes)
    if len(data) != 6 + name_bytes + 2 * count:
        return None
    return name, struct.unpack_from(f">{count}H", data, 6 + name_bytes)
