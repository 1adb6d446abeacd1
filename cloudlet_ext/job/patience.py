# SPDX-License-Identifier: Apache-2.0
"""Time limits for a guest whose memory may still be on its way."""

from __future__ import annotations

import time
from collections.abc import Callable


class Patience:
    """A time limit that begins when all of a guest's memory is here: what it needs may come late through a thin link.

    ``memory_arrives``: whether that is still to be waited for; what it raises is raised here. It is asked only when
    the limit has passed, so that up to twice as long is waited once the memory is here.
    """

    def __init__(self, memory_arrives: Callable[[], bool], limit_s: float) -> None:
        self._memory_arrives, self._limit_s = memory_arrives, limit_s
        self._is_here = not memory_arrives()
        self._deadline = time.monotonic() + limit_s

    def is_over(self) -> bool:
        """Whether the time is up."""
        if time.monotonic() <= self._deadline:
            return False
        if self._is_here:
            return True
        self._is_here = not self._memory_arrives()
        self._deadline = time.monotonic() + self._limit_s
        return False
