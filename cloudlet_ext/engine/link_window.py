# SPDX-License-Identifier: Apache-2.0
"""LinkWindow: how much to ask for ahead, so that a link stays full and its queue stays short."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

QUEUE_S = 0.1
"""Bytes asked for beyond what the round trip needs, as time. A link then stays full although
threads are woken late (tens of milliseconds on two busy cores); a wanted segment waits this long at
most."""

REQUESTS = 4
"""Requests that share a window. When one ends, the other three keep the link full for a round
trip."""

LEAST_QUANTUM_BYTES = 64 * 1024
MOST_QUANTUM_BYTES = 2 * 1024 * 1024
"""A request below costs the link more than 1 % in headers; above, nothing is gained."""

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
        self._peak = 0.0
        self._peak_at_s = 0.0

    def now(self, rate_bytes_per_s: float | None) -> Window:
        """The window at a measured rate (None: not known yet)."""
        now = time.monotonic()
        self._peak *= math.exp((self._peak_at_s - now) / FORGET_PEAK_S)
        self._peak = max(self._peak, rate_bytes_per_s or 0.0)
        self._peak_at_s = now
        latency = self._latency_s
        bulk = int(self._peak * max(latency + QUEUE_S, 1.5 * latency))
        quantum = min(max(bulk // REQUESTS, LEAST_QUANTUM_BYTES), MOST_QUANTUM_BYTES)
        bulk = min(max(bulk, 2 * quantum), REQUESTS * MOST_QUANTUM_BYTES)
        if now - self._latency_at_s > LATENCY_AGE_S:
            bulk = quantum
        return Window(quantum, bulk, int(self._peak * latency))

    def sample(self, latency_s: float, in_flight_bytes: int, window: Window) -> None:
        """A first byte came ``latency_s`` after a request made with ``in_flight_bytes`` in
        flight."""
        now = time.monotonic()
        stale = now - self._latency_at_s > LATENCY_AGE_S
        idle = in_flight_bytes <= window.quantum_bytes
        if latency_s <= self._latency_s or not self._latency_s or (stale and idle):
            self._latency_s, self._latency_at_s = latency_s, now
