# SPDX-License-Identifier: Apache-2.0
"""Early start: the guest runs while its overlay arrives."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.chunks import CHUNK_BYTES, Numbers
from cloudlet_ext.engine.fetch import Fetcher
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer
from cloudlet_ext.engine.source import Source
from cloudlet_ext.engine.view import TargetView
from cloudlet_ext.hypervisor import command_line
from cloudlet_ext.hypervisor.errors import HypervisorError, ResumeFailed
from cloudlet_ext.hypervisor.nbd import NbdServer
from cloudlet_ext.hypervisor.postcopy import PostcopySource
from cloudlet_ext.hypervisor.resume import connect
from cloudlet_ext.worker import errors, layer, pages, probe, server, starting

if TYPE_CHECKING:
    from cloudlet_ext.worker.synthesis import Synthesis

VIEW_SOCKET = "view.sock"
_RUN_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answered:
    """Seconds since the request until the first reply (None: not asked for) and until all was here."""

    first_reply_s: float | None
    resident_s: float
    reply: bytes


class Recorder:
    """Notes which chunks a guest asks for, in order; ``order`` has each once."""

    def __init__(self, disk_chunks: int) -> None:
        self._disk_chunks = disk_chunks
        self._seen: dict[int, None] = {}
        self._lock = threading.Lock()
        self.recording = True

    def pages(self, numbers: Numbers) -> None:
        """Memory pages, counted from the first one."""
        self._note((numbers + self._disk_chunks).tolist())

    def disk(self, offset: int, length: int) -> None:
        """A read of the disk, in bytes."""
        self._note(range(offset // CHUNK_BYTES, -(-(offset + length) // CHUNK_BYTES)))

    def _note(self, numbers: Any) -> None:
        with self._lock:
            if self.recording:
                self._seen.update(dict.fromkeys(numbers))

    @property
    def order(self) -> Numbers:
        """Chunk numbers in order of first need."""
        with self._lock:
            return np.fromiter(self._seen, dtype=np.int64)


def launch(guest: server.Server, base: Base) -> None:
    """Start QEMU with plain RAM on an empty disk layer; the NBD server must be there.

    The backing that the layer names is the one that will be there at the end.
    """
    disk = guest.folder / server.DISK_NAME
    Qcow2Writer.create(disk, base.layout.disk_bytes, backing=server.FILL_NAME).close()

    files = replace(starting.base_files(base, memory=False), view_socket=Path(VIEW_SOCKET))
    guest.launch(files, incoming=True)
    capability = {"capability": "postcopy-ram", "state": True}
    guest.monitor.execute("migrate-set-capabilities", capabilities=[capability])


def prepare(run: Synthesis, waiting: probe.Probe | None) -> None:
    """Forward the ports that were asked for and those that the probe needs."""
    for guest_port, host_port in run.request.forwards.items():
        run.guest.forward(guest_port, host_port)
    if waiting is not None:
        waiting.prepare(run.guest)


class Disk:
    """The disk below the guest's own layer: an NBD server whose reads wait for what is not here."""

    def __init__(self, guest: server.Server, base: Base, recorder: Recorder | None) -> None:
        self._known = threading.Event()
        self._view: TargetView | None = None
        self._fetcher: Fetcher | None = None
        self._nbd = NbdServer(
            guest.folder / VIEW_SOCKET,
            base.layout.disk_bytes,
            self._read,
            name="disk",
            on_read=recorder.disk if recorder else None,
        )

    def show(self, view: TargetView, fetcher: Fetcher) -> None:
        """From now on it is known what the disk holds."""
        self._view, self._fetcher = view, fetcher
        self._known.set()

    def _read(self, offset: int, length: int) -> memoryview:
        """Whole chunks; those that are not here are fetched before all others."""
        self._known.wait()
        if self._view is None or self._fetcher is None:
            raise OSError("the disk was closed before it was known")
        first, end = offset // CHUNK_BYTES, (offset + length) // CHUNK_BYTES
        numbers = np.arange(first, end, dtype=np.int64)
        missing = self._view.segments(numbers[~self._view.ready(numbers)])
        if missing:
            self._fetcher.want(missing)
            self._fetcher.wait(missing)
        return memoryview(np.ascontiguousarray(self._view.read(numbers))).cast("B")

    def close(self) -> None:
        """End the server; reads that still wait fail."""
        self._known.set()
        self._nbd.close()


def bring_up(
    run: Synthesis,
    source: Source,
    disk: Disk,
    wait_for_qemu: Callable[[], None],
    waiting: probe.Probe | None,
    recorder: Recorder | None,
) -> Answered:
    """Run the guest at once, feed it, and take everything that stands in for its disk away at the end."""
    report = run.report
    report.stage("start")
    with contextlib.ExitStack() as stack:
        feed: list[PostcopySource] = []
        fetcher = stack.enter_context(run.fetcher(source, lambda: _wake(feed)))
        disk.show(run.view, fetcher)
        order = run.overlay.load_order()
        supply = pages.MemorySupply(run.base, run.view.table, run.view, run.store, fetcher, order)
        wait_for_qemu()
        prepare(run, waiting)
        with _feeding(run, supply, fetcher, recorder, feed) as feeder:
            _continue(run, fetcher, feeder)
            run.running_s = report.elapsed_s
            report.stage("run")
            first_reply_s, reply = None, b""
            if waiting is not None:
                reply = _reply(run, waiting, fetcher, feeder)
                first_reply_s = report.elapsed_s
                report.note(f"first reply after {first_reply_s:.2f} s")
            supply.release()
            if recorder is not None:
                recorder.recording = False
                feed[0].hold_push = False
                feed[0].wake()
            feeder.join()
            feeder.check()
            resident_s = report.elapsed_s
            run.pages_requested = feed[0].pages_requested
        run.wait_all(fetcher)
        report.stage("disk")
        _take_over_disk(run)
    return Answered(first_reply_s, max(resident_s, report.elapsed_s), reply)


