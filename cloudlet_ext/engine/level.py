# SPDX-License-Identifier: Apache-2.0
"""Level: how hard to compress, chosen by what a sample takes on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from cloudlet_ext.engine.compression import LEVELS, Content, compress

AUTO = "auto"
BUDGET_S = 1.0

_COST = {1: 0.8, 3: 1.0, 6: 2.2, 9: 3.2, 12: 7.0, 15: 14.0, 19: 45.0}
"""Time of a level relative to level 3 on memory pages."""


def choose_level(level: int | str, tasks: Sequence[Callable[[], Content]]) -> int:
    """``level`` itself if it is a number, else the highest of LEVELS that BUDGET_S allows for ``tasks``."""
    if level != AUTO:
        return int(level)
    if not tasks:
        return LEVELS[-1]
    picked = [tasks[len(tasks) * part // 4] for part in range(4)][: len(tasks)]
    contents = [task() for task in picked]
    began = time.perf_counter()
    for content in contents:
        compress(content, 3)
    each = (time.perf_counter() - began) / len(contents)
    total = each * len(tasks) / len(os.sched_getaffinity(0))
    fitting = [level for level in LEVELS if total * _COST[level] <= BUDGET_S]
    return max(fitting, default=LEVELS[0])
