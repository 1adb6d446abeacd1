# SPDX-License-Identifier: Apache-2.0
"""LinkMeter: rate and latency of the link to a source, from the transfers themselves."""

from __future__ import annotations

import math
import threading
import time

MEMORY_S = 2.0
"""Time constant of the rate: what came this long ago counts 1/e of what comes now."""

EVIDENCE_BYTES = 32 * 1024
EVIDENCE_S = 0.001
"""Least transfer that says anything about the rate."""


class LinkMeter:
    """Bytes over the time in which at least one answer was being received.

    Waiting for a first byte is not part of that time, so the round trip is not in the rate. Several
    answers at once count as one link. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._receiving = 0
        self._last_s = 0.0
        self._bytes = 0.0
        self._seconds = 0.0
        self._latency_s: float | None = None

    @property
    def rate_bytes_per_s(self) -> float | None:
        """Rate without round trips, or None before enough has come (about 64 KiB)."""
        with self._lock:
            if self._bytes < EVIDENCE_BYTES or self._seconds < EVIDENCE_S:
                return None
            return self._bytes / self._seconds

    @property
    def latency_s(self) -> float:
        """Shortest time from a request to its first byte, seconds; 0 before the first answer."""
        return self._latency_s or 0.0

    def answered(self, latency_s: float) -> None:
        """A first byte came ``latency_s`` after its request."""
        with self._lock:
            if self._latency_s is None or latency_s < self._latency_s:
                self._latency_s = latency_s

    def begin(self) -> None:
        """The first bytes of an answer are here (they are not counted: they came before)."""
        with self._lock:
            self._tick()
            self._receiving += 1

    def count(self, length: int) -> None:
        """``length`` more bytes of an answer that has begun are here."""
        with self._lock:
            self._tick()
            self._bytes += length

    def end(self) -> None:
        """An answer that has begun is over."""
        with self._lock:
            self._tick()
            self._receiving -= 1

    def _tick(self) -> None:
        now = time.monotonic()
        if self._receiving:
            passed = now - self._last_s
            kept = math.exp(-passed / MEMORY_S)
            self._bytes *= kept
            self._seconds = self._seconds * kept + passed
        self._last_s = now
