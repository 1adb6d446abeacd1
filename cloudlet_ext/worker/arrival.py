# SPDX-License-Identifier: Apache-2.0
"""Arrival: an overlay on its way to a guest, which stands still while nothing of it comes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.errors import EngineError, SourceError
from cloudlet_ext.engine.fetch import Fetcher
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.patience import Patience
from cloudlet_ext.engine.slot_store import SlotStore
from cloudlet_ext.engine.source import Source
from cloudlet_ext.engine.view import TargetView
from cloudlet_ext.hypervisor.device_state import DeviceState
from cloudlet_ext.hypervisor.errors import HypervisorError
from cloudlet_ext.hypervisor.guest import Guest
from cloudlet_ext.worker import errors
from cloudlet_ext.worker.report import Report


class StallClock:
    """How long nothing has arrived, all times together. One thread at a time may begin and end; any may look."""

    def __init__(self) -> None:
        self._state: tuple[float, float | None] = (0.0, None)

    def begin(self) -> None:
        """Nothing arrives any more; not a new time if one has begun."""
        total_s, since = self._state
        if since is None:
            self._state = (total_s, time.monotonic())

    def end(self) -> None:
        """It arrives again."""
        self._state = (self.seconds, None)

    @property
    def seconds(self) -> float:
        """Seconds until now, with a time that has not ended."""
        total_s, since = self._state
        return total_s if since is None else total_s + time.monotonic() - since


@dataclass
class Arrival:
    """What the steps of one synthesis share. ``guest`` is whoever runs the target."""

    report: Report
    overlay: OverlayFile
    base: Base
    guest: Guest
    state: DeviceState
    store: SlotStore
    view: TargetView
    patience: Patience = field(default_factory=Patience)
    stalls: int = 0
    stalled: StallClock = field(default_factory=StallClock)
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
            patience=self.patience,
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
        self.stalled.begin()
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
        self.stalled.end()

    def _tell(self, command: str) -> None:
        # QEMU itself may be waiting for what this thread is about to fetch: it will see to it in its turn.
        with contextlib.suppress(HypervisorError):
            self.guest.monitor.submit(command)