def _wake(feed: list[PostcopySource]) -> None:
    for source in feed:
        source.wake()


class _Feeder(threading.Thread):
    """Runs the post-copy source; the guest's reply is waited for meanwhile."""

    def __init__(self, source: PostcopySource) -> None:
        super().__init__(name="feed", daemon=True)
        self._source = source
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Thread."""
        try:
            self._source.run()
        except BaseException as failure:  # noqa: BLE001 - raised again in check()
            self.failure = failure

    def check(self) -> None:
        """Raise what ended the feeding early."""
        if self.failure is not None:
            raise self.failure


@contextlib.contextmanager
def _feeding(
    run: Synthesis,
    supply: pages.MemorySupply,
    fetcher: Fetcher,
    recorder: Recorder | None,
    feed: list[PostcopySource],
) -> Iterator[_Feeder]:
    guest = run.guest
    guest.monitor.execute("migrate-incoming", uri="unix:incoming.sock")
    with connect(guest.folder / "incoming.sock") as connection:
        source = PostcopySource(
            connection,
            pages.ram_blocks(run.base.layout),
            run.state,
            supply,
            on_request=recorder.pages if recorder else None,
        )
        source.hold_push = recorder is not None
        feed.append(source)
        feeder = _Feeder(source)
        watcher = threading.Thread(target=_watch, args=(fetcher, feeder, source), name="watch", daemon=True)
        try:
            source.start()
            feeder.start()
            watcher.start()
            yield feeder
        except (HypervisorError, errors.WorkerError) as failure:
            raise _cause(run, fetcher, failure) from failure
        finally:
            source.stop()
            if feeder.ident is not None:
                feeder.join()


def _watch(fetcher: Fetcher, feeder: _Feeder, source: PostcopySource) -> None:
    """Thread: end the feeding when the overlay will not come."""
    while feeder.is_alive():
        if fetcher.failed is not None:
            source.stop()
            return
        time.sleep(0.05)


def _cause(run: Synthesis, fetcher: Fetcher, failure: Exception) -> Exception:
    """What really went wrong: the overlay's source, QEMU itself, or what was seen."""
    if fetcher.failed is not None:
        return run.lost(fetcher.failed)
    if run.guest.process.ended():
        return run.guest.process.died("its memory was arriving")
    return failure


def _check(run: Synthesis, fetcher: Fetcher, feeder: _Feeder) -> None:
    """Raise what keeps the guest from being fed."""
    if fetcher.failed is not None:
        raise run.lost(fetcher.failed)
    feeder.check()


def _ask(run: Synthesis, fetcher: Fetcher, feeder: _Feeder, command: str) -> Any:
    """The answer to a command before which QEMU may have to wait for pages that are still on their way."""
    pending = run.guest.monitor.submit(command)
    deadline = time.monotonic() + _RUN_TIMEOUT_S
    while not pending.done(0.1) and time.monotonic() < deadline:
        _check(run, fetcher, feeder)
        if fetcher.is_stalled:
            deadline = time.monotonic() + _RUN_TIMEOUT_S
    return pending.result(0)


def _continue(run: Synthesis, fetcher: Fetcher, feeder: _Feeder) -> None:
    """Let the guest run once its devices are loaded."""
    deadline = time.monotonic() + _RUN_TIMEOUT_S
    while (status := _ask(run, fetcher, feeder, "query-status")["status"]) not in {"running", "paused"}:
        if fetcher.is_stalled:
            deadline = time.monotonic() + _RUN_TIMEOUT_S
        elif time.monotonic() > deadline:
            raise ResumeFailed(reason=f"it is in state {status} after {_RUN_TIMEOUT_S:.0f} s")
        time.sleep(0.001)
    _ask(run, fetcher, feeder, "cont")


def _reply(run: Synthesis, waiting: probe.Probe, fetcher: Fetcher, feeder: _Feeder) -> bytes:
    """Wait for the probe; time in which the guest is paused because nothing arrives does not count."""

    while True:
        try:
            check = partial(_check, run, fetcher, feeder)
            return probe.wait(waiting, run.guest, run.request.timeout_s, check).content
        except errors.ProbeTimedOut:
            if not fetcher.is_stalled:
                raise


def _take_over_disk(run: Synthesis) -> None:
    """Write the overlay's disk part to a layer of its own and put it below the guest's in place of the NBD server."""
    guest, monitor = run.guest, run.guest.monitor
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
