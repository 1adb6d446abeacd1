# SPDX-License-Identifier: Apache-2.0
"""Measure in a real cloud what the extension promises, against an ordinary boot, and hold it against the targets."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import cloud_figures as figures
from benchmarks import cloud_judge, cloud_plot
from benchmarks.attempt import attempt
from benchmarks.bench import WORK, SetupFailed
from benchmarks.cloud_bench import MINICLOUD, ROOT, CloudBench
from benchmarks.cloud_probe import Prober
from benchmarks.facts import first_line, processor

RESULTS = ROOT / "benchmarks" / "results"


def running_services(status: str, name: str) -> int | None:
    """How many services of a cloud run, by the table of ``tools/minicloud status``; None when it was never made."""
    cloud: str | None = None
    count: int | None = None
    for line in status.splitlines():
        words = line.split()
        if words and not line.startswith(" "):
            cloud = words[0]
            count = 0 if cloud == name else count
        elif cloud == name and count is not None and len(words) > 2 and words[2] == "up":
            count += 1
    return count


def _minicloud(*arguments: str) -> None:
    done = subprocess.run([MINICLOUD, *arguments], check=False)
    if done.returncode:
        raise SetupFailed(f"tools/minicloud {' '.join(arguments)} failed (status {done.returncode})")


@contextlib.contextmanager
def cloud_up(name: str) -> Iterator[None]:
    """The cloud runs; afterwards it is as it was found: up, down, or not there."""
    done = subprocess.run([MINICLOUD, "status"], capture_output=True, text=True, check=False)
    before = running_services(done.stdout, name)
    if before and all("down" not in line.split() for line in _lines_of(done.stdout, name)):
        yield
        return
    try:
        _minicloud("up", name)
        yield
    finally:
        if not before:
            _minicloud("down" if before is not None else "clean", name)


def _lines_of(status: str, name: str) -> list[str]:
    lines: list[str] = []
    cloud = ""
    for line in status.splitlines():
        if line.strip() and not line.startswith(" "):
            cloud = line.split()[0]
        elif cloud == name:
            lines.append(line)
    return lines


def _hear_nothing() -> None:
    """From now on no interruption ends what is done, nor the programs that are run for it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def opened(name: str, quick: bool) -> Iterator[CloudBench]:
    """A run of its own; what it makes goes at its end. :class:`SetupFailed` when another runs."""
    from tests.cloud.cloud import Cloud

    folder = WORK / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context((folder / "cloud-lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SetupFailed(f"Another run of benchmarks/cloud uses {folder}.") from None
        for left in folder.glob("cloud-run-*"):
            shutil.rmtree(left, ignore_errors=True)
        stack.enter_context(cloud_up(name))
        cloud = Cloud(name)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cloud-run-", dir=folder)))
        prober = stack.enter_context(Prober([str(MINICLOUD), "net", name, "python"]))
        bench = CloudBench(cloud, prober, scratch, f"bench-{secrets.token_hex(3)}", quick)
        stack.enter_context(cloud.only_host(cloud.hosts[0]))
        try:
            yield bench
        finally:
            _hear_nothing()
            bench.say("cleaning up")
            bench.clean()


def measure(bench: CloudBench) -> None:
    """Everything."""
    made = figures.prepare(bench)
    attempt(bench, "ordinary starts", lambda: figures.ordinary_starts(bench, made))
    for placement in figures.PLACEMENTS:
        attempt(bench, figures.synthesis(placement), lambda one=placement: figures.syntheses(bench, made, one))  # type: ignore[misc]
    attempt(bench, "resume by size", lambda: figures.sizes(bench))
    attempt(bench, "density", lambda: figures.density(bench))


def _measure_all(bench: CloudBench) -> None:
    """What was measured before an end is told, too."""
    try:
        measure(bench)
    except SetupFailed:
        raise
    except KeyboardInterrupt:
        bench.failures.append("the rest: interrupted")
    except Exception as failure:  # noqa: BLE001 - the border of the run
        traceback.print_exc()
        bench.failures.append(f"the rest: {type(failure).__name__}: {failure}")


def _facts() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": first_line("git", "rev-parse", "--short=12", "HEAD"),
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "load before": round(os.getloadavg()[0], 2),
        "qemu": first_line("qemu-system-x86_64", "--version"),
        "libvirt": first_line("libvirtd", "--version"),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def publish(bench: CloudBench, facts: dict[str, Any], folder: Path, json_file: Path | None) -> None:
    """Print the report, and write it with rows and plot to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    unjudged = cloud_judge.judge(bench.rows)
    text = cloud_judge.write(bench.rows, facts, unjudged, bench.failures, bench.quick)
    (folder / "cloud.rst").write_text(text)
    bench.rows.write(folder / "cloud.json", facts)
    drawing = cloud_plot.draw(bench.rows)
    if drawing is not None:
        (folder / "cloud.svg").write_text(drawing)
    if json_file is not None:
        shutil.copyfile(folder / "cloud.json", json_file)
    print(f"\n{text}\nwritten to {folder}: cloud.rst, cloud.json{', cloud.svg' if drawing else ''}")


def _interrupted(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/cloud", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="medians of two measurements instead of five")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all rows to FILE as well")
    parser.add_argument("--cloud", default="one", metavar="NAME", help="the minicloud's cloud (default: one)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """0 when everything was measured, whatever the values."""
    options = _arguments(arguments)
    signal.signal(signal.SIGTERM, _interrupted)
    folder = WORK / "benchmarks" / "results" / "cloud-quick" if options.quick else RESULTS
    facts = _facts()
    try:
        with opened(options.cloud, options.quick) as bench:
            _measure_all(bench)
    except SetupFailed as failure:
        print(f"benchmarks/cloud: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    facts["took"] = f"{time.monotonic() - bench.began:.0f} s"
    publish(bench, facts, folder, options.json)
    return 1 if bench.failures else 0


if __name__ == "__main__":
    sys.exit(main())
