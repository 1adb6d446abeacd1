# SPDX-License-Identifier: Apache-2.0
"""Which placement is chosen, and what is said of it."""

from __future__ import annotations

import pytest

from cloudlet_ext.engine.manifest import MEMORY, WORKING_SET, SegmentInfo
from cloudlet_ext.worker.errors import PlacementImpossible
from cloudlet_ext.worker.placement import Placement, choose

MIB = 1 << 20
SLOW, FAST = 5e6 / 8, 1e9 / 8


def segments(working_set_bytes: int, rest_bytes: int) -> tuple[SegmentInfo, ...]:
    sizes = [(WORKING_SET, working_set_bytes), (MEMORY, rest_bytes)]
    return tuple(
        SegmentInfo(number, "chunks", section, 0, size, MIB, bytes(32), number, 1, False)
        for number, (section, size) in enumerate(sizes)
        if size
    )


def chosen(
    of: tuple[SegmentInfo, ...], rate: float | None, *, asked: str = "auto", eager: bool = False, local: bool = False
) -> Placement:
    return choose(asked, eager, of, local=local, rate_bytes_per_s=rate)


LARGE, RECORDED, SMALL = segments(0, 40 * MIB), segments(4 * MIB, 36 * MIB), segments(0, MIB // 10)


@pytest.mark.parametrize("asked", ["mapped", "early"])
def test_what_is_asked_for_is_done(asked: str) -> None:
    for of in (LARGE, SMALL):
        for local in (False, True):
            assert chosen(of, SLOW, asked=asked, local=local) == Placement(asked, "asked for")


def test_eager_is_mapped_and_excludes_early() -> None:
    assert chosen(LARGE, SLOW, eager=True).kind == "mapped"
    assert chosen(LARGE, SLOW, eager=True, asked="mapped").kind == "mapped"
    with pytest.raises(PlacementImpossible, match="--eager") as caught:
        chosen(LARGE, SLOW, eager=True, asked="early")
    assert caught.value.exit_code == 2


def test_where_no_guest_can_start_early() -> None:
    def choose_here(asked: str, *, local: bool = False) -> Placement:
        return choose(asked, False, LARGE, local=local, rate_bytes_per_s=SLOW, obstacle="the kernel does not let it")

    assert choose_here("auto") == Placement("mapped", "the kernel does not let it")
    assert choose_here("auto", local=True).reason == "the overlay is on this host"
    assert choose_here("mapped") == Placement("mapped", "asked for")
    with pytest.raises(PlacementImpossible, match="early cannot be used: the kernel does not let it"):
        choose_here("early")


@pytest.mark.parametrize(
    ("of", "rate", "kind", "reason"),
    [
        (LARGE, SLOW, "early", "at 5 Mbit/s all of the overlay takes 67.1 s, half of it (no working set was recorded)"),
        (LARGE, FAST, "mapped", "at 1000 Mbit/s all of the overlay takes 0.3 s"),
        (RECORDED, SLOW, "early", "its recorded working set and on-demand pages 7.1 s"),
        (SMALL, SLOW, "mapped", "all of the overlay takes 0.2 s"),
        (SMALL, None, "mapped", "the overlay is small (0.1 MB)"),
        (LARGE, None, "early", "41.9 MB are to come, and the link's rate is not known yet"),
        ((), SLOW, "mapped", "all of the overlay takes 0.0 s"),
    ],
)
def test_auto_compares_times(of: tuple[SegmentInfo, ...], rate: float | None, kind: str, reason: str) -> None:
    placement = chosen(of, rate)
    assert placement.kind == kind
    assert reason in placement.reason


def test_what_is_here_is_mapped() -> None:
    assert chosen(LARGE, None, local=True) == Placement("mapped", "the overlay is on this host")


def test_a_smaller_working_set_never_makes_early_worse() -> None:
    kinds = [chosen(segments(part * MIB, (40 - part) * MIB), 38e6 / 8).kind for part in range(1, 40)]
    assert kinds == sorted(kinds), kinds
    assert kinds[0] == "early"
