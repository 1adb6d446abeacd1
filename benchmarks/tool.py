# SPDX-License-Identifier: Apache-2.0
"""Our own operations, each measured in a process of its own."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

from benchmarks.bench import Bench
from benchmarks.measure import Memory, PeakMemory, ProcessFailed, end

TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Done:
    """An operation that ended well. ``result``: the fields of its result; ``stages``: (name, seconds it took)."""

    result: dict[str, Any]
    stages: tuple[tuple[str, float], ...]
    notes: tuple[tuple[str, float], ...]
    first_reply_s: float | None
    elapsed_s: float
    peak: Memory

    def stage_text(self) -> str:
        """Where the time went, for a person."""
        return ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.stages if seconds >= 0.005) + " s"


def run(bench: Bench, operation: str, limit_s: float = TIMEOUT_S, **arguments: Any) -> Done:
    """Do one operation; :class:`ProcessFailed` holds the end of what it said when it fails."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.operation"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    late = threading.Timer(limit_s, end, (process,))
    late.start()
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        request = {"operation": operation, "home": str(bench.home.path), **arguments}
        with PeakMemory(process.pid) as watched:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        _, said = process.communicate()
    except BrokenPipeError:
        raise ProcessFailed(f"{operation} ended before it began") from None
    finally:
        late.cancel()
        end(process)
    if not line or process.returncode:
        text = said.decode(errors="replace").strip()[-1500:]
        raise ProcessFailed(f"{operation} failed (status {process.returncode}): {text}")
    return _done(json.loads(line), watched.peak)


def _done(document: dict[str, Any], peak: Memory) -> Done:
    stages = document["stages"]
    result = document["result"]
    return Done(
        result=result,
        stages=tuple((name, following - begin) for (name, begin), (_, following) in itertools.pairwise(stages)),
        notes=tuple((text, at) for text, at in document["notes"]),
        first_reply_s=document["first_reply_s"] or result.get("first_reply_s"),
        elapsed_s=document["elapsed_s"],
        peak=peak,
    )
