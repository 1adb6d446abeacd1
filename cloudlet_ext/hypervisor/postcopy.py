# SPDX-License-Identifier: Apache-2.0
"""Early start: the virtual source of a post-copy migration.

The device state goes first and the guest runs at once. A page that it touches and that is not there stops only
the vCPU that touched it; QEMU asks for the page on the return path and gets it ahead of the rest, which is pushed in
the background. Every page is sent once. Pages that are zero are sent only when they are asked for: at the end QEMU
gives up watching the RAM, and what was never sent is anonymous memory, which reads as zero.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.hypervisor import errors, stream
from cloudlet_ext.hypervisor.device_state import DeviceState
from cloudlet_ext.hypervisor.resume import send_all

Pages = NDArray[np.int64]
"""Page numbers, counted through all blocks in order."""

PUSH_PAGES = 32
"""Pages pushed between two looks at the requests: 128 KiB, about a millisecond of QEMU's work."""

SEND_BUFFER_BYTES = 128 << 10
"""What may wait in the socket ahead of a page that the guest asks for."""

_SHUT_TIMEOUT_S = 60.0

_LOADED = struct.pack(">I", 3)
"""What is sent with the ping behind the devices, and comes back when they are loaded."""

# Payloads of the return path: a status; offset and length in bytes, in RP_REQ_PAGES_ID followed by a block's name.
_SHUT, _REQUEST = struct.Struct(">I"), struct.Struct(">QI")


class PageSupply(Protocol):
    """Where the pages come from."""

    def ready(self, pages: Pages) -> NDArray[np.bool_]:
        """Which pages can be given without waiting."""
        ...

    def zero(self, pages: Pages) -> NDArray[np.bool_]:
        """Which pages are known to hold only zeros (these are always ready)."""
        ...

    def contents(self, pages: Pages) -> NDArray[np.uint8]:
        """Content of pages that are ready, shape (n, 4096)."""
        ...

    def want(self, pages: Pages) -> None:
        """The guest waits for these: get them before all others."""
        ...

    def push(self, limit: int) -> Pages:
        """Up to ``limit`` pages that are ready, not zero, and were not given by this call before."""
        ...

    def exhausted(self) -> bool:
        """Whether ``push`` has given every page that is not zero."""
        ...


