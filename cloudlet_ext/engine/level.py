# SPDX-License-Identifier: Apache-2.0
"""Level: how hard to compress, chosen by what a sample takes on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from cloudlet_ext.engine.compression import Content, compress, thread_count

AUTO = "auto"
BEST = 19

_SAMPLES = 6
_SAMPLE_LEVEL = 3
_COST = {1: 1.0, 3: 1.0, 6: 3.8, 8: 5.0, 18: 90.0}
"""Levels that are worth their time, and that time relative to level 3.

Measured on the 51 compressible segments of a web server's overlay: 9.40, 9.00, 8.68, 8.62, 8.07 MB
in 0.13, 0.13, 0.50, 0.57 and 12.2 s of one core; levels 9 to 15 take 0.7 to 4.7 s for 8.62 to 8.59
MB.
"""
_BUDGET_S = 0.5
_BUDGET_PER_SEGMENT_S = 0.0025
"""An overlay of 1 GiB of slots may take 2.5 s more: sending it takes minutes on a thin link."""


class Tasks(Protocol):
    """Contents that are made when they are asked for; a list has it."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> Callable[[], Content]: ...


def choose_level(level: int | str, tasks: Tasks, budget_s: float | None = None) -> int:
    """``level`` if it is a number, else the highest that ``budget_s`` seconds allow for ``tasks``.

    All cores are counted on. Without ``budget_s`` it is half a second and 2.5 ms per segment.
    ValueError if ``level`` is neither.
    """
    if level != AUTO:
        if not isinstance(level, int) or not 1 <= level <= BEST:
            raise ValueError(f"level {level!r} is neither {AUTO!r} nor a number from 1 to {BEST}")
        return level
    if not tasks:
        return BEST
    if budget_s is None:
        budget_s = _BUDGET_S + _BUDGET_PER_SEGMENT_S * len(tasks)
    total = _sample_s(tasks) * len(tasks)
    fitting = (
        level for level, cost in _COST.items() if total * cost / min(thread_count(level), len(tasks)) <= budget_s
    )
    return max(fitting, default=1)


def _sample_s(tasks: Tasks) -> float:
    """Seconds that one core needs for a task at the sample level: the mean of a few."""
    count = min(_SAMPLES, len(tasks))
    contents = [tasks[len(tasks) * part // count]() for part in range(count)]
    began = time.thread_time()
    for content in contents:
        compress(content, _SAMPLE_LEVEL)
    return (time.thread_time() - began) / count
