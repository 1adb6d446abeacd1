# SPDX-License-Identifier: Apache-2.0
"""How much memory of its own a process takes; maps of files are not counted."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def measured(script: str, folder: Path, chunks: int) -> tuple[int, dict[str, Any]]:
    """The most anonymous memory of a process that runs ``script``, in bytes, and what it prints."""
    peak = 0
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder), str(chunks)], stdout=subprocess.PIPE, text=True
    ) as worker:
        while worker.poll() is None:
            found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{worker.pid}/status").read_text())
            peak = max(peak, int(found[1]) << 10 if found else 0)
            time.sleep(0.003)
        told: dict[str, Any] = json.loads(worker.communicate()[0])
    return peak, told
