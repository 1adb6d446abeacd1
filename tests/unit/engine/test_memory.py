# SPDX-License-Identifier: Apache-2.0
"""Memory of overlay creation: the process's own does not grow with what is new in the guest, nor with its base.

Maps of scratch files are the page cache's, which gives them back; so what is measured is anonymous memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cloudlet_ext.engine.index import write_index
from tests.unit.anonymous_memory import measured

LIMIT_BYTES = 300 << 20
LARGEST_CHUNKS = 1 << 24
"""A guest of 64 GiB, all of it new."""

CREATE = """
import json, os, sys
from pathlib import Path
import numpy as np
from cloudlet_ext.engine.base import DISK_NAME, MEMORY_NAME, finish_base
from cloudlet_ext.engine.layout import Layout, Region
from cloudlet_ext.engine.overlay_writer import write_overlay
from cloudlet_ext.engine.plan import plan_overlay
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer

folder, chunks = Path(sys.argv[1]), int(sys.argv[2])
layout = Layout((Region("disk", "disk", 16), Region("ram", "memory", chunks)))

class New:
    "Chunks from number ``first`` on, each of them new: 64 words that no other has, and a filling."

    def __init__(self, first, count):
        self.first, self.count, self.reader = first, count, self

    def spans(self):
        for at in range(self.first, self.first + self.count, 4096):
            numbers = np.arange(at, min(at + 4096, self.first + self.count))
            yield numbers, np.zeros(len(numbers), dtype=bool)

    def read(self, numbers):
        words = np.full((len(numbers), 512), 0x2020202020202020, dtype=np.uint64)
        own = numbers.astype(np.uint64)[:, None] * np.uint64(64) + np.arange(1, 65, dtype=np.uint64)
        words[:, :64] = own * np.uint64(0xD6E8FEB86659FD93)
        return words.view(np.uint8)

(folder / "base").mkdir()
Qcow2Writer.create(folder / "base" / DISK_NAME, layout.disk_bytes).close()
with (folder / "base" / MEMORY_NAME).open("wb") as memory:
    memory.truncate(layout.memory_bytes)
with finish_base(folder / "base", layout, {}, b"state") as base:
    with plan_overlay(base, New(0, 0), New(16, chunks), folder) as plan:
        summary = write_overlay(folder / "overlay", plan, {}, b"state", level=1)
print(json.dumps({"stored": summary.statistics.stored}))
"""

LOOK_UP = """
import json, sys
from pathlib import Path
import numpy as np
from cloudlet_ext.engine.index import IndexLookup, open_index

folder, chunks = Path(sys.argv[1]), int(sys.argv[2])
index = open_index(folder / "index", 0, chunks)
lookup = IndexLookup(index, folder)
asked = np.arange(0, chunks, 1000)
found = lookup.find(index.digests[asked])
print(json.dumps({"stored": int((found == asked).sum())}))
"""


def test_memory_does_not_grow_with_what_is_new(tmp_path: Path) -> None:
    """Measured at 256 MiB and at 1 GiB of new content; what that makes of 64 GiB."""
    peaks = []
    few, many = 1 << 16, 1 << 18
    for chunks in (few, many):
        (tmp_path / str(chunks)).mkdir()
        peak, told = measured(CREATE, tmp_path / str(chunks), chunks)
        assert told == {"stored": chunks}
        peaks.append(peak)
    for_each = (peaks[1] - peaks[0]) / (many - few)
    expected = peaks[1] + max(0.0, for_each) * (LARGEST_CHUNKS - many)
    assert expected <= LIMIT_BYTES, f"{peaks[0]} and {peaks[1]} bytes: {for_each:.1f} for each chunk"


TABLE = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from cloudlet_ext.engine.base_file import _table
from cloudlet_ext.engine.index import open_index, write_index

folder, chunks = Path(sys.argv[1]), int(sys.argv[2])
known = open_index(folder / "index", 0, chunks)
at = range(0, chunks, 4096)
write_index(folder / "again", chunks, ((known.numbers[n : n + 4096], known.digests[n : n + 4096]) for n in at))
same = (folder / "again").stat().st_size == (folder / "index").stat().st_size
table, homes = _table(SimpleNamespace(index=open_index(folder / "again", 0, chunks)), 0, folder)
print(json.dumps({"same": same, "runs": table.entries, "homes": len(homes)}))
"""


@pytest.fixture(scope="module")
def large_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of a base of 8 GiB, no chunk of which is zero."""
    folder: Path = tmp_path_factory.mktemp("large")
    digests = np.random.default_rng(4).integers(0, 256, (1 << 21, 16), dtype=np.uint8)
    write_index(folder / "index", 1 << 21, [(np.arange(1 << 21), digests)])
    return folder


def test_memory_does_not_grow_with_the_base(large_index: Path) -> None:
    """Its index alone has 48 MiB, and was sorted in memory before."""
    peak, told = measured(LOOK_UP, large_index, 1 << 21)
    assert told == {"stored": -(-(1 << 21) // 1000)}
    assert peak <= 40 << 20, f"{peak >> 20} MiB"


def test_memory_of_a_base_file_does_not_grow_with_the_base(large_index: Path) -> None:
    peak, told = measured(TABLE, large_index, 1 << 21)
    assert told == {"same": True, "runs": 1, "homes": 1 << 21}
    assert peak <= 48 << 20, f"{peak >> 20} MiB"
