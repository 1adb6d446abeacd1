# SPDX-License-Identifier: Apache-2.0
"""How an operation tells what it is doing."""

from __future__ import annotations

import time


class Report:
    """Listens to one operation; this one keeps the times of its stages and says nothing.

    ``stages``: (name, seconds since the report was made) of every stage begun; ``left``: sentences on what is there
    although the operation does not end well.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.stages: list[tuple[str, float]] = []
        self.left: list[str] = []

    @property
    def elapsed_s(self) -> float:
        """Seconds since the report was made."""
        return time.monotonic() - self._began

    def stage(self, name: str) -> None:
        """A stage begins."""
        self.stages.append((name, self.elapsed_s))

    def progress(self, done: int, total: int) -> None:
        """``done`` of ``total`` bytes of the present stage."""

    def note(self, text: str) -> None:
        """Something that a person may want to read."""

    def trouble(self, text: str) -> None:
        """The present stage could not do all of its part; the operation goes on."""
        self.note(text)

    def leaves(self, sentence: str) -> None:
        """The operation fails or is interrupted, and this is not undone."""
        self.left.append(sentence)


class Section(Report):
    """A part of an operation that has a clock of its own; ``whole`` hears of all that happens in it."""

    def __init__(self, whole: Report) -> None:
        super().__init__()
        self._whole = whole

    def stage(self, name: str) -> None:
        """A stage begins."""
        super().stage(name)
        self._whole.stage(name)

    def progress(self, done: int, total: int) -> None:
        """``done`` of ``total`` bytes of the present stage."""
        self._whole.progress(done, total)

    def note(self, text: str) -> None:
        """Something that a person may want to read."""
        self._whole.note(text)

    def trouble(self, text: str) -> None:
        """The present stage could not do all of its part; the operation goes on."""
        self._whole.trouble(text)

    def leaves(self, sentence: str) -> None:
        """The operation fails or is interrupted, and this is not undone."""
        self._whole.leaves(sentence)
