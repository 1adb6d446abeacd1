# SPDX-License-Identifier: Apache-2.0
"""Time in which nothing arrives, and the probe that it is not counted against."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor import process
from cloudlet_ext.worker import errors, probe, server
from cloudlet_ext.worker.arrival import StallClock
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.probe import Probe
from cloudlet_ext.worker.server import Server
from tests.unit.worker.test_server import MACHINE


@pytest.fixture
def guest(tmp_path: Path) -> Server:
    """A server whose process is one that lives: this one."""
    made = server.create(Home(tmp_path), "guest", MACHINE, "early", None, None)
    made.update(pid=made.record.owner[0], started=process.start_ticks(made.record.owner[0]))
    return made


class AnswersAt(Probe):
    """Has its answer from a time on, given as seconds from now."""

    text = "later"

    def __init__(self, after_s: float) -> None:
        self._at = time.monotonic() + after_s

    def attempt(self, server: Server, over: threading.Event) -> bytes:
        if time.monotonic() < self._at:
            raise OSError("not yet")
        return b"here"


def follow(clock: StallClock, stalls: list[tuple[float, float]]) -> threading.Thread:
    """Thread: stalls from .. to .., seconds from now."""
    began = time.monotonic()

    def run() -> None:
        for begin, end in stalls:
            time.sleep(max(0.0, began + begin - time.monotonic()))
            clock.begin()
            time.sleep(max(0.0, began + end - time.monotonic()))
            clock.end()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_times_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock, seen = StallClock(), []
    for act, at in ((None, 101), (clock.begin, 102), (clock.begin, 105), (clock.end, 110), (None, 120)):
        now[0] = at
        if act:
            act()
        seen.append(clock.seconds)
    assert seen == [0, 0, 3, 8, 8]
    now[0] = 130
    clock.end()
    clock.begin()
    now[0] = 131.5
    assert clock.seconds == 9.5


@pytest.mark.parametrize(
    "stalls",
    [
        [(0.2, 2.6)],
        # Twice, each of them shorter than the limit, and over long before it would have been reached.
        [(0.2, 1.4), (1.6, 2.8)],
        # Under way when the wait begins.
        [(0.0, 2.5)],
        # Not over when the time is up.
        [(0.5, 2.9)],
    ],
    ids=["one", "two", "before", "at the limit"],
)
def test_a_stall_is_not_counted_against_the_probe(guest: Server, stalls: list[tuple[float, float]]) -> None:
    """The guest answers 3.5 s after the beginning, and has 2 s to do so: it stood still for the rest."""
    clock = StallClock()
    stalling = follow(clock, stalls)
    time.sleep(0.1)
    answer = probe.wait(AnswersAt(3.4), guest, 2.0, standing_s=lambda: clock.seconds)
    stalling.join()
    assert answer.content == b"here" and answer.elapsed_s > 2.0


def test_what_it_stood_still_before_the_wait_is_nothing_to_it(guest: Server) -> None:
    began = time.monotonic()
    with pytest.raises(errors.ProbeTimedOut, match="within 1 s; last: not yet"):
        probe.wait(AnswersAt(60.0), guest, 1.0, standing_s=lambda: 1000.0)
    assert time.monotonic() - began < 30


def test_after_a_stall_the_rest_of_the_time_is_left(guest: Server) -> None:
    """Not all of it again."""
    clock, began = StallClock(), time.monotonic()
    stalling = follow(clock, [(0.8, 1.4)])
    with pytest.raises(errors.ProbeTimedOut):
        probe.wait(AnswersAt(60.0), guest, 1.0, standing_s=lambda: clock.seconds)
    stalling.join()
    assert time.monotonic() - began > 1.55


def test_an_end_of_the_guest_is_seen_while_it_stands_still(guest: Server) -> None:
    guest.update(started=guest.record.started - 1)
    with pytest.raises(errors.ServerGone):
        probe.wait(AnswersAt(60.0), guest, 60.0, standing_s=time.monotonic)
