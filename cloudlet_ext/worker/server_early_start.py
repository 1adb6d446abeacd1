# SPDX-License-Identifier: Apache-2.0
"""Early start of a server of this package's own: its QEMU, its disk, its probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.chunks import CHUNK_BYTES
from cloudlet_ext.engine.fetch import Fetcher
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer
from cloudlet_ext.engine.view import TargetView
from cloudlet_ext.hypervisor import command_line
from cloudlet_ext.hypervisor.nbd import NbdServer
from cloudlet_ext.worker import layer, probe, server, starting
from cloudlet_ext.worker.arrival import Arrival
from cloudlet_ext.worker.arriving_chunks import ArrivingChunks
from cloudlet_ext.worker.early_start import POSTCOPY, Feed
from cloudlet_ext.worker.recorder import Recorder

VIEW_SOCKET = "view.sock"


@dataclass(frozen=True)
class Waiting:
    """What is asked of a server: ports to forward (guest -> host), and the probe that must have its answer in time."""

    forwards: dict[int, int]
    probe: probe.Probe | None
    timeout_s: float


def launch(guest: server.Server, base: Base) -> None:
    """Start QEMU with plain RAM on an empty disk layer; the NBD server must be there.

    The backing that the layer names is the one that will be there at the end.
    """
    disk = guest.folder / server.DISK_NAME
    Qcow2Writer.create(disk, base.layout.disk_bytes, backing=server.FILL_NAME).close()

    files = replace(starting.base_files(base, memory=False), view_socket=Path(VIEW_SOCKET))
    guest.launch(files, incoming=True)
    guest.monitor.execute("migrate-set-capabilities", capabilities=POSTCOPY)


def prepare(guest: server.Server, waiting: Waiting) -> None:
    """Forward the ports that were asked for and those that the probe needs."""
    for guest_port, host_port in waiting.forwards.items():
        guest.forward(guest_port, host_port)
    if waiting.probe is not None:
        waiting.probe.prepare(guest)


class Disk:
    """The disk below the guest's own layer: an NBD server whose reads wait for what is not here."""

    def __init__(self, guest: server.Server, base: Base, recorder: Recorder | None) -> None:
        self._chunks = ArrivingChunks()
        self._nbd = NbdServer(
            guest.folder / VIEW_SOCKET,
            base.layout.disk_bytes,
            self._read,
            name="disk",
            on_read=recorder.disk if recorder else None,
        )

    def show(self, view: TargetView, fetcher: Fetcher) -> None:
        """From now on it is known what the disk holds."""
        self._chunks.show(view, fetcher)

    def _read(self, offset: int, length: int) -> memoryview:
        numbers = np.arange(offset // CHUNK_BYTES, (offset + length) // CHUNK_BYTES, dtype=np.int64)
        return memoryview(np.ascontiguousarray(self._chunks.read(numbers))).cast("B")

    def close(self) -> None:
        """End the server; reads that still wait fail."""
        self._chunks.close()
        self._nbd.close()


class ServerHost:
    """Runs a server that starts early; see :class:`cloudlet_ext.worker.early_start.Host`."""

    def __init__(self, guest: server.Server, disk: Disk, launched: Callable[[], None], waiting: Waiting) -> None:
        self._guest, self._disk, self._launched, self._waiting = guest, disk, launched, waiting

    def show(self, view: TargetView, fetcher: Fetcher) -> None:
        """What the disk holds."""
        self._disk.show(view, fetcher)

    def ready(self) -> None:
        """Wait for the thread that starts QEMU; forward ports."""
        self._launched()
        prepare(self._guest, self._waiting)

    def proceed(self, ask: Callable[[str], Any]) -> None:
        """It runs."""
        ask("cont")

    def reply(self, feed: Feed) -> bytes | None:
        """Wait for the probe; time in which the guest stands still because nothing arrives does not count."""
        waiting = self._waiting
        if waiting.probe is None:
            return None
        return probe.wait(waiting.probe, self._guest, waiting.timeout_s, feed.check, feed.stalled_s).content

    def keep_disk(self, run: Arrival) -> None:
        """Write the overlay's disk part to a layer of its own and put it below the guest's, for the NBD server."""
        guest, monitor = self._guest, self._guest.monitor
        fill = guest.folder / server.FILL_NAME
        layer.write_layer(run.view, run.base, fill)
        monitor.execute("blockdev-add", **command_line.base_node(run.base.disk_path, "qcow2"))
        node = command_line.file_node(
            Path(server.FILL_NAME), "qcow2", command_line.FILL_NODE, backing=command_line.BASE_NODE
        )
        node["read-only"] = node["file"]["read-only"] = True
        monitor.execute("blockdev-add", **node)
        top = command_line.top_node(Path(server.DISK_NAME), command_line.FILL_NODE)
        monitor.execute("blockdev-reopen", options=[top])
        monitor.execute("blockdev-del", node_name=command_line.VIEW_NODE)
        guest.update(layers=(server.DISK_NAME, server.FILL_NAME))
