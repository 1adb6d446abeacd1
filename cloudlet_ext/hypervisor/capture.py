# SPDX-License-Identifier: Apache-2.0
"""Capture: the virtual destination of a migration.

QEMU writes its stream to a unix socket. :class:`StreamDrain` takes the bytes off as fast as they come and lays them
into an unlinked file, so that the guest, when it has to pause, pauses only for that; :func:`parse` then reads the
file through a map, a whole run of records at a time. Where a page was sent more than once, the last one counts.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import mmap
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.hypervisor import errors, stream, unix_socket
from cloudlet_ext.hypervisor.device_state import DeviceState

_RECEIVE_BYTES = 1 << 20
_HEAD_BYTES = 1 << 16
"""In which the memory blocks are named: a guest has some ten."""
_CLOSE_LIMIT_S = 5.0
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class StreamDrain:
    """Takes one migration stream from a unix socket into an unlinked file.

    The socket is listening when the constructor returns. ``released`` holds the drain back: nothing is read until
    it is set, which makes QEMU wait.
    """

    def __init__(self, socket_path: Path, directory: Path) -> None:
        self._path, self._directory = socket_path, directory
        self.bytes_drained = 0
        self.released = threading.Event()
        self.released.set()
        self._failure: BaseException | None = None
        self._connection: socket.socket | None = None
        self._closing = False
        with contextlib.ExitStack() as stack:
            self._file = stack.enter_context(tempfile.TemporaryFile(dir=directory, prefix="stream-"))
            self._listener = stack.enter_context(unix_socket.listen(socket_path, 1))
            stack.pop_all()
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # The connection is closed last: QEMU would tell of that before there is a failure to tell of.
        with contextlib.ExitStack() as stack:
            try:
                self._connection = stack.enter_context(self._listener.accept()[0])
                if not self._closing:
                    self._drain(self._connection)
            except BaseException as failure:  # noqa: BLE001 - raised again in check()
                self._failure = failure

    def _drain(self, connection: socket.socket) -> None:
        descriptor = self._file.fileno()
        buffer = memoryview(bytearray(_RECEIVE_BYTES))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
        while True:
            self.released.wait()
            got = connection.recv_into(buffer)
            if not got:
                return
            piece = buffer[:got]
            while piece:
                written = os.pwrite(descriptor, piece, self.bytes_drained)
                self.bytes_drained += written
                piece = piece[written:]

    def check(self) -> None:
        """Raise what ended the drain early: :class:`errors.ScratchFull`, else :class:`errors.CaptureFailed`."""
        failure = self._failure
        if failure is None:
            return
        if isinstance(failure, OSError) and failure.errno in _NO_SPACE:
            raise errors.ScratchFull(path=str(self._directory), what="the guest's state") from failure
        raise errors.CaptureFailed(reason=str(failure)) from failure

    def head(self) -> bytes:
        """The beginning of the stream, as far as it is there."""
        return os.pread(self._file.fileno(), min(_HEAD_BYTES, self.bytes_drained), 0)

    def finish(self, timeout_s: float) -> mmap.mmap:
        """Wait until QEMU has closed the stream; the whole of it as a map."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise errors.CaptureFailed(reason=f"the stream did not end within {timeout_s:.0f} s")
        self.check()
        if not self.bytes_drained:
            raise errors.CaptureFailed(reason="QEMU sent nothing")
        return mmap.mmap(self._file.fileno(), self.bytes_drained, prot=mmap.PROT_READ)

    def close(self) -> None:
        """End the thread, remove the socket and the file."""
        self._closing = True
        self.released.set()
        for end in (self._listener, self._connection):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        # Before the file is closed: its descriptor's number may be another file's next.
        self._thread.join(_CLOSE_LIMIT_S)
        self._listener.close()
        self._file.close()
        self._path.unlink(missing_ok=True)


_UNKNOWN, _ZERO = 0, -1
_PIECE_PAGES = 1 << 16
_DESCRIPTION = bytes([stream.EOF, stream.VMDESC])


