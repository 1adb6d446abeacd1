# SPDX-License-Identifier: Apache-2.0
"""The destination of a post-copy migration, small: reads the stream strictly, asks for pages, confirms the end."""

from __future__ import annotations

import socket
import struct
import threading

from cloudlet_ext.hypervisor import stream
from cloudlet_ext.hypervisor.device_state import DeviceState
from cloudlet_ext.hypervisor.stream import PAGE_BYTES, RamBlock

WAIT_S = 30.0


class FakeQemu(threading.Thread):
    """``pages``: (block, page, content or None for zeros) in order of arrival; ``error`` is what ended it early."""

    def __init__(self, connection: socket.socket, blocks: tuple[RamBlock, ...], state: DeviceState) -> None:
        super().__init__(name="fake-qemu", daemon=True)
        connection.settimeout(WAIT_S)
        self._connection, self._blocks, self._state = connection, blocks, state
        self._file = connection.makefile("rb")
        self._changed = threading.Condition()
        self.pages: list[tuple[str, int, bytes | None]] = []
        self.sections = 0
        self.runs = threading.Event()
        self.loads = True
        self.leave_after_sections: int | None = None
        self.status: int | None = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._prologue()
            self.runs.set()
            while self._section():
                if self.leave_after_sections is not None and self.sections >= self.leave_after_sections:
                    self.leave()
                    return
            self._expect(b"\0")
            if self.status is not None:
                self.shut(self.status)
        except (OSError, AssertionError, struct.error) as error:
            self.error = error
        finally:
            with self._changed:
                self._changed.notify_all()

    def request(self, block: str | None, page: int, count: int = 1) -> None:
        """Ask for pages; None: of the block that was asked for last."""
        payload = struct.pack(">QI", page * PAGE_BYTES, count * PAGE_BYTES)
        kind = stream.RP_REQ_PAGES
        if block is not None:
            payload += stream.string(block)
            kind = stream.RP_REQ_PAGES_ID
        self.message(kind, payload)

    def message(self, kind: int, payload: bytes) -> None:
        self._connection.sendall(struct.pack(">HH", kind, len(payload)) + payload)

    def shut(self, status: int) -> None:
        self.message(stream.RP_SHUT, struct.pack(">I", status))

    def loaded(self) -> None:
        """Say that the devices are loaded."""
        self.message(stream.RP_PONG, struct.pack(">I", 3))

    def leave(self) -> None:
        """Hang up, at once."""
        self._connection.shutdown(socket.SHUT_RDWR)
        self._file.close()
        self._connection.close()

    def wait_pages(self, count: int) -> list[tuple[str, int, bytes | None]]:
        """Wait until ``count`` pages have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.pages) >= count or self.error, WAIT_S)
            assert self.error is None, self.error
            return list(self.pages)

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise ConnectionError("the source left")
        return data

    def _expect(self, data: bytes) -> None:
        found = self._read(len(data))
        assert found == data, f"{found!r} where {data!r} is expected"

    def _command(self, number: int) -> bytes:
        kind, found, length = struct.unpack(">BHH", self._read(5))
        assert (kind, found) == (stream.COMMAND, number)
        return self._read(length)

    def _prologue(self) -> None:
        self._expect(stream.MAGIC + self._state.configuration)
        assert self._command(stream.CMD_OPEN_RETURN_PATH) == b""
        assert self._command(stream.CMD_POSTCOPY_ADVISE) == struct.pack(">QQ", PAGE_BYTES, PAGE_BYTES)
        self._expect(stream.ram_start(self._blocks))
        assert self._command(stream.CMD_SWITCHOVER_START) == b""
        for block in self._blocks:
            whole = struct.pack(">QQ", 0, block.size_bytes)
            assert self._command(stream.CMD_POSTCOPY_RAM_DISCARD) == b"\0" + stream.string(block.name) + b"\0" + whole
        (length,) = struct.unpack(">I", self._command(stream.CMD_PACKAGED))
        listen = stream.command(stream.CMD_POSTCOPY_LISTEN)
        ping = stream.command(stream.CMD_PING, struct.pack(">I", 3))
        run = stream.command(stream.CMD_POSTCOPY_RUN)
        assert self._read(length) == listen + self._state.devices + ping + run
        if self.loads:
            self.loaded()

    def _section(self) -> bool:
        """One section; False after the last."""
        kind, number = struct.unpack(">BI", self._read(5))
        assert number == stream.RAM_SECTION_ID
        block = ""
        while True:
            (header,) = struct.unpack(">Q", self._read(8))
            flags = header & stream.RAM_FLAGS_MASK
            if flags == stream.RAM_EOS:
                break
            if not flags & stream.RAM_CONTINUE:
                block = self._read(self._read(1)[0]).decode()
            page: bytes | None = None
            if flags & stream.RAM_PAGE:
                page = self._read(PAGE_BYTES)
            else:
                assert flags & stream.RAM_ZERO
                self._expect(b"\0")
            with self._changed:
                self.pages.append((block, header // PAGE_BYTES, page))
                self._changed.notify_all()
        self._expect(stream.footer(stream.RAM_SECTION_ID))
        self.sections += 1
        assert kind in (stream.PART, stream.END)
        return kind == stream.PART
