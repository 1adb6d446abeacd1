# SPDX-License-Identifier: Apache-2.0
"""What one run of the benchmarks shares: folders, the rows, the clock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.link import Rate
from benchmarks.rows import Rows
from cloudlet_ext.worker import server
from cloudlet_ext.worker.home import Home

WORK = Path(os.environ.get("CLOUDLET_WORK", "/var/tmp/cloudlet"))
GUESTS = WORK / "guests"

USUAL = Rate(38, 1)
"""The link at which tools and workloads are compared."""


class SetupFailed(Exception):
    """The benchmarks cannot run here; the message says what is missing."""


@dataclass
class Bench:
    """One run. ``folder`` outlives it (bases, data), ``scratch`` does not.

    ``packed``: what peers made, by workload and peer; ``failures``: what could not be measured, for the report.
    """

    folder: Path
    scratch: Path
    home: Home
    quick: bool
    deep: bool
    workloads: tuple[str, ...]
    figures: tuple[str, ...]
    rows: Rows = field(default_factory=Rows)
    packed: dict[tuple[str, str], Path] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    @property
    def repeats(self) -> int:
        """Measurements of which the median is taken, at W1."""
        return 3 if self.quick else 5

    def repeats_of(self, workload: str) -> int:
        """The same for any workload."""
        return self.repeats if workload == "W1" else min(3, self.repeats)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    def say(self, text: str) -> None:
        """Tell a person what happens."""
        print(f"[{self.elapsed_s:6.1f} s] {text}", flush=True)

    def stop(self, name: str) -> None:
        """End a server, if it is there."""
        with contextlib.suppress(Exception):
            server.load(self.home, name).destroy()

    def is_deep(self, workload: str) -> bool:
        """Whether a workload is also compressed at level 19, which takes minutes where there is much to compress."""
        return not self.quick and (self.deep or workload in ("W0", "W1"))

    @contextlib.contextmanager
    def section(self, what: str) -> Iterator[None]:
        """Say how long something took."""
        self.say(what)
        began = time.monotonic()
        yield
        self.say(f"{what}: {time.monotonic() - began:.1f} s")


@contextlib.contextmanager
def opened(quick: bool, deep: bool, workloads: tuple[str, ...], figures: tuple[str, ...]) -> Iterator[Bench]:
    """A run of its own; at the end nothing of it is left but bases and data. :class:`SetupFailed` when another runs."""
    folder = WORK / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupFailed(f"Another run of the benchmarks uses {folder}.") from None
        for left in folder.glob("run-*"):
            shutil.rmtree(left, ignore_errors=True)
        home = Home(folder / "home")
        _stop_all(home)
        with tempfile.TemporaryDirectory(prefix="run-", dir=folder) as scratch:
            try:
                yield Bench(folder, Path(scratch), home, quick, deep, workloads, figures)
            finally:
                _stop_all(home)


def _stop_all(home: Home) -> None:
    for entry in home.servers.iterdir():
        with contextlib.suppress(Exception):
            server.load(home, entry.name).destroy()
        shutil.rmtree(entry, ignore_errors=True)
    shutil.rmtree(home.scratch, ignore_errors=True)