class PostcopySource:
    """Feeds one QEMU over one connection. ``run`` returns when every page is there."""

    def __init__(
        self,
        connection: socket.socket,
        blocks: tuple[stream.RamBlock, ...],
        state: DeviceState,
        supply: PageSupply,
        *,
        on_request: Callable[[Pages], None] | None = None,
    ) -> None:
        self._connection = connection
        self._blocks = blocks
        self._state = state
        self._supply = supply
        self._on_request = on_request
        self._starts = np.cumsum([0, *(block.pages for block in blocks)])
        self._by_name = {block.name: number for number, block in enumerate(blocks)}
        self._sent = np.zeros(int(self._starts[-1]), dtype=np.bool_)
        self._changed = threading.Condition()
        self._requests: deque[Pages] = deque()
        self._awaited = np.empty(0, dtype=np.int64)
        self._roms: deque[tuple[str, Pages]] = deque()
        self._rom_pages: set[tuple[str, int]] = set()
        self._shut: int | None = None
        self._failure: BaseException | None = None
        self._stopped = False
        self._is_loaded = False
        self._last_block: str | None = None
        self.pages_requested = 0
        self.pages_sent = 0
        self.hold_push = False
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        connection.settimeout(None)

    def start(self) -> None:
        """Send everything up to the point where the guest runs."""
        pieces = [
            stream.MAGIC,
            self._state.configuration,
            stream.command(stream.CMD_OPEN_RETURN_PATH),
            stream.command(stream.CMD_POSTCOPY_ADVISE, struct.pack(">QQ", stream.PAGE_BYTES, stream.PAGE_BYTES)),
            stream.ram_start(self._blocks),
            stream.command(stream.CMD_SWITCHOVER_START),
        ]
        for block in self._blocks:
            name = b"\0" + stream.string(block.name) + b"\0"
            payload = name + struct.pack(">QQ", 0, block.size_bytes)
            pieces.append(stream.command(stream.CMD_POSTCOPY_RAM_DISCARD, payload))
        package = b"".join(
            [
                stream.command(stream.CMD_POSTCOPY_LISTEN),
                self._state.devices,
                stream.command(stream.CMD_PING, _LOADED),
                stream.command(stream.CMD_POSTCOPY_RUN),
            ]
        )
        pieces.append(stream.command(stream.CMD_PACKAGED, struct.pack(">I", len(package))))
        pieces.append(package)
        threading.Thread(target=self._listen, name="return-path", daemon=True).start()
        send_all(self._connection, [b"".join(pieces)])

    def wake(self) -> None:
        """Tell the source that more pages have become ready."""
        with self._changed:
            self._changed.notify_all()

    def stop(self) -> None:
        """End ``run`` from another thread, for instance because the supply has failed."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def run(self) -> None:
        """Serve and push until every page was sent and QEMU has confirmed the end."""
        while True:
            self._check()
            if self._serve():
                continue
            if self._push():
                continue
            with self._changed:
                if self._requests or self._roms or self._failure or self._stopped or self._shut is not None:
                    continue
                # QEMU ends its part only when the devices are loaded. They may need pages of zeros, which it asks for.
                is_all = self._supply.exhausted() and not len(self._awaited) and not self.hold_push
                if is_all and self._is_loaded:
                    break
                if not self._supply.ready(self._awaited).any():
                    self._changed.wait(0.05)
        send_all(self._connection, [*stream.ram_section(stream.END, []), b"\0"])
        self._wait_shut()

    def _check(self) -> None:
        if self._stopped:
            raise errors.ResumeFailed(reason="stopped")
        if self._failure is not None:
            raise errors.ResumeFailed(reason=f"QEMU left: {self._failure}") from self._failure
        if self._shut is not None:
            raise errors.ResumeFailed(reason=f"QEMU ended the stream early, with status {self._shut}")

    def _serve(self) -> bool:
        """Send what was asked for and is ready; whether there was anything."""
        self._serve_roms()
        fresh = self._take_requests()
        if len(fresh):
            self.pages_requested += len(fresh)
            if self._on_request is not None:
                self._on_request(fresh)
            fresh = fresh[~self._sent[fresh] & ~np.isin(fresh, self._awaited)]
            missing = fresh[~self._supply.ready(fresh)]
            if len(missing):
                self._supply.want(missing)
            self._awaited = np.concatenate((self._awaited, fresh))
        if not len(self._awaited):
            return False
        ready = self._supply.ready(self._awaited)
        if not ready.any():
            return False
        now, self._awaited = self._awaited[ready], self._awaited[~ready]
        self._send(now)
        return True

    def _take_requests(self) -> Pages:
        with self._changed:
            if not self._requests:
                return np.empty(0, dtype=np.int64)
            pages = np.concatenate(list(self._requests))
            self._requests.clear()
        _, first = np.unique(pages, return_index=True)
        return pages[np.sort(first)]

    def _push(self) -> bool:
        if self.hold_push:
            return False
        pages = self._supply.push(PUSH_PAGES)
        if not len(pages):
            return False
        self._send(pages)
        return True

    def _send(self, pages: Pages) -> None:
        pages = pages[~self._sent[pages]]
        if not len(pages):
            return
        self._sent[pages] = True
        self.pages_sent += len(pages)
        records: list[bytes | memoryview] = []
        owners = np.searchsorted(self._starts, pages, side="right") - 1
        for number in np.unique(owners):
            mine = pages[owners == number]
            name, start = self._blocks[number].name, self._starts[number]
            zero = self._supply.zero(mine)
            records += stream.zero_records(name, mine[zero] - start)
            full = mine[~zero]
            if len(full):
                records += stream.page_records(name, full - start, self._supply.contents(full))
        pieces = stream.ram_section(stream.PART, records)
        send_all(self._connection, [b"".join(pieces)])

    def _listen(self) -> None:
        """Thread: read the return path."""
        try:
            with self._connection.makefile("rb", buffering=4096) as path:
                while self._message(path.read):
                    pass
        except (OSError, ValueError, errors.HypervisorError) as failure:
            self._fail(failure)

    def _fail(self, failure: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()

    def _message(self, read: Callable[[int], bytes]) -> bool:
        head = read(4)
        if len(head) < 4:
            if self._shut is None:
                self._fail(ConnectionError("the return path was closed"))
            return False
        kind, length = struct.unpack(">HH", head)
        payload = read(length)
        if len(payload) < length:
            self._fail(ConnectionError("the return path was closed in the middle of a message"))
            return False
        if kind == stream.RP_SHUT and length == _SHUT.size:
            with self._changed:
                (self._shut,) = _SHUT.unpack(payload)
                self._changed.notify_all()
            return False
        if kind == stream.RP_PONG and payload == _LOADED:
            with self._changed:
                self._is_loaded = True
                self._changed.notify_all()
        elif kind in (stream.RP_REQ_PAGES, stream.RP_REQ_PAGES_ID) and length >= _REQUEST.size:
            self._request(kind, payload)
        elif kind not in (stream.RP_PONG, stream.RP_SWITCHOVER_ACK):
            raise errors.BadStream(offset=0, reason=f"message {kind} of {length} bytes on the return path")
        return True

    def _request(self, kind: int, payload: bytes) -> None:
        offset, length = _REQUEST.unpack_from(payload)
        if kind == stream.RP_REQ_PAGES_ID:
            name = payload[_REQUEST.size :]
            self._last_block = name[1 : 1 + name[0]].decode(errors="backslashreplace") if name else ""
        number = self._by_name.get(self._last_block or "")
        if number is None and (self._last_block or "").endswith(stream.ROM):
            self._request_rom(str(self._last_block), offset, length)
            return
        if number is None or not length or offset + length > self._blocks[number].size_bytes:
            raise errors.BadStream(offset=0, reason=f"request for {length} bytes at {offset} of {self._last_block}")
        start, page = int(self._starts[number]), stream.PAGE_BYTES
        pages = np.arange(start + offset // page, start - (-(offset + length) // page), dtype=np.int64)
        with self._changed:
            self._requests.append(pages)
            self._changed.notify_all()

    def _request_rom(self, block: str, offset: int, length: int) -> None:
        """A page of a ROM that the base has not: zeros, which no firmware takes for a ROM. QEMU has emptied its own."""
        first, page = offset // stream.PAGE_BYTES, stream.PAGE_BYTES
        with self._changed:
            self._roms.append((block, np.arange(first, -(-(offset + length) // page), dtype=np.int64)))
            self._changed.notify_all()

    def _serve_roms(self) -> None:
        while self._roms:
            block, pages = self._roms.popleft()
            fresh = np.array([page for page in pages if (block, page) not in self._rom_pages], dtype=np.int64)
            self._rom_pages.update((block, page) for page in fresh)
            pieces = stream.ram_section(stream.PART, stream.zero_records(block, fresh))
            send_all(self._connection, [b"".join(pieces)])

    def _wait_shut(self) -> None:
        deadline = time.monotonic() + _SHUT_TIMEOUT_S
        with self._changed:
            while self._shut is None and self._failure is None:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise errors.ResumeFailed(reason="QEMU did not confirm the end of the stream")
        if self._shut:
            raise errors.ResumeFailed(reason=f"QEMU reports status {self._shut} at the end of the stream")
        if self._shut is None:
            self._check()