@dataclass(frozen=True)
class CapturedMemory:
    """All pages of a captured stream.

    ``where[n]`` is the place of the content of page ``n`` in the stream, -1 for a page of zeros, 0 for a page that was
    never sent (the guest had told that it is free). Pages are numbered through all blocks in order. It lies in a file
    without a name, as the stream does: a guest may have millions of pages.
    """

    blocks: tuple[stream.RamBlock, ...]
    where: NDArray[np.int64]
    data: mmap.mmap

    @property
    def pages(self) -> int:
        """Pages of all blocks."""
        return len(self.where)

    def sent(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Numbers of all pages that were sent, ascending, and which of them are zero; some at a time."""
        for first in range(0, self.pages, _PIECE_PAGES):
            where = self.where[first : first + _PIECE_PAGES]
            inner = np.flatnonzero(where != _UNKNOWN)
            if len(inner):
                yield first + inner, where[inner] == _ZERO

    def renamed(self, names: Mapping[str, str]) -> CapturedMemory:
        """The same with other names for blocks."""
        blocks = (replace(block, name=names.get(block.name, block.name)) for block in self.blocks)
        return replace(self, blocks=tuple(blocks))

    def read(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Content of pages, shape (n, 4096)."""
        out = np.zeros((len(numbers), stream.PAGE_BYTES), dtype=np.uint8)
        places = self.where[numbers]
        stride = stream.PAGE_RECORD.itemsize
        # A place that is none may be as far from the next one as two pages of a run are.
        edges = np.flatnonzero((np.diff(places) != stride) | (places[:-1] <= 0)) + 1
        for first, last in itertools.pairwise([0, *edges.tolist(), len(numbers)]):
            if first < last and places[first] > 0:
                out[first:last] = np.ndarray(
                    (last - first, stream.PAGE_BYTES), np.uint8, self.data, int(places[first]), (stride, 1)
                )
        return out


class _Parser:
    """Walks over a drained stream once."""

    def __init__(self, data: mmap.mmap | bytes, directory: Path) -> None:
        self.data, self._directory = data, directory
        self.at = 0
        self.ram_section: int | None = None
        self.blocks: tuple[stream.RamBlock, ...] = ()
        self.first_page: dict[str, int] = {}
        self.where = np.zeros(0, dtype=np.int64)
        self.block = ""

    def fail(self, reason: str) -> errors.BadStream:
        return errors.BadStream(offset=self.at, reason=reason)

    def take(self, layout: str) -> tuple[int, ...]:
        size = struct.calcsize(layout)
        if self.at + size > len(self.data):
            raise self.fail("the stream ends in the middle of a field")
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += size
        return values

    def take_bytes(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise self.fail(f"{count} bytes expected, the stream ends")
        self.at += count
        return self.data[self.at - count : self.at]

    def take_string(self) -> str:
        (length,) = self.take(">B")
        return self.take_bytes(length).decode(errors="backslashreplace")

    def configuration(self) -> bytes:
        """The configuration section behind the magic: machine type and subsections, up to the first RAM section."""
        if self.take_bytes(len(stream.MAGIC)) != stream.MAGIC:
            raise self.fail("not a migration stream of version 3")
        begin = self.at
        kind, length = self.take(">BI")
        if kind != stream.CONFIGURATION:
            raise self.fail(f"configuration section expected, found type {kind:#x}")
        self.take_bytes(length)
        while self.data[self.at : self.at + 1] == bytes([stream.SUBSECTION]):
            self._skip_configuration_subsection()
        return self.data[begin : self.at]

    def _skip_configuration_subsection(self) -> None:
        self.take(">B")
        name = self.take_string()
        self.take(">I")
        if name == "configuration/target-page-bits":
            self.take(">I")
        elif name == "configuration/uuid":
            self.take_bytes(16)
        elif name == "configuration/capabilities":
            (count,) = self.take(">I")
            for _ in range(count):
                self.take_string()
        else:
            raise self.fail(f"unknown subsection {name!r} of the configuration")

    def _section(self) -> int:
        """The type of the next section that is no command."""
        while True:
            (kind,) = self.take(">B")
            if kind != stream.COMMAND:
                return kind
            _, length = self.take(">HH")
            self.take_bytes(length)

    def first_blocks(self) -> tuple[stream.RamBlock, ...]:
        """The blocks that the first section names, which is that of RAM."""
        kind = self._section()
        self.take(">I")
        self.take_string()
        _, _, header = self.take(">IIQ")
        if kind != stream.START or not header & stream.RAM_MEM_SIZE:
            raise self.fail("a section that names memory blocks expected")
        return self._named(header & ~stream.RAM_FLAGS_MASK)

    def sections(self) -> None:
        """All sections up to the end of RAM."""
        while True:
            kind = self._section()
            if kind not in (stream.START, stream.PART, stream.END):
                raise self.fail(f"section type {kind:#x} before the end of RAM")
            (number,) = self.take(">I")
            if kind == stream.START:
                name = self.take_string()
                self.take(">II")
                if name != "ram":
                    raise self.fail(f"live section {name!r}: only RAM is understood")
                self.ram_section = number
            elif number != self.ram_section:
                raise self.fail(f"section {number} was never opened")
            self.records()
            if self.take(">BI") != (stream.FOOTER, number):
                raise self.fail("section without its end mark")
            if kind == stream.END:
                if not self.blocks:
                    raise self.fail("the stream names no memory block")
                return

    def records(self) -> None:
        """The records of one RAM section."""
        while True:
            (header,) = self.take(">Q")
            flags = header & stream.RAM_FLAGS_MASK
            if flags & stream.RAM_EOS:
                return
            if flags & stream.RAM_MEM_SIZE:
                self._blocks(header & ~stream.RAM_FLAGS_MASK)
            elif flags & stream.RAM_PAGE:
                self._run(header, flags, stream.RAM_PAGE, stream.PAGE_RECORD.itemsize)
            elif flags & stream.RAM_ZERO:
                self._run(header, flags, stream.RAM_ZERO, stream.ZERO_RECORD.itemsize)
            else:
                raise self.fail(f"RAM record with unknown flags {flags:#x}")

    def _blocks(self, total: int) -> None:
        if self.blocks:
            raise self.fail("the memory blocks are named twice")
        self.blocks = self._named(total)
        first = 0
        for block in self.blocks:
            self.first_page[block.name] = first
            first += block.pages
        self.where = _places(first, self._directory)

    def _named(self, total: int) -> tuple[stream.RamBlock, ...]:
        blocks: list[stream.RamBlock] = []
        while total > 0:
            name = self.take_string()
            (size,) = self.take(">Q")
            if not size or size % stream.PAGE_BYTES or size > total:
                raise self.fail(f"block {name!r} of {size} bytes with {total} bytes left to name")
            blocks.append(stream.RamBlock(name, size))
            total -= size
        return tuple(blocks)

    def _run(self, header: int, flags: int, kind: int, stride: int) -> None:
        """One record with its block's name, or a run of records that go on in the same block."""
        if not flags & stream.RAM_CONTINUE:
            self.block = self.take_string()
        if self.block not in self.first_page:
            raise self.fail(f"page of a block {self.block!r} that was never named")
        if self.at + stride - 8 > len(self.data):
            raise self.fail("the stream ends in the middle of a page")
        self._note(np.array([header], dtype=np.uint64), kind, stride, self.at - 8)
        self.at += stride - 8
        wanted = kind | stream.RAM_CONTINUE
        attempt = 8
        while True:
            count = min(attempt, (len(self.data) - self.at) // stride)
            if count <= 0:
                return
            headers = np.ndarray((count,), ">u8", self.data, self.at, (stride,)).astype(np.uint64)
            alien = np.flatnonzero((headers & np.uint64(stream.RAM_FLAGS_MASK)) != wanted)
            length = int(alien[0]) if len(alien) else count
            if length:
                self._note(headers[:length], kind, stride, self.at)
                self.at += length * stride
            if length < count:
                return
            attempt = min(attempt * 4, 1 << 16)

    def _note(self, headers: NDArray[np.uint64], kind: int, stride: int, begin: int) -> None:
        pages = (headers // np.uint64(stream.PAGE_BYTES)).astype(np.int64)
        base = self.first_page[self.block]
        limit = next(block.pages for block in self.blocks if block.name == self.block)
        if pages.max() >= limit:
            raise self.fail(f"page {int(pages.max())} of block {self.block!r}, which has {limit}")
        if kind == stream.RAM_PAGE:
            self.where[base + pages] = begin + 8 + np.arange(len(pages), dtype=np.int64) * stride
        else:
            values = np.ndarray((len(pages),), np.uint8, self.data, begin + 8, (stride,))
            if values.any():
                raise self.fail("page filled with one value other than zero")
            self.where[base + pages] = _ZERO

    def devices(self) -> bytes:
        """Everything after RAM, without the end mark and the JSON description that follows it.

        The sections have no length; the description, which QEMU writes last, tells that they are whole.
        """
        tail = self.data[self.at :]
        place = len(tail)
        while (place := tail.rfind(_DESCRIPTION, 0, place)) >= 0:
            begin = place + len(_DESCRIPTION) + 4
            if begin <= len(tail) and struct.unpack_from(">I", tail, begin - 4)[0] == len(tail) - begin:
                return tail[:place]
        raise self.fail("the device state is cut off: no description of it ends the stream")


def _places(pages: int, directory: Path) -> NDArray[np.int64]:
    """An array of zeros in a file without a name; :class:`errors.ScratchFull`."""
    size = max(1, pages) * np.dtype(np.int64).itemsize
    with tempfile.TemporaryFile(dir=directory, prefix="places-", buffering=0) as file:
        try:
            # Room that is not there is an error here; at a write through the map it would end the process.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as failure:
            if failure.errno in _NO_SPACE:
                raise errors.ScratchFull(path=str(directory), what="the guest's state") from failure
            raise
        return np.frombuffer(mmap.mmap(file.fileno(), size), dtype=np.int64)[:pages]


def blocks_of(head: bytes) -> tuple[stream.RamBlock, ...]:
    """The memory blocks that the beginning of a stream names; :class:`errors.BadStream` where some are missing."""
    parser = _Parser(head, Path())
    parser.configuration()
    return parser.first_blocks()


def parse(data: mmap.mmap, directory: Path) -> tuple[CapturedMemory, DeviceState]:
    """Read a drained stream; ``directory`` is for what has a number for each page.

    :class:`errors.BadStream` names the offset where it makes no sense; :class:`errors.ScratchFull`.
    """
    parser = _Parser(data, directory)
    configuration = parser.configuration()
    parser.sections()
    devices = parser.devices()
    return CapturedMemory(parser.blocks, parser.where, data), DeviceState(configuration, devices)
