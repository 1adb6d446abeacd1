# SPDX-License-Identifier: Apache-2.0
"""Memory of a capture and of an early start: the process's own does not grow with the guest."""

from __future__ import annotations

from pathlib import Path

from tests.unit.anonymous_memory import measured

PAGES = 1 << 22
"""A guest of 16 GiB."""

CAPTURE = """
import json, mmap, struct, sys
from pathlib import Path
import numpy as np
from cloudlet_ext.engine.layout import Layout, Region
from cloudlet_ext.hypervisor import stream
from cloudlet_ext.hypervisor.capture import parse
from cloudlet_ext.worker.overlay_creation import MemoryChanges

folder, pages = Path(sys.argv[1]), int(sys.argv[2])
named = struct.pack(">Q", pages * 4096 | stream.RAM_MEM_SIZE) + stream.string("ram") + struct.pack(">Q", pages * 4096)
configuration = struct.pack(">BI", stream.CONFIGURATION, 1) + b"m"
opened = struct.pack(">BI", stream.START, 1) + stream.string("ram") + bytes(8)
footer = struct.pack(">QBI", stream.RAM_EOS, stream.FOOTER, 1)
end = struct.pack(">BI", stream.END, 1) + footer + bytes([stream.EOF, stream.VMDESC]) + struct.pack(">I", 2) + b"{}"
with (folder / "stream").open("w+b") as file:
    file.write(stream.MAGIC + configuration + opened + named)
    for first in range(0, pages, 1 << 16):
        # All zero but for one page in each 65536.
        file.write(b"".join(stream.zero_records("ram", np.arange(first, first + (1 << 16) - 1))))
        last = np.array([first + (1 << 16) - 1])
        file.write(b"".join(stream.page_records("ram", last, np.ones((1, 4096), np.uint8))))
    file.write(footer + end)
    file.flush()
    memory, _ = parse(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), folder)
changes = MemoryChanges(memory, Layout((Region("disk", "disk", 16), Region("ram", "memory", pages))))
full = [numbers[~zero] for numbers, zero in changes.spans()]
right = all((changes.read(numbers) == 1).all() for numbers in full)
print(json.dumps({"pages": changes.count, "full": sum(map(len, full)), "right": right}))
"""


def test_a_capture(tmp_path: Path) -> None:
    """Where each page is takes 32 MiB, as would each list of page numbers."""
    peak, told = measured(CAPTURE, tmp_path, PAGES)
    assert told == {"pages": PAGES, "full": PAGES >> 16, "right": True}
    assert peak <= 64 << 20, f"{peak >> 20} MiB"
