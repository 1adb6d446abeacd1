# SPDX-License-Identifier: Apache-2.0
"""Reports that show an operation's progress: a bar on a terminal, else a line now and then, or JSON lines.

An operation's threads only leave their figures here; one thread of ours looks at them a few times a second.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from abc import abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import IO, Any

from cloudlet_ext.cmd import text
from cloudlet_ext.worker.report import Report

_BAR_EVERY_S = 0.15
_LINE_EVERY_S = 10.0
_JSON_EVERY_S = 1.0
_RATE_WINDOW_S = 5.0
_BAR_CELLS = 24
_NAME_CELLS = 12


@dataclass(frozen=True)
class Standing:
    """How far a stage is: ``done`` of ``total`` bytes (0: not known), after ``elapsed_s``, at the present rate."""

    stage: str
    elapsed_s: float
    done: int
    total: int
    rate_bytes_per_s: float

    @property
    def left_s(self) -> float | None:
        """Seconds until the end, as far as it can be told."""
        if not self.rate_bytes_per_s or self.total <= self.done:
            return None
        return (self.total - self.done) / self.rate_bytes_per_s


class QuietReport(Report):
    """Shows nothing."""

    def close(self, *, failed: bool = False) -> None:
        """The operation is over, well or not."""


class WatchedReport(QuietReport):
    """A report with a thread that shows the standing every ``every_s`` seconds."""

    def __init__(self, stream: IO[str], every_s: float) -> None:
        super().__init__()
        self._stream = stream
        self._every_s = every_s
        self._lock = threading.Lock()
        self._figures = (0, 0)
        self._samples: deque[tuple[float, int]] = deque()
        self._ended = threading.Event()
        self._watcher: threading.Thread | None = None

    def stage(self, name: str) -> None:
        """A stage begins, the one before it is over."""
        with self._lock:
            self._end_stage()
            super().stage(name)
            self._figures = (0, 0)
            self._samples.clear()
            self._samples.append((self.elapsed_s, 0))
            self.show_begin(name)
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="progress", daemon=True)
            self._watcher.start()

    def progress(self, done: int, total: int) -> None:
        """Called from busy threads: only notes."""
        self._figures = (done, total)

    def note(self, text: str) -> None:
        """Show it at once."""
        with self._lock:
            self.show_note(text)

    def close(self, *, failed: bool = False) -> None:
        """End the thread; the stage under way is shown as ended, unless it failed."""
        self._ended.set()
        if self._watcher is not None:
            self._watcher.join()
        with self._lock:
            if failed:
                self.show_failed()
            else:
                self._end_stage()
            self.stages.clear()

    def standing(self) -> Standing:
        """Of the present stage."""
        name, began = self.stages[-1]
        now, (done, total) = self.elapsed_s, self._figures
        then, before = self._samples[0] if self._samples else (began, 0)
        rate = (done - before) / (now - then) if now > then else 0.0
        return Standing(name, now - began, done, total, max(rate, 0.0))

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s):
            with self._lock:
                now = self.elapsed_s
                self._samples.append((now, self._figures[0]))
                while len(self._samples) > 2 and self._samples[1][0] < now - _RATE_WINDOW_S:
                    self._samples.popleft()
                self.show_standing(self.standing())

    def _end_stage(self) -> None:
        if self.stages:
            now = self.standing()
            whole = now.done / now.elapsed_s if now.elapsed_s > 0 else 0.0
            self.show_end(Standing(now.stage, now.elapsed_s, now.done, now.total, whole))

    def _write(self, line: str) -> None:
        try:
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError):
            # Nobody reads it any more, which is no reason to end the work.
            self._ended.set()

    def show_begin(self, name: str) -> None:
        """A stage begins."""

    @abstractmethod
    def show_standing(self, standing: Standing) -> None:
        """A stage is under way."""

    @abstractmethod
    def show_end(self, standing: Standing) -> None:
        """A stage is over; the rate is that of all of it."""

    @abstractmethod
    def show_note(self, words: str) -> None:
        """Something was noted."""

    def show_failed(self) -> None:
        """The stage under way ends with a failure."""


def _amount(standing: Standing) -> str:
    """``93.1 MB in 1.20 s, 77.6 MB/s``."""
    took = text.seconds(standing.elapsed_s)
    if not standing.done:
        return took
    return f"{text.size(standing.done)} in {took}, {text.size(standing.rate_bytes_per_s)}/s"


class LineReport(WatchedReport):
    """Plain lines: one at the end of a stage, and one every ten seconds of a long one."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream, _LINE_EVERY_S)

    def show_standing(self, standing: Standing) -> None:
        """One line; none of a stage that has just begun."""
        if standing.elapsed_s < _LINE_EVERY_S / 2:
            return
        share = f"{min(standing.done / standing.total, 1):.0%} of " if standing.total else ""
        left = f", {text.seconds(standing.left_s)} left" if standing.left_s is not None else ""
        amount = f", {share}{text.size(standing.total or standing.done)}" if standing.done else ""
        self._write(f"{standing.stage}: {text.seconds(standing.elapsed_s)} so far{amount}{left}\n")

    def show_end(self, standing: Standing) -> None:
        """One line."""
        self._write(f"{standing.stage}: {_amount(standing)}\n")

    def show_note(self, words: str) -> None:
        """One line."""
        self._write(f"{words}\n")


