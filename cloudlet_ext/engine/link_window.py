# SPDX-License-Identifier: Apache-2.0
"""LinkWindow: how much to ask for ahead, so that a link stays full and its queue stays short."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

LEAST_QUEUE_S = 0.15
MOST_QUEUE_S = 0.3
"""Bytes asked for beyond what the round trip needs, as time: a wanted segment waits this long at
most. It begins at the least and grows when the link was found idle, which happens when the
processors are so busy that threads are woken late."""

QUANTA = 4
"""Requests to a window: when one ends, three quarters of a window are still on the way, which is more
than the link brings in a round trip."""

LEAST_QUANTUM_BYTES = 32 * 1024
MOST_QUANTUM_BYTES = 2 * 1024 * 1024
"""A request below costs the link more than 1 % in headers; above, nothing is gained."""

FIRST_BULK_BYTES = 256 * 1024
"""In flight as long as the rate is not known."""

FORGET_PEAK_S = 10.0
"""Time constant of forgetting the highest rate seen: a short dip must not narrow the window."""

LATENCY_AGE_S = 10.0
"""The shortest latency seen is believed so long. Then the window is narrowed until a request has
found the link nearly idle, because what is seen on a busy link has its queue in it."""


@dataclass(frozen=True)
class Window:
    """Bytes per request; bytes in flight at most, usually and while wanted segments are in
    flight."""

    quantum_bytes: int
    bulk_bytes: int
    held_bytes: int


class LinkWindow:
    """Window from the measured rate and latency. Not thread-safe."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._latency_at_s = time.monotonic()
        self._queue_s = LEAST_QUEUE_S
        self._peak = 0.0
        self._peak_at_s = 0.0

    def now(self, rate_bytes_per_s: float | None) -> Window:
        """The window at a measured rate (None: not known yet)."""
        now = time.monotonic()
        self._peak *= math.exp((self._peak_at_s - now) / FORGET_PEAK_S)
        self._peak = max(self._peak, rate_bytes_per_s or 0.0)
        self._peak_at_s = now
        latency = self._latency_s
        bulk = int(self._peak * max(latency + self._queue_s, 2 * latency))
        if not self._peak:
            bulk = FIRST_BULK_BYTES
        quantum = min(max(bulk // QUANTA, LEAST_QUANTUM_BYTES), MOST_QUANTUM_BYTES)
        bulk = min(max(bulk, QUANTA * LEAST_QUANTUM_BYTES), QUANTA * MOST_QUANTUM_BYTES)
        if now - self._latency_at_s > LATENCY_AGE_S:
            bulk = quantum
        return Window(quantum, bulk, int(self._peak * latency))

    def was_idle(self) -> None:
        """Too little was in flight to keep the link full, for no good reason."""
        self._queue_s = min(self._queue_s * 1.25, MOST_QUEUE_S)

    def sample(self, latency_s: float, in_flight_bytes: int, window: Window) -> None:
        """A first byte came ``latency_s`` after a request made with ``in_flight_bytes`` in
        flight."""
        now = time.monotonic()
        stale = now - self._latency_at_s > LATENCY_AGE_S
        idle = in_flight_bytes <= window.quantum_bytes
        if latency_s <= self._latency_s or not self._latency_s or (stale and idle):
            self._latency_s, self._latency_at_s = latency_s, now
