# SPDX-License-Identifier: Apache-2.0
"""What is asked for: every byte once, wanted ones first, never too much at a time."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlet_ext.engine.fetch_plan import HELD_LIMIT_BYTES, FetchPlan, Span
from cloudlet_ext.engine.link_window import Window
from cloudlet_ext.engine.manifest import SegmentInfo

WINDOW = Window(quantum_bytes=1000, bulk_bytes=3000, held_bytes=500)


def segments(sizes: list[int], gap: int = 0) -> list[SegmentInfo]:
    """Chunk segments of these stored sizes, one after the other from byte 100."""
    made, offset = [], 100
    for number, size in enumerate(sizes):
        made.append(SegmentInfo(number, "chunks", "memory", offset, size, 4096, b"", number, 1, False))
        offset += size + gap
    return made


def spans(plan: FetchPlan, window: Window = WINDOW) -> list[Span]:
    """All that may be asked for now."""
    found = []
    while (span := plan.take(window)) is not None:
        found.append(span)
    return found


def arrive(plan: FetchPlan, span: Span, length: int | None = None) -> list[int]:
    """``length`` bytes of a span come (None: all), then its request ends; segments that became whole."""
    length = span.length if length is None else length
    whole = [part.index for part in plan.slices(span.offset, length) if plan.came(part)]
    plan.ended(span, length)
    return whole


def test_file_order_in_quanta() -> None:
    plan = FetchPlan(segments([1500, 1500, 1500]), 4)
    assert spans(plan) == [Span(100, 1000, False), Span(1100, 1000, False), Span(2100, 1000, False)]
    assert plan.in_flight_bytes == 3000


def test_small_segments_share_a_request_unless_there_is_a_gap() -> None:
    assert spans(FetchPlan(segments([300] * 4), 4))[0] == Span(100, 1000, False)
    assert spans(FetchPlan(segments([300] * 4, gap=1), 4))[0] == Span(100, 300, False)


def test_connections_are_kept_for_wanted_ones() -> None:
    plan = FetchPlan(segments([100] * 50), 2)
    window = Window(quantum_bytes=100, bulk_bytes=1000, held_bytes=0)
    assert len(spans(plan, window)) == 2
    plan.want(40)
    assert spans(plan, window) == [Span(4100, 100, True)]


def test_wanted_first_and_whole() -> None:
    plan = FetchPlan(segments([1500] * 5), 4)
    plan.want(3)
    assert plan.take(WINDOW) == Span(100 + 3 * 1500, 1500, True)
    # Bulk is held back: more than held_bytes is in flight.
    assert plan.take(WINDOW) is None


def test_neighbours_that_are_wanted_share_a_request() -> None:
    plan = FetchPlan(segments([400] * 10), 4)
    for index in (5, 6, 8):
        plan.want(index)
    assert spans(plan) == [Span(2100, 800, True), Span(3300, 400, True)]


def test_wanted_and_partly_in_flight() -> None:
    plan = FetchPlan(segments([1500, 1500]), 4)
    first = plan.take(WINDOW)
    plan.want(0)
    assert plan.take(WINDOW) == Span(1100, 500, True)
    assert first is not None
    arrive(plan, first)
    # 500 are in flight, as much as held_bytes: they will be here before what is asked for now.
    assert plan.take(WINDOW) == Span(1600, 1000, False)
    assert plan.take(WINDOW) is None


def test_wanted_and_already_here() -> None:
    plan = FetchPlan(segments([500, 500]), 4)
    (span,) = spans(plan)
    assert arrive(plan, span) == [0, 1]
    plan.want(0)
    assert plan.take(WINDOW) is None
    assert plan.is_complete


def test_what_broke_off_comes_next() -> None:
    plan = FetchPlan(segments([700] * 4), 4)
    taken = spans(plan)
    assert arrive(plan, taken[0], 100) == []
    arrive(plan, taken[1])
    assert spans(plan)[:2] == [Span(200, 600, False), Span(800, 300, False)]


def test_damaged_segment_is_asked_for_again() -> None:
    plan = FetchPlan(segments([700]), 4)
    (span,) = spans(plan)
    assert arrive(plan, span) == [0]
    plan.refetch(0)
    assert not plan.is_complete
    assert plan.take(WINDOW) == Span(100, 700, True)


def test_memory_is_bounded() -> None:
    size = 1 << 20
    plan = FetchPlan(segments([size] * 40), 100)
    wide = Window(quantum_bytes=size, bulk_bytes=1 << 40, held_bytes=0)
    taken = spans(plan, wide)
    assert len(taken) == HELD_LIMIT_BYTES // size
    for span in taken:
        arrive(plan, span)
    assert plan.take(wide) is None
    plan.stored(0)
    assert plan.take(wide) is not None


@pytest.mark.parametrize("window", [WINDOW, Window(1, 4, 0), Window(10_000, 10_000, 10_000)])
@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=30),
    gap=st.integers(0, 1),
    seed=st.integers(0, 2**32),
)
def test_every_byte_comes_exactly_once(window: Window, sizes: list[int], gap: int, seed: int) -> None:
    """Whatever is wanted, breaks off or is damaged, and in whatever order requests end."""
    dice, infos = random.Random(seed), segments([min(size, 20 * window.quantum_bytes) for size in sizes], gap)
    plan = FetchPlan(infos, 3)
    came: Counter[int] = Counter()
    running: list[Span] = []
    refetched: set[int] = set()
    while not plan.is_complete:
        if dice.random() < 0.2:
            plan.want(dice.randrange(len(infos)))
        span = plan.take(window)
        if span is not None:
            running.append(span)
            continue
        assert running, "nothing is in flight, nothing may be asked for, and it is not complete"
        span = running.pop(dice.randrange(len(running)))
        length = dice.randint(0, span.length) if dice.random() < 0.3 else span.length
        came.update(range(span.offset, span.offset + length))
        for index in arrive(plan, span, length):
            if dice.random() < 0.1 and index not in refetched:
                refetched.add(index)
                plan.refetch(index)
                came.subtract(range(infos[index].offset, infos[index].offset + infos[index].stored_bytes))
            else:
                plan.stored(index)
    assert plan.in_flight_bytes == sum(span.length for span in running) == 0
    assert plan.held_bytes == 0
    expected = {byte for info in infos for byte in range(info.offset, info.offset + info.stored_bytes)}
    assert {byte for byte, count in came.items() if count} == expected
    assert set(came.values()) <= {0, 1}