class JsonReport(WatchedReport):
    """JSON lines: {"stage"}, {"progress"} once a second, {"note"}."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream, _JSON_EVERY_S)

    def _line(self, document: dict[str, Any]) -> None:
        self._write(json.dumps(document) + "\n")

    def show_begin(self, name: str) -> None:
        """{"stage": {...}}."""
        self._line({"stage": {"name": name, "elapsed_s": round(self.elapsed_s, 3)}})

    def show_standing(self, standing: Standing) -> None:
        """{"progress": {...}}."""
        facts = {
            "stage": standing.stage,
            "stage_s": round(standing.elapsed_s, 3),
            "done_bytes": standing.done,
            "total_bytes": standing.total or None,
            "rate_bytes_per_s": round(standing.rate_bytes_per_s),
        }
        self._line({"progress": facts})

    def show_end(self, standing: Standing) -> None:
        """The next stage tells."""

    def show_note(self, words: str) -> None:
        """{"note": "..."}."""
        self._line({"note": words})


class TerminalReport(WatchedReport):
    """A bar on the last line; stages that are over stay above it."""

    _SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

    def __init__(self, stream: IO[str]) -> None:
        super().__init__(stream, _BAR_EVERY_S)
        unicode = str(getattr(stream, "encoding", None)).lower().replace("-", "") == "utf8"
        self._full, self._empty = ("━", "─") if unicode else ("#", ".")
        self._done_mark = "✔" if unicode else "*"
        self._turning = self._SPINNER if unicode else "|/-\\"
        self._turn = 0
        self._has_colour = "NO_COLOR" not in os.environ

    def _coloured(self, code: str, words: str) -> str:
        return f"\x1b[{code}m{words}\x1b[0m" if self._has_colour else words

    def _line(self, mark: str, name: str, rest: str, colour: str, end: str) -> None:
        """Replace the last line. Cut to the terminal's width: a line that wraps could not be replaced."""
        width = shutil.get_terminal_size().columns - 1
        plain = f"{mark} {name:<{_NAME_CELLS}} {rest}"[:width]
        head, tail = plain[: len(mark)], plain[len(mark) :]
        self._write(f"\r\x1b[K{self._coloured(colour, head)}{tail}{end}")

    def show_begin(self, name: str) -> None:
        """The bar of the new stage."""
        self.show_standing(Standing(name, 0.0, 0, 0, 0.0))

    def show_standing(self, standing: Standing) -> None:
        """Draw the bar; without a total, a sign that it goes on."""
        self._turn += 1
        mark = self._turning[self._turn % len(self._turning)]
        took = text.seconds(standing.elapsed_s)
        if not standing.total:
            amount = f"  {text.size(standing.done)}" if standing.done else ""
            self._line(mark, standing.stage, took + amount, "36", "")
            return
        share = min(standing.done / standing.total, 1.0)
        cells = round(share * _BAR_CELLS)
        bar = self._full * cells + self._empty * (_BAR_CELLS - cells)
        left = f"  {text.seconds(standing.left_s)} left" if standing.left_s is not None else ""
        of = f"{text.size(standing.done)} of {text.size(standing.total)}"
        rate = f"{text.size(standing.rate_bytes_per_s)}/s"
        self._line(mark, standing.stage, f"{bar} {share:4.0%}  {of}  {rate}{left}", "36", "")

    def show_end(self, standing: Standing) -> None:
        """Leave one line of it."""
        self._line(self._done_mark, standing.stage, _amount(standing), "32", "\n")

    def show_note(self, words: str) -> None:
        """A line above the bar."""
        self._write(f"\r\x1b[K  {words}\n")

    def show_failed(self) -> None:
        """The error says the rest."""
        self._write("\r\x1b[K")


def choose_report(*, as_json: bool, quiet: bool, stream: IO[str] | None = None) -> QuietReport:
    """The report that fits where standard error goes."""
    stream = stream or sys.stderr
    if quiet:
        return QuietReport()
    if as_json:
        return JsonReport(stream)
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        return TerminalReport(stream)
    return LineReport(stream)
