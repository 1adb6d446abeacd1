# SPDX-License-Identifier: Apache-2.0
"""Synthesis: base + overlay -> a running server.

Over a *mapped base* the guest runs when all of the overlay is here. With *early start* it runs as soon as its device
state is: memory comes by post-copy, the disk by an NBD server whose reads wait, both from segments that arrive in the
order of the recorded working set, or out of order when the guest asks. When all is here the disk layer is written out
and takes the place of the NBD server while the guest runs.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cloudlet_ext.engine import signature
from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.errors import EngineError, SourceError
from cloudlet_ext.engine.fetch import Fetcher
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.patience import Patience
from cloudlet_ext.engine.slot_store import SlotStore
from cloudlet_ext.engine.source import Source, SourcePolicy, open_source
from cloudlet_ext.engine.statistics import Statistics, count_classes
from cloudlet_ext.engine.view import TargetView
from cloudlet_ext.hypervisor.device_state import DeviceState
from cloudlet_ext.hypervisor.errors import HypervisorError
from cloudlet_ext.hypervisor.machine import MachineDescription
from cloudlet_ext.worker import clone, early_start, errors, layer, pages, placement, probe, server, starting
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report
from cloudlet_ext.worker.starting import AUTO, EARLY, MAPPED

_CONNECTIONS_AHEAD = 4
"""Opened while the manifest is read, so that fetching begins without a round trip for each."""

__all__ = ["AUTO", "EARLY", "MAPPED", "SynthesisRequest", "SynthesisResult", "synthesize"]


@dataclass(frozen=True)
class SynthesisRequest:
    """What to synthesise. ``overlay``: a path or a URL; ``forwards``: guest port -> host port (0: any).

    ``isolated``: the guest reaches nothing but what comes through its forwards.
    """

    overlay: str
    name: str | None = None
    placement: str = AUTO
    eager: bool = False
    probe: str | None = None
    timeout_s: float = 120.0
    keyring: Path | None = None
    isolated: bool = False
    forwards: dict[int, int] = field(default_factory=dict)
    policy: SourcePolicy = field(default_factory=SourcePolicy)
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class SynthesisResult:
    """A synthesised server. Times in seconds since the request; ``reply`` is what the probe got."""

    name: str
    base: str
    overlay_id: str
    placement: str
    reason: str
    signer: str | None
    running_s: float
    first_reply_s: float | None
    resident_s: float
    total_bytes: int
    pages_requested: int
    stalls: int
    reply: bytes
    forwards: dict[str, int]
    clone: clone.CloneResult
    statistics: Statistics


@dataclass
class Synthesis:
    """What the steps of one synthesis share."""

    request: SynthesisRequest
    report: Report
    overlay: OverlayFile
    base: Base
    guest: server.Server
    state: DeviceState
    store: SlotStore
    view: TargetView
    stalls: int = 0
    is_paused: bool = False
    running_s: float = 0.0
    pages_requested: int = 0
    arrived_bytes: int = 0

    def fetcher(self, source: Source, on_arrival: Callable[[], None] = lambda: None) -> Fetcher:
        """A fetcher of the overlay's chunks that keeps the guest paused while nothing comes.

        ``on_arrival`` is called, in another thread, with every segment that has arrived, perhaps before this returns.
        """

        def arrived(number: int) -> None:
            self.arrived_bytes += self.overlay.segments[number].stored_bytes
            self.report.progress(self.arrived_bytes, self.overlay.file_bytes)
            on_arrival()

        return Fetcher(
            source,
            self.overlay.chunk_segments,
            self.store,
            lambda segment, stored: self.overlay.unpack(segment, stored, self.base),
            patience=self.request.patience,
            on_arrival=arrived,
            on_stall=self._stalled,
            on_recover=self._recovered,
        )

    def wait_all(self, fetcher: Fetcher) -> None:
        """Wait until all of the overlay is here."""
        try:
            fetcher.wait_all()
        except EngineError as failure:
            raise self.lost(failure) from failure

    def lost(self, failure: Exception) -> Exception:
        """What to tell when the overlay does not arrive: its source, or what was wrong with it, or with this host."""
        if isinstance(failure, SourceError):
            return errors.SourceLost(overlay=self.overlay.path, reason=str(failure).removesuffix("."))
        return failure

    def _stalled(self, error: Exception, attempt: int) -> None:
        self.report.note(f"nothing arrives ({error}); attempt {attempt}")
        if self.running_s and not self.is_paused:
            self.is_paused = True
            self.stalls += 1
            self._tell("stop")

    def _recovered(self) -> None:
        self.report.note("the overlay arrives again")
        if self.is_paused:
            self.is_paused = False
            self._tell("cont")

    def _tell(self, command: str) -> None:
        # QEMU itself may be waiting for what this thread is about to fetch: it will see to it in its turn.
        with contextlib.suppress(HypervisorError):
            self.guest.monitor.submit(command)


def synthesize(
    home: Home, request: SynthesisRequest, report: Report, recorder: early_start.Recorder | None = None
) -> SynthesisResult:
    """Synthesise a server; when this returns everything is here. Nothing is left behind when it fails.

    With a ``recorder`` the guest gets only what it asks for until the probe has its answer.
    """
    waiting = probe.parse(request.probe) if request.probe else None
    if recorder is not None and waiting is None:
        raise errors.ProbeInvalid(text="")
    report.stage("manifest")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_prompt_threads())
        source = open_source(request.overlay, request.policy)
        stack.callback(source.close)
        source.warm(_CONNECTIONS_AHEAD)
        overlay = OverlayFile.open(source)
        signer = _check_signature(overlay, request.keyring)
        base_name, base = home.find_base(overlay.base_id or "none", overlay.path)
        stack.enter_context(base)
        machine = check_machine(home, base, overlay)
        name = request.name or server.new_name(Path(overlay.path).stem)
        guest = server.create(home, name, machine, AUTO, base_name, base)
        stack.enter_context(server.undone_on_failure(guest))
        chosen = _place(request, overlay, source)
        report.note(f"placement: {chosen.kind} ({chosen.reason})")
        guest.update(placement=chosen.kind, isolated=request.isolated)
        disk = early_start.Disk(guest, base, recorder) if chosen.kind == EARLY else None
        if disk is not None:
            stack.callback(disk.close)
        launcher = _Launcher(guest, base, chosen.kind)
        stack.callback(launcher.join)
        if disk is not None:
            # Before the launcher is waited for: QEMU reads its disk before it answers.
            stack.callback(disk.close)
        run = _prepare(home, request, report, overlay, base, guest)
        stack.callback(run.store.close)
        if disk is not None:
            answer = early_start.bring_up(run, source, disk, launcher.ready, waiting, recorder)
        else:
            answer = _bring_up_mapped(run, source, waiting, recorder)
        if recorder is None:
            report.stage("personalise")
            personal = clone.personalise(guest)
        else:
            personal = clone.CloneResult(False, False, "it was only recorded")
        guest.update(state="running")
        return _result(run, chosen, signer, answer, personal)


def _place(request: SynthesisRequest, overlay: OverlayFile, source: Source) -> placement.Placement:
    return placement.choose(
        request.placement,
        request.eager,
        overlay.chunk_segments,
        local=isinstance(source, FileSource),
        rate_bytes_per_s=source.rate_bytes_per_s,
    )


def _prepare(
    home: Home, request: SynthesisRequest, report: Report, overlay: OverlayFile, base: Base, guest: server.Server
) -> Synthesis:
    """Fetch what comes before the chunks, and make room for these."""
    table = overlay.load_table()
    state = DeviceState.decode(overlay.load_device())
    store = SlotStore(home.scratch, overlay.chunk_segments)
    return Synthesis(
        request=request,
        report=report,
        overlay=overlay,
        base=base,
        guest=guest,
        state=clone.own_state(guest, state),
        store=store,
        view=TargetView(base, table, store),
    )


def _result(
    run: Synthesis,
    chosen: placement.Placement,
    signer: str | None,
    answer: early_start.Answered,
    personal: clone.CloneResult,
) -> SynthesisResult:
    return SynthesisResult(
        name=run.guest.name,
        base=str(run.guest.record.base),
        overlay_id=run.overlay.overlay_id,
        placement=chosen.kind,
        reason=chosen.reason,
        signer=signer,
        running_s=run.running_s,
        first_reply_s=answer.first_reply_s,
        resident_s=answer.resident_s,
        total_bytes=run.overlay.file_bytes,
        pages_requested=run.pages_requested,
        stalls=run.stalls,
        reply=answer.reply,
        forwards=run.guest.record.forwards,
        clone=personal,
        statistics=count_classes(run.overlay.table, run.overlay.layout),
    )


@contextlib.contextmanager
def _prompt_threads() -> Iterator[None]:
    """Let threads take turns every 0.5 ms.

    Threads that feed a guest share the interpreter with those that fetch: with Python's usual 5 ms a page that the
    guest waits for comes 2 ms late (measured: first reply 0.25 s later).
    """
    usual = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def _check_signature(overlay: OverlayFile, keyring: Path | None) -> str | None:
    return None if keyring is None else signature.verify_signature(overlay.container, keyring)


def check_machine(home: Home, base: Base, overlay: OverlayFile) -> MachineDescription:
    """The overlay's machine, once it is sure that it is the base's and that this host can be it."""
    machine = MachineDescription.from_dict(overlay.machine)
    starting.base_machine(home, base).require_same(machine, f"The overlay {overlay.path} does not fit its base")
    if overlay.layout != base.layout:
        raise errors.LayoutMismatch(overlay=overlay.path, expected=base.layout.regions, found=overlay.layout.regions)
    return machine


class _Launcher(threading.Thread):
    """Starts QEMU while the first parts of the overlay are fetched."""

    def __init__(self, guest: server.Server, base: Base, kind: str) -> None:
        super().__init__(name="launch", daemon=True)
        self._guest, self._base, self._kind = guest, base, kind
        self._failure: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Thread."""
        try:
            if self._kind == EARLY:
                early_start.launch(self._guest, self._base)
        except BaseException as failure:  # noqa: BLE001 - raised again in ready()
            self._failure = failure

    def ready(self) -> None:
        """Wait for QEMU; raises what kept it from starting."""
        self.join()
        if self._failure is not None:
            raise self._failure


def _bring_up_mapped(
    run: Synthesis,
    source: Source,
    waiting: probe.Probe | None,
    recorder: early_start.Recorder | None,
) -> early_start.Answered:
    """All of the overlay first, then a guest over the mapped base."""
    if recorder is not None:
        raise errors.PlacementImpossible(placement=MAPPED, reason="recording needs an early start")
    report, guest = run.report, run.guest
    report.stage("fetch")
    with run.fetcher(source) as fetcher:
        run.wait_all(fetcher)
    report.stage("start")
    layer.write_layer(run.view, run.base, guest.folder / server.DISK_NAME)
    guest.launch(starting.base_files(run.base, memory=True), incoming=True)
    early_start.prepare(run, waiting)
    report.stage("load")
    starting.load_state(guest, run.base, run.state, pages.differing_pages(run.view, run.base.layout))
    run.running_s = report.elapsed_s
    if waiting is None:
        return early_start.Answered(None, run.running_s, b"")
    report.stage("reply")
    answer = probe.wait(waiting, guest, run.request.timeout_s)
    return early_start.Answered(report.elapsed_s, run.running_s, answer.content)
