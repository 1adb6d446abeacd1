# SPDX-License-Identifier: Apache-2.0
"""Which memory placement a synthesis uses, and why."""

from __future__ import annotations

from dataclasses import dataclass

from cloudlet_ext.engine.manifest import SegmentInfo
from cloudlet_ext.worker import errors
from cloudlet_ext.worker.starting import AUTO, EARLY, MAPPED

_EARLY_OVERHEAD_S = 0.4
"""What early start costs over a mapped base before the first reply: pages asked for one by one, and RAM that is copied,
not shared (measured with the web workload, emulation: 0.9 s against 0.5 s with everything at hand)."""

_SMALL_BYTES = 2 << 20
"""What even a link of 38 Mbit/s brings within the overhead of an early start."""


@dataclass(frozen=True)
class Placement:
    """``kind``: "mapped" or "early"; ``reason`` in a person's words."""

    kind: str
    reason: str


def choose(
    asked: str,
    eager: bool,
    segments: tuple[SegmentInfo, ...],
    *,
    local: bool,
    rate_bytes_per_s: float | None,
    obstacle: str | None = None,
) -> Placement:
    """Choose by the time until the guest can answer: all of the overlay, or its working set and a penalty.

    ``local``: the overlay is a file here. Without a recorded working set half of the overlay is taken to be needed.
    ``obstacle``: why no guest can start early here.
    """
    if asked == EARLY and obstacle is not None:
        raise errors.PlacementImpossible(placement=EARLY, reason=obstacle)
    if asked == EARLY and eager:
        raise errors.PlacementImpossible(
            placement=EARLY, reason="with --eager everything is here before the guest runs; leave one of them out"
        )
    if asked != AUTO:
        return Placement(asked, "asked for")
    if eager:
        return Placement(MAPPED, "all of the overlay is fetched first")
    total = sum(segment.stored_bytes for segment in segments)
    first = sum(segment.stored_bytes for segment in segments if segment.section == "working_set")
    recorded = first > 0
    needed = first if recorded else total // 2
    if local:
        return Placement(MAPPED, "the overlay is on this host")
    if obstacle is not None:
        return Placement(MAPPED, obstacle)
    if rate_bytes_per_s is None:
        if total < _SMALL_BYTES:
            return Placement(MAPPED, f"the overlay is small ({total / 1e6:.1f} MB)")
        return Placement(EARLY, f"{total / 1e6:.1f} MB are to come, and the link's rate is not known yet")
    whole_s, early_s = total / rate_bytes_per_s, needed / rate_bytes_per_s + _EARLY_OVERHEAD_S
    what = "its recorded working set" if recorded else "half of it (no working set was recorded)"
    comparison = (
        f"at {rate_bytes_per_s * 8e-6:.0f} Mbit/s all of the overlay takes {whole_s:.1f} s, "
        f"{what} and on-demand pages {early_s:.1f} s"
    )
    return Placement(EARLY if early_s < whole_s else MAPPED, comparison)
