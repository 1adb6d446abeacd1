# SPDX-License-Identifier: Apache-2.0
"""Small files that declare huge things: what they cost is bounded, in memory and in time.

Each is read in a process of its own, which tells how much its memory grew at most and how long its processor worked.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine import hostile_files

MIB = 1 << 20
LIMIT_BYTES = 512 * MIB
"""What the page on formats promises."""

IMPORTED_BYTES = 16 * MIB
"""Memory of a process that has imported the engine and done nothing: it has more."""

LIMIT_S = 20.0
"""Of processor time. Measured: 0.1 to 1.5 s to read a file, 2.5 s to draw it, and three times that on a machine that is
busy with other things; what grows with what is declared takes minutes, or does not end."""

READ = """
import json, sys, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from cloudlet_ext.engine import overlay_map
from cloudlet_ext.engine.base_file import BaseFile
from cloudlet_ext.engine.base_import import import_base
from cloudlet_ext.engine.errors import EngineError
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.index import DigestIndex
from cloudlet_ext.engine.qcow2_view import Qcow2View
from cloudlet_ext.engine.slot_store import SlotStore
from cloudlet_ext.engine.statistics import count_classes
from cloudlet_ext.engine.view import TargetView

PUSHES = 100
path, folder, action = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10

def read():
    overlay = OverlayFile.open(FileSource(path))
    table = overlay.table
    overlay.load_order()
    overlay.load_device()
    table.lookup(np.arange(0, 1 << 29, 1 << 14))
    return count_classes(table, overlay.layout).stored

def homes():
    overlay = OverlayFile.open(FileSource(path))
    return int(overlay.table.homes.of(np.arange(0, overlay.slots, 997)).sum())

def draw():
    overlay = OverlayFile.open(FileSource(path))
    return len(overlay_map.draw_svg(overlay_map.map_facts(overlay, "title", "subtitle", None)))

def view():
    overlay = OverlayFile.open(FileSource(path))
    Qcow2View(folder / "layer", overlay.table, 1 << 26).close()

def base():
    import_base(BaseFile.open(FileSource(path)), folder / "base")

def feed():
    # An early start, all of whose content is here at once.
    from cloudlet_ext.worker.pages import MemorySupply
    overlay = OverlayFile.open(FileSource(path))
    index = DigestIndex(0, overlay.layout.total_chunks, np.empty(0, np.int64), np.empty((0, 16), np.uint8))
    base = SimpleNamespace(layout=overlay.layout, index=index)
    store = SlotStore(folder, overlay.chunk_segments)
    view = TargetView(base, overlay.table, store)
    supply = MemorySupply(base, overlay.table, view, store, None, overlay.load_order())
    for segment in overlay.chunk_segments:
        store.arrived[segment.number] = True
        store.arrivals.append(segment.number)
    given = 0
    for _ in range(PUSHES):
        given += len(supply.push(1 << 16))
    return given

before, began = peak(), time.process_time()
try:
    result = {"result": globals()[action]()}
except EngineError as error:
    result = {"error": f"{type(error).__name__}: {error}"}
