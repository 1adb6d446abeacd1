# SPDX-License-Identifier: Apache-2.0
"""The virtual source of an ordinary (pre-copy) migration: device state and those pages that differ.

Meant for a QEMU whose RAM is a private map of a base's page file: what is not sent keeps the base's content.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.hypervisor import errors, stream, unix_socket
from cloudlet_ext.hypervisor.device_state import DeviceState

PageRun = tuple[str, NDArray[np.int64], NDArray[np.uint8] | None]
"""Block name, page numbers in it, contents (n, 4096); None: these pages are zero."""

_TIMEOUT_S = 60.0


def connect(socket_path: Path, timeout_s: float = _TIMEOUT_S) -> socket.socket:
    """Connect to the unix socket on which QEMU waits for a migration."""
    try:
        return unix_socket.connect(socket_path, timeout_s)
    except OSError as failure:
        raise errors.ResumeFailed(reason=f"no connection to {socket_path.name}: {failure}") from failure


def send_all(connection: socket.socket, pieces: Iterable[bytes | memoryview]) -> None:
    """Send pieces of stream; :class:`errors.ResumeFailed` when QEMU does not take them."""
    try:
        for piece in pieces:
            connection.sendall(piece)
    except OSError as failure:
        raise errors.ResumeFailed(reason=f"QEMU stopped reading the stream: {failure}") from failure


def resume(
    connection: socket.socket,
    blocks: tuple[stream.RamBlock, ...],
    state: DeviceState,
    changes: Iterable[PageRun],
) -> int:
    """Send a whole machine over ``connection`` and wait until QEMU has closed it; bytes sent.

    The caller asks the monitor afterwards whether the load went well: without a return path QEMU
    only closes the connection.
    """
    sent = 0

    def counted(pieces: Iterable[bytes | memoryview]) -> Iterable[bytes | memoryview]:
        nonlocal sent
        for piece in pieces:
            sent += len(piece)
            yield piece

    send_all(connection, counted([stream.MAGIC, state.configuration, stream.ram_start(blocks)]))
    for block, pages, contents in changes:
        if contents is None:
            records = stream.zero_records(block, pages)
        else:
            records = stream.page_records(block, pages, contents)
        send_all(connection, counted(stream.ram_section(stream.PART, records)))
    send_all(connection, counted([*stream.ram_section(stream.END, []), state.devices, b"\0", stream.NO_DESCRIPTION]))
    _wait_for_close(connection)
    return sent


def _wait_for_close(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    except TimeoutError as failure:
        raise errors.ResumeFailed(reason="QEMU did not finish loading the stream in time") from failure
    except ConnectionError:
        pass
