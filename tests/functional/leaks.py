# SPDX-License-Identifier: Apache-2.0
"""What must not be left after an operation: processes, folders, threads, sockets, temporary files, open files."""

from __future__ import annotations

import gc
import os
import threading
import time
from pathlib import Path

THREADS = ("drain", "feed", "fetch", "unpack", "nbd", "monitor", "watch", "launch", "return-path", "log-keeper")
_SETTLE_S = 10.0


def processes(root: Path) -> list[str]:
    """Processes that run in the folder, or that name it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            inside = (entry / "cwd").readlink().is_relative_to(root)
        except OSError:
            continue
        if words.strip() and "qemu" in words and (inside or f"{root}/" in words):
            found.append(f"{entry.name}: {words[:200]}")
    return found


def files(root: Path) -> list[str]:
    """Files and folders that belong to operations."""
    found = [path for home in root.glob("**/servers") for path in home.iterdir()]
    for folder in ("scratch", "locks"):
        found += [path for home in root.glob(f"**/{folder}") for path in home.iterdir()]
    found += root.glob("**/bases/.*")
    found += [path for pattern in ("*.sock", "*.partial") for path in root.rglob(pattern)]
    return [str(path) for path in found]


def open_files(root: Path) -> list[str]:
    """Files without a name that this process still holds in the folder."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            target = str(Path("/proc/self/fd", number).readlink())
        except OSError:
            continue
        if target.startswith(str(root)) and target.endswith("(deleted)"):
            found.append(target)
    return found


def threads() -> list[str]:
    """Threads of operations."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREADS)]


def all_of(root: Path) -> dict[str, list[str]]:
    """What is left, by kind."""
    gc.collect()
    found = {"processes": processes(root), "files": files(root), "open files": open_files(root), "threads": threads()}
    return {kind: names for kind, names in found.items() if names}


def check(root: Path) -> None:
    """Fail with what is left, once it had time to go."""
    deadline = time.monotonic() + _SETTLE_S
    while left := all_of(root):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.05)
