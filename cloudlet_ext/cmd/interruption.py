# SPDX-License-Identifier: Apache-2.0
"""Signals that end a command: they become an exception, so that what was begun is undone."""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_INSIST = 3
"""So many signals break off the undoing too. The second of an impatient person should not."""


class Interrupted(KeyboardInterrupt):
    """A signal came. ``exit_code`` is what shells expect: 130 for SIGINT, 143 for SIGTERM."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)

    @property
    def exit_code(self) -> int:
        """128 and the signal's number."""
        return 128 + self.number


class Watch:
    """Raises :class:`Interrupted` in the main thread at the first signal, and again when somebody insists.

    ``raised``: the first one, None before.
    """

    def __init__(self) -> None:
        self.raised: Interrupted | None = None
        self._count = 0
        self._is_over = False

    def install(self) -> None:
        """Take the signals. One that is ignored (``nohup``) stays so."""
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)

    def stop(self) -> None:
        """The command is over; from now on the signals do nothing unless somebody insists."""
        self._is_over = True

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._count += 1
        if (self.raised is None and not self._is_over) or self._count >= _INSIST:
            found = Interrupted(number)
            self.raised = self.raised or found
            raise found
