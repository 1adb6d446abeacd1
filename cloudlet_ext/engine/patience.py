# SPDX-License-Identifier: Apache-2.0
"""Patience: how often and how long to try again when a source breaks off."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cloudlet_ext.engine.errors import SourceError, SourceGaveUp, SourceInterrupted


@dataclass(frozen=True)
class Patience:
    """Limits of trying again: whichever of ``attempts`` and ``give_up_s`` is reached first ends it.

    The delay before attempt n doubles from ``first_delay_s`` up to ``longest_delay_s``; half of it
    is random, so that many clients of one server that came back do not return together.
    """

    attempts: int = 10
    first_delay_s: float = 0.1
    longest_delay_s: float = 5.0
    give_up_s: float = 60.0

    def delay_s(self, attempt: int) -> float:
        """Seconds to wait after failed attempt number ``attempt`` (from 1)."""
        full = min(self.longest_delay_s, self.first_delay_s * 2.0 ** min(attempt - 1, 30))
        return full * random.uniform(0.5, 1.0)


USUAL = Patience()


RECOVERED_BYTES = 16 * 1024
"""What must come before failures count from one again: else a server that sends a few bytes and then
breaks off, time after time, would never be given up."""


class Trouble:
    """Counts failures until enough bytes have come in between."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._since_s = 0.0
        self._bytes = 0
        self.attempts = 0

    def came(self, length: int) -> None:
        """``length`` bytes came."""
        if self.attempts:
            self._bytes += length
            if self._bytes >= RECOVERED_BYTES:
                self.attempts = 0

    def failed(self, error: SourceError) -> float:
        """Count a failure; seconds to wait before the next attempt. SourceGaveUp beyond the
        limit."""
        now = time.monotonic()
        if not self.attempts:
            self._since_s, self._bytes = now, 0
        self.attempts += 1
        seconds = now - self._since_s
        delay = self._patience.delay_s(self.attempts)
        if self.attempts >= self._patience.attempts or seconds + delay > self._patience.give_up_s:
            raise SourceGaveUp(attempts=self.attempts, seconds=seconds, cause=error) from error
        return delay


def resumed(
    attempt: Callable[[int, int], Iterator[bytes]],
    offset: int,
    length: int,
    patience: Patience,
    closed: threading.Event,
) -> Iterator[bytes]:
    """Bytes [offset, offset + length) by ``attempt(offset, length)``, resumed where it broke off.

    Raises what ``attempt`` raises, except that SourceInterrupted becomes SourceGaveUp after the
    limit. Waiting ends at once when ``closed`` is set.
    """
    trouble = Trouble(patience)
    end = offset + length
    while True:
        try:
            for piece in attempt(offset, end - offset):
                trouble.came(len(piece))
                offset += len(piece)
                yield piece
            return
        except SourceInterrupted as error:
            closed.wait(trouble.failed(error))
