# SPDX-License-Identifier: Apache-2.0
"""Outage: the time in which nothing comes from a source by any of several connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cloudlet_ext.engine.errors import SourceInterrupted
from cloudlet_ext.engine.patience import Patience, Trouble


class Outage:
    """Begins when an attempt fails during which no connection brought a byte; ends with the next
    byte.

    A connection that breaks while others go on is none. During an outage one attempt is made at a
    time. Thread-safe; ``callback`` is held while a callback runs, so that they come one at a time.
    """

    def __init__(
        self,
        patience: Patience,
        callback: threading.Lock,
        on_stall: Callable[[Exception, int], None],
        on_recover: Callable[[], None],
    ) -> None:
        self._trouble = Trouble(patience)
        self._lock = callback
        self._on_stall = on_stall
        self._on_recover = on_recover
        self._last_byte_s = 0.0
        self._last_failure_s = 0.0
        self._not_before_s = 0.0
        self.is_on = False

    def delay_s(self, in_flight_bytes: int) -> float | None:
        """Seconds until the next attempt may be made; None: not before the present one has
        ended."""
        if not self.is_on:
            return 0.0
        if in_flight_bytes:
            return None
        return max(0.0, self._not_before_s - time.monotonic())

    def failed(self, error: SourceInterrupted, start_s: float) -> bool:
        """An attempt that began at ``start_s`` failed; whether this is an outage.

        SourceGaveUp when there were too many failures with too few bytes in between.
        """
        with self._lock:
            nothing_came = self._last_byte_s < start_s
            # Connections that broke together are one failure.
            if start_s >= self._last_failure_s:
                delay = self._trouble.failed(error)
                self._last_failure_s = time.monotonic()
                self._not_before_s = self._last_failure_s + delay
                if nothing_came:
                    self.is_on = True
                    self._on_stall(error, self._trouble.attempts)
            return nothing_came

    def came(self, length: int) -> bool:
        """``length`` bytes came; whether that ended an outage."""
        self._last_byte_s = time.monotonic()
        if not self.is_on and not self._trouble.attempts:
            return False
        with self._lock:
            self._trouble.came(length)
            ended, self.is_on = self.is_on, False
            if ended:
                self._on_recover()
        return ended
