# SPDX-License-Identifier: Apache-2.0
"""Early start: the guest runs while its overlay arrives."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from cloudlet_ext.engine.fetch import Fetcher
from cloudlet_ext.engine.source import Source
from cloudlet_ext.engine.view import TargetView
from cloudlet_ext.hypervisor.errors import HypervisorError, ResumeFailed
from cloudlet_ext.hypervisor.postcopy import PostcopySource
from cloudlet_ext.hypervisor.resume import connect
from cloudlet_ext.worker import errors, pages, starting
from cloudlet_ext.worker.arrival import Arrival
from cloudlet_ext.worker.recorder import Recorder

_RUN_TIMEOUT_S = 60.0

POSTCOPY = [{"capability": "postcopy-ram", "state": True}]


@dataclass(frozen=True)
class Answered:
    """Seconds since the request until the first reply (None: not asked for) and until all was here."""

    first_reply_s: float | None
    resident_s: float
    reply: bytes


class Host(Protocol):
    """Whoever owns the guest that starts early, and shows it a disk that is not all here."""

    def show(self, view: TargetView, fetcher: Fetcher) -> None:
        """From now on it is known what the disk holds."""
        ...

    def ready(self) -> None:
        """Wait until QEMU waits for a state; raises what kept it from starting."""
        ...

    def proceed(self, ask: Callable[[str], Any]) -> None:
        """The devices are loaded: let the guest run. ``ask`` sends a command that may have to wait for pages."""
        ...

    def reply(self, feed: Feed) -> bytes | None:
        """Wait for the guest's first reply; None where none is asked for."""
        ...

    def keep_disk(self, run: Arrival) -> None:
        """All is here: give the guest a disk that needs this process no more."""
        ...


def bring_up(run: Arrival, source: Source, host: Host, recorder: Recorder | None) -> Answered:
    """Run the guest at once, feed it, and take everything that stands in for its disk away at the end."""
    report = run.report
    with contextlib.ExitStack() as stack:
        postcopy: list[PostcopySource] = []
        fetcher = stack.enter_context(run.fetcher(source, lambda: _wake(postcopy)))
        host.show(run.view, fetcher)
        order = run.overlay.load_order()
        supply = pages.MemorySupply(run.base, run.view.table, run.view, run.store, fetcher, order)
        host.ready()
        with _feeding(run, supply, fetcher, recorder, postcopy) as feed:
            feed.wait_loaded()
            host.proceed(feed.ask)
            run.running_s = report.elapsed_s
            report.stage("run")
            first_reply_s = None
            reply = host.reply(feed)
            if reply is not None:
                first_reply_s = report.elapsed_s
                report.note(f"first reply after {first_reply_s:.2f} s")
            supply.release()
            if recorder is not None:
                recorder.recording = False
                postcopy[0].hold_push = False
                postcopy[0].wake()
            feed.join()
            resident_s = report.elapsed_s
            run.pages_requested = postcopy[0].pages_requested
        run.wait_all(fetcher)
        report.stage("disk")
        host.keep_disk(run)
    return Answered(first_reply_s, max(resident_s, report.elapsed_s), reply or b"")


def _wake(postcopy: list[PostcopySource]) -> None:
    for source in postcopy:
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


class Feed:
    """A guest being fed, as long as nothing keeps it from it."""

    def __init__(self, run: Arrival, fetcher: Fetcher, feeder: _Feeder) -> None:
        self._run, self._fetcher, self._feeder = run, fetcher, feeder

    @property
    def is_stalled(self) -> bool:
        """Whether nothing of the overlay comes just now."""
        return self._fetcher.is_stalled

    def stalled_s(self) -> float:
        """Seconds in which nothing of the overlay came, so far and all together."""
        return self._run.stalled.seconds

    def check(self) -> None:
        """Raise what keeps the guest from being fed."""
        if self._fetcher.failed is not None:
            raise self._run.lost(self._fetcher.failed)
        if self._feeder.failure is not None:
            raise self._feeder.failure

    def join(self) -> None:
        """Wait until all pages were sent."""
        self._feeder.join()
        if self._feeder.failure is not None:
            raise self._feeder.failure

    def ask(self, command: str) -> Any:
        """The answer to a command before which QEMU may have to wait for pages that are still on their way."""
        pending = self._run.guest.monitor.submit(command)
        deadline = time.monotonic() + _RUN_TIMEOUT_S
        while not pending.done(0.1) and time.monotonic() < deadline:
            self.check()
            if self.is_stalled:
                deadline = time.monotonic() + _RUN_TIMEOUT_S
        return pending.result(0)

    def wait_loaded(self) -> None:
        """Wait until the devices are loaded."""
        deadline = time.monotonic() + _RUN_TIMEOUT_S
        while (status := self.ask("query-status")["status"]) not in {"running", "paused"}:
            if self.is_stalled:
                deadline = time.monotonic() + _RUN_TIMEOUT_S
            elif time.monotonic() > deadline:
                raise ResumeFailed(reason=f"it is in state {status} after {_RUN_TIMEOUT_S:.0f} s")
            time.sleep(0.001)


@contextlib.contextmanager
def _feeding(
    run: Arrival,
    supply: pages.MemorySupply,
    fetcher: Fetcher,
    recorder: Recorder | None,
    postcopy: list[PostcopySource],
) -> Iterator[Feed]:
    process = run.guest.process
    run.guest.monitor.execute("migrate-incoming", uri=process.address(starting.INCOMING_SOCKET))
    with connect(process.directory / starting.INCOMING_SOCKET) as connection:
        source = PostcopySource(
            connection,
            pages.ram_blocks(run.base.layout),
            run.state,
            supply,
            on_request=recorder.pages if recorder else None,
        )
        source.hold_push = recorder is not None
        postcopy.append(source)
        feeder = _Feeder(source)
        watcher = threading.Thread(target=_watch, args=(fetcher, feeder, source), name="watch", daemon=True)
        try:
            source.start()
            feeder.start()
            watcher.start()
            yield Feed(run, fetcher, feeder)
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


def _cause(run: Arrival, fetcher: Fetcher, failure: Exception) -> Exception:
    """What really went wrong: the overlay's source, QEMU itself, or what was seen."""
    if fetcher.failed is not None:
        return run.lost(fetcher.failed)
    if run.guest.process.ended():
        return run.guest.process.died("its memory was arriving")
    return failure