# What is a map of a file is the page cache's.
after = peak() if action not in ("base", "view") else 0
result |= {"bytes": after - before, "seconds": time.process_time() - began}
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the hostile file of a name."""
    folder: Path = tmp_path_factory.mktemp("hostile")

    def made(name: str) -> Path:
        if not (folder / name).exists():
            (folder / name).write_bytes(getattr(hostile_files, name)())
        return folder / name

    return made


def cost(file: Path, folder: Path, action: str, limit_bytes: int = LIMIT_BYTES) -> dict[str, Any]:
    """Do ``action`` with a file in a process of its own, and see that it is cheap."""
    most = 0
    command = [sys.executable, "-c", READ, str(file), str(folder), action]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        while reader.poll() is None:
            anonymous = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{reader.pid}/status").read_text())
            most = max(most, int(anonymous[1]) << 10 if anonymous else 0)
            time.sleep(0.003)
        found: dict[str, Any] = json.loads(reader.communicate()[0])
    grown = max(found["bytes"], most - IMPORTED_BYTES)
    assert grown <= limit_bytes, f"{grown >> 20} MiB"
    assert found["seconds"] <= LIMIT_S
    return found


REFUSED = {
    "layout_of_a_petabyte": "region 0: 1099511627776 is not a number from 1 to 536870912",
    "many_regions_of_much": "regions: 805306368 is not a number from 1 to 536870912",
    "list_of_tiny_lists": "segment 0: it is not [kind,",
    "row_without_end": "segments: 38000004 bytes without the end of a row of at most 256 bytes",
    "deep_rows": "segments: 20000001 bytes without the end of a row of at most 256 bytes",
    "machine_of_tiny_lists": "machine: it has 2070010 bytes, at most 1048576 are allowed",
    "machine_of_much_text": "it has 40894533 bytes beside its segments, at most 2097152 are allowed",
    "manifest_of_64_mib": "both must be from 1 to 41943040",
    "segments_and_one_more": "300001 or more segments, at most 300000 are allowed",
    "table_of_many_bytes": "segment 0, bytes: 1073741824 is not a number from 0 to 104857608",
    "table_of_too_many_runs": "its length: 4194305 entries for 536870912 chunks, at most 4194304 are allowed",
    "working_set_of_a_petabyte": "a run is empty or has more chunks than the regions, 536870912",
    "working_set_and_one_more": "it has 4194305 chunks, at most 4194304 are allowed",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_declaration_that_is_too_large_is_refused(hostile, tmp_path: Path, name: str) -> None:
    """With an error that tells what was expected and what came, before memory is taken for it."""
    found = cost(hostile(name), tmp_path, "read", limit_bytes=300 * MIB)
    assert found["error"].startswith("Malformed: ")
    assert REFUSED[name] in found["error"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("kernel_of_another_size", "segments of kind kernel have 2097152 bytes, the part has 1048576"),
        ("kernel_of_a_terabyte", "parts, kernel: 1099511627776 is not a number from 0 to 1073741824"),
        ("content_of_two_terabytes", "NoRoom: "),
        # These two are built, and then found to be another base than they say.
        ("disk_of_two_terabytes", "Damaged: "),
        ("disk_touched_everywhere", "Damaged: "),
    ],
)
def test_a_hostile_base_is_refused(hostile, tmp_path: Path, name: str, reason: str) -> None:
    found = cost(hostile(name), tmp_path, "base")
    assert reason in found["error"]
    assert ("the identity of the base" in found["error"]) == (reason == "Damaged: ")
    assert list(tmp_path.iterdir()) == []


MOST = {
    "most_segments": (300_000 - 2) * 1024,
    "most_runs": 0,
    "most_base_runs": 0,
    "most_runs_backwards": 1 << 22,
    "most_runs_that_overlap": 1 << 27,
    "longest_working_set": 0,
    "working_set_backwards": 0,
}
"""Stored chunks of files that declare as much of something as is allowed."""


@pytest.mark.parametrize("name", MOST)
def test_the_most_that_is_allowed_is_cheap(hostile, tmp_path: Path, name: str) -> None:
    assert cost(hostile(name), tmp_path, "read")["result"] == MOST[name]


@pytest.mark.parametrize("name", ["most_segments", "most_runs_backwards", "most_runs_that_overlap"])
def test_homes_are_found_by_runs(hostile, tmp_path: Path, name: str) -> None:
    assert cost(hostile(name), tmp_path, "homes")["result"] > 0


@pytest.mark.parametrize("name", ["most_segments", "most_runs_that_overlap", "longest_working_set"])
def test_a_map_is_drawn_by_runs(hostile, tmp_path: Path, name: str) -> None:
    assert cost(hostile(name), tmp_path, "draw")["result"] > 1000


@pytest.mark.parametrize("name", ["most_segments", "most_runs"])
def test_a_layer_is_shown_by_clusters(hostile, tmp_path: Path, name: str) -> None:
    """256 GiB of disk, all of it stored, or half of it zero."""
    cost(hostile(name), tmp_path, "view")
    assert (tmp_path / "layer").exists()


@pytest.mark.parametrize(
    ("name", "pages"),
    [
        ("most_runs_that_overlap", 100_000),
        ("many_runs_over_tiny_segments", 200),
        ("one_segment_for_all", 100 << 16),
        ("longest_working_set", 0),
    ],
)
def test_an_early_start_is_fed_by_runs(hostile, tmp_path: Path, name: str, pages: int) -> None:
    """A hundred pieces of it are taken; all of them would be what QEMU takes, page by page."""
    assert cost(hostile(name), tmp_path, "feed")["result"] >= pages
