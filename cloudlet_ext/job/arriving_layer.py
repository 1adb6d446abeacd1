# SPDX-License-Identifier: Apache-2.0
"""Arriving layer: the overlay's disk part, shown to QEMU as a qcow2 file before it is here.

The guest's own image lies above it, the image of the base's disk below it. When all has arrived libvirt copies its
clusters into the guest's own image, which is then what it would be after an ordinary boot: one layer over the image of
the base's disk.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from cloudlet_ext.engine.chunks import Chunks, Numbers
from cloudlet_ext.engine.fetch import Fetcher
from cloudlet_ext.engine.layout import Layout
from cloudlet_ext.engine.qcow2_view import Qcow2View
from cloudlet_ext.engine.table import ChunkTable
from cloudlet_ext.engine.view import TargetView
from cloudlet_ext.hypervisor import unix_socket
from cloudlet_ext.hypervisor.domain_xml import DiskView
from cloudlet_ext.hypervisor.nbd import NbdServer
from cloudlet_ext.worker.arriving_chunks import ArrivingChunks

_EXPORT = "overlay"
_SOCKET = "layer.sock"


class ArrivingLayer:
    """The file, its content as far as it is here, and the NBD server that shows it."""

    def __init__(
        self,
        folder: Path,
        scratch: Path,
        table: ChunkTable,
        layout: Layout,
        on_read: Callable[[Numbers], None] | None = None,
    ) -> None:
        """``on_read`` hears which chunks of the disk are read."""
        self._on_read = on_read
        self._chunks = ArrivingChunks()
        self._file = Qcow2View(scratch / "layer.qcow2", table, layout.disk_chunks)
        self._socket = folder / _SOCKET
        try:
            self._nbd = NbdServer(
                self._socket, self._file.file_bytes, self._read, name=_EXPORT, mode=unix_socket.SHARED
            )
        except BaseException:
            self._file.close()
            raise

    def view(self, base: str, base_format: str) -> DiskView:
        """How the domain is to open it, over the image ``base``."""
        return DiskView(self._socket, _EXPORT, Path(base), base_format)

    def show(self, view: TargetView, fetcher: Fetcher) -> None:
        """From now on it is known what it holds."""
        self._chunks.show(view, fetcher)

    def _read(self, offset: int, length: int) -> memoryview:
        return memoryview(np.ascontiguousarray(self._file.read(offset, length, self._read_chunks))).cast("B")

    def _read_chunks(self, numbers: Numbers) -> Chunks:
        if self._on_read is not None:
            self._on_read(numbers)
        return self._chunks.read(numbers)

    def close(self) -> None:
        """End the server; reads that still wait fail."""
        self._chunks.close()
        self._nbd.close()
        self._file.close()
