# SPDX-License-Identifier: Apache-2.0
"""Progress on standard error while a command waits: a bar on a terminal, lines elsewhere, nothing with --quiet."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from typing import IO

from cloudlet_ext.osc.figures import seconds, size
from cloudlet_ext.sdk.operation import Operation

_LINE_EVERY_S = 10.0
_DRAW_EVERY_S = 0.15
_BAR_CELLS = 24


class Progress:
    """Shows nothing."""

    def show(self, stage: str, done: int, total: int, rate: float | None, left_s: float | None) -> None:
        """``done`` of ``total`` bytes of ``stage`` (0: not known), at ``rate`` bytes/s, for ``left_s`` more seconds."""

    def note(self, words: str) -> None:
        """Tell something that is no figure."""

    def close(self) -> None:
        """It is over, well or not."""

    def operation(self, operation: Operation | None) -> None:
        """Show an operation; None as long as no compute host has taken it."""
        if operation is None:
            self.show("waiting for a compute host", 0, 0, None, None)
            return
        stage = operation.stage or operation.state
        done, total = operation.done_bytes or 0, operation.total_bytes or 0
        self.show(stage, done, total, operation.rate_bytes_per_s, operation.estimate_s)


class _Written(Progress):
    """Progress in words on a stream."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def _write(self, words: str) -> None:
        # Nobody reading it is no reason to end the work.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(words)
            self._stream.flush()


class LineProgress(_Written):
    """A line when a stage begins, and one every ten seconds of a long one."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        self._stage: str | None = None
        self._told_at = 0.0

    def show(self, stage: str, done: int, total: int, rate: float | None, left_s: float | None) -> None:
        """One line, or none."""
        now = time.monotonic()
        if stage != self._stage:
            self._write(f"{stage}\n")
        elif now - self._told_at < _LINE_EVERY_S:
            return
        else:
            self._write(f"{stage}{_amount(done, total, rate, left_s)}\n")
        self._stage, self._told_at = stage, now

    def note(self, words: str) -> None:
        """One line."""
        self._write(f"{words}\n")


class BarProgress(_Written):
    """A bar on the last line of a terminal."""

    _SPINNER = "|/-\\"

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream)
        has_unicode = str(getattr(stream, "encoding", None)).lower().replace("-", "") == "utf8"
        self._full, self._empty = ("━", "─") if has_unicode else ("#", ".")
        self._turn = 0
        self._drawn_at = 0.0
        self._stage: str | None = None

    def show(self, stage: str, done: int, total: int, rate: float | None, left_s: float | None) -> None:
        """Draw the bar; without a total, a sign that it goes on."""
        now = time.monotonic()
        if stage == self._stage and now - self._drawn_at < _DRAW_EVERY_S:
            return
        self._stage, self._drawn_at = stage, now
        self._turn += 1
        bar = self._SPINNER[self._turn % len(self._SPINNER)]
        if total:
            cells = round(min(done / total, 1.0) * _BAR_CELLS)
            bar = self._full * cells + self._empty * (_BAR_CELLS - cells)
        # Cut to the terminal's width: a line that wraps could not be replaced.
        width = shutil.get_terminal_size().columns - 1
        self._write("\r\x1b[K" + f"{stage:<12} {bar}{_amount(done, total, rate, left_s)}"[:width])

    def note(self, words: str) -> None:
        """A line above the bar."""
        self._write(f"\r\x1b[K{words}\n")

    def close(self) -> None:
        """Take the bar away, if it is there."""
        if self._stage is not None:
            self._stage = None
            self._write("\r\x1b[K")


class TransferProgress:
    """Counts the bytes of a transfer of ``total`` bytes and shows them."""

    def __init__(self, progress: Progress, stage: str, total: int) -> None:
        self._progress, self._stage, self._total = progress, stage, total
        self._began = time.monotonic()
        self._done = 0

    def __call__(self, moved: int) -> None:
        """``moved`` more bytes."""
        self._done += moved
        elapsed = time.monotonic() - self._began
        rate = self._done / elapsed if elapsed > 0 else None
        left_s = (self._total - self._done) / rate if rate else None
        self._progress.show(self._stage, self._done, self._total, rate, left_s)


def choose_progress(stream: IO[str], *, is_quiet: bool) -> Progress:
    """The progress that fits ``stream``."""
    if is_quiet:
        return Progress()
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return BarProgress(stream)
    return LineProgress(stream)


def _amount(done: int, total: int, rate: float | None, left_s: float | None) -> str:
    """``  62%  81.2 MB of 131 MB, 41.0 MB/s, 1.2 s left``, as far as it is known."""
    if not done and not total:
        return ""
    words = [f"{min(done / total, 1.0):4.0%}  {size(done)} of {size(total)}" if total else f"  {size(done)}"]
    if rate:
        words.append(f"{size(rate)}/s")
    if left_s is not None:
        words.append(f"{seconds(left_s)} left")
    return f" {', '.join(words)}"
