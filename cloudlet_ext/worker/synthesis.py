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
from functools import partial
from pathlib import Path

from cloudlet_ext.engine import signature
from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.patience import Patience
from cloudlet_ext.engine.slot_store import SlotStore
from cloudlet_ext.engine.source import Source, SourcePolicy, open_source
from cloudlet_ext.engine.statistics import Statistics, count_classes
from cloudlet_ext.engine.view import TargetView
from cloudlet_ext.hypervisor import userfault
from cloudlet_ext.hypervisor.device_state import DeviceState
from cloudlet_ext.hypervisor.guest import Guest
from cloudlet_ext.hypervisor.machine import MachineDescription
from cloudlet_ext.worker import (
    clone,
    early_start,
    errors,
    layer,
    pages,
    placement,
    probe,
    server,
    server_early_start,
    starting,
)
from cloudlet_ext.worker.arrival import Arrival
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.recorder import Recorder
from cloudlet_ext.worker.report import Report
from cloudlet_ext.worker.server_early_start import ServerHost, Waiting
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


def synthesize(
    home: Home, request: SynthesisRequest, report: Report, recorder: Recorder | None = None
) -> SynthesisResult:
    """Synthesise a server; when this returns everything is here. Nothing is left behind when it fails.

    With a ``recorder`` the guest gets only what it asks for until the probe has its answer.
    """
    waiting = Waiting(request.forwards, probe.parse(request.probe) if request.probe else None, request.timeout_s)
    if recorder is not None and waiting.probe is None:
        raise errors.ProbeInvalid(text="")
    report.stage("manifest")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_prompt_threads())
        source = open_source(request.overlay, request.policy)
        stack.callback(source.close)
        source.warm(_CONNECTIONS_AHEAD)
        overlay, signer = _open_overlay(source, request.keyring)
        base_name, base = home.find_base(overlay.base_id or "none", overlay.path)
        stack.enter_context(base)
        machine = check_machine(home, base, overlay)
        name = request.name or server.new_name(Path(overlay.path).stem)
        guest = server.create(home, name, machine, AUTO, base_name, base)
        stack.enter_context(server.undone_on_failure(guest))
        chosen = _place(request, overlay, source)
        report.note(f"placement: {chosen.kind} ({chosen.reason})")
        guest.update(placement=chosen.kind, isolated=request.isolated)
        disk = server_early_start.Disk(guest, base, recorder) if chosen.kind == EARLY else None
        if disk is not None:
            stack.callback(disk.close)
        launcher = _Launcher(guest, base, chosen.kind)
        stack.callback(launcher.join)
        if disk is not None:
            # Before the launcher is waited for: QEMU reads its disk before it answers.
            stack.callback(disk.close)
        run = prepare(home.scratch, report, overlay, base, guest, partial(clone.own_state, guest))
        run.patience = request.patience
        stack.callback(run.store.close)
        if disk is not None:
            host = ServerHost(guest, disk, launcher.ready, waiting)
            report.stage("start")
            answer = early_start.bring_up(run, source, host, recorder)
        else:
            answer = _bring_up_mapped(run, guest, source, waiting, recorder)
        personal = _personalise(guest, report, recorder)
        guest.update(state="running")
        return _result(run, guest, chosen, signer, answer, personal)


def _personalise(guest: server.Server, report: Report, recorder: Recorder | None) -> clone.CloneResult:
    if recorder is not None:
        return clone.CloneResult(False, False, "it was only recorded")
    report.stage("personalise")
    personal = clone.personalise(guest)
    guest.require_alive("it was given what is its own")
    return personal


def _place(request: SynthesisRequest, overlay: OverlayFile, source: Source) -> placement.Placement:
    return placement.choose(
        request.placement,
        request.eager,
        overlay.chunk_segments,
        local=isinstance(source, FileSource),
        rate_bytes_per_s=source.rate_bytes_per_s,
        obstacle=userfault.obstacle(),
    )


def prepare(
    scratch: Path,
    report: Report,
    overlay: OverlayFile,
    base: Base,
    guest: Guest,
    own_state: Callable[[DeviceState], DeviceState],
) -> Arrival:
    """Fetch what comes before the chunks, and make room for these; ``WrongLayout`` when base and overlay do not fit."""
    overlay.check_layout(base.layout)
    table = overlay.load_table()
    state = DeviceState.decode(overlay.load_device())
    store = SlotStore(scratch, overlay.chunk_segments)
    return Arrival(
        report=report,
        overlay=overlay,
        base=base,
        guest=guest,
        state=own_state(state),
        store=store,
        view=TargetView(base, table, store),
    )


def _result(
    run: Arrival,
    guest: server.Server,
    chosen: placement.Placement,
    signer: str | None,
    answer: early_start.Answered,
    personal: clone.CloneResult,
) -> SynthesisResult:
    return SynthesisResult(
        name=guest.name,
        base=str(guest.record.base),
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
        forwards=guest.record.forwards,
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


def _open_overlay(source: Source, keyring: Path | None) -> tuple[OverlayFile, str | None]:
    """The overlay, and who signed it, where a signature is required: looked at before anything else."""
    if keyring is None:
        return OverlayFile.open(source), None
    signers: list[str] = []
    overlay = OverlayFile.open(
        source, lambda header, path: signers.append(signature.verify_header(header, path, keyring))
    )
    return overlay, signers[0]


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
                server_early_start.launch(self._guest, self._base)
        except BaseException as failure:  # noqa: BLE001 - raised again in ready()
            self._failure = failure

    def ready(self) -> None:
        """Wait for QEMU; raises what kept it from starting."""
        self.join()
        if self._failure is not None:
            raise self._failure


def _bring_up_mapped(
    run: Arrival,
    guest: server.Server,
    source: Source,
    waiting: Waiting,
    recorder: Recorder | None,
) -> early_start.Answered:
    """All of the overlay first, then a guest over the mapped base."""
    if recorder is not None:
        raise errors.PlacementImpossible(placement=MAPPED, reason="recording needs an early start")
    report = run.report
    report.stage("fetch")
    with run.fetcher(source) as fetcher:
        run.wait_all(fetcher)
    report.stage("start")
    layer.write_layer(run.view, run.base, guest.folder / server.DISK_NAME)
    guest.launch(starting.base_files(run.base, memory=True), incoming=True)
    server_early_start.prepare(guest, waiting)
    report.stage("load")
    starting.load_state(guest, run.base, run.state, pages.differing_pages(run.view, run.base.layout))
    run.running_s = report.elapsed_s
    if waiting.probe is None:
        return early_start.Answered(None, run.running_s, b"")
    report.stage("reply")
    answer = probe.wait(waiting.probe, guest, waiting.timeout_s)
    return early_start.Answered(report.elapsed_s, run.running_s, answer.content)
