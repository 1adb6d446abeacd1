# SPDX-License-Identifier: Apache-2.0
"""A workload made ready: its server was set up and captured, by us and by QEMU's own means, and is gone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import app, app_image, exact, sparse, stock, tool
from benchmarks.bench import Bench
from benchmarks.workloads import WORKLOADS, Workload
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.manifest import WORKING_SET
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.slot_store import SlotStore
from cloudlet_ext.engine.view import TargetView
from cloudlet_ext.worker.home import Home

BEST_LEVEL = 19
_RECORD_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class OverlayFacts:
    """Bytes. ``first_reply_bytes``: the front of the file, up to the end of the recorded working set; ``memory_bytes``:
    pages of the captured guest that are not zero."""

    file_bytes: int
    first_reply_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class Prepared:
    """What the figures of a workload need. ``overlay`` is recorded, at level auto; ``created`` are its creations."""

    workload: Workload
    base: str
    expected: bytes
    nonce: str
    overlay: Path
    facts: OverlayFacts
    plain_bytes: int
    created: tuple[tool.Done, ...]
    best: tool.Done | None
    recorded: tool.Done
    saved: stock.Save | None
    reference: Path
    target: Path
    original: exact.Original | None


def read_facts(home: Home, overlay: Path) -> OverlayFacts:
    """Look into an overlay."""
    source = FileSource(str(overlay))
    try:
        opened = OverlayFile.open(source)
        early = [segment for segment in opened.segments if segment.section == WORKING_SET]
        end = early[-1].offset + early[-1].stored_bytes if early else opened.file_bytes
        _, base = home.find_base(opened.base_id or "none", str(overlay))
        layout = opened.layout
        with base:
            store = SlotStore(home.scratch, opened.chunk_segments)
            view = TargetView(base, opened.load_table(), store)
            zero = view.zero(np.arange(layout.disk_chunks, layout.total_chunks, dtype=np.int64))
            store.close()
        return OverlayFacts(opened.file_bytes, end, int((~zero).sum()) * 4096)
    finally:
        source.close()


def create(bench: Bench, running: app.App, out: Path, level: int | str) -> tool.Done:
    """Make an overlay of a running server, which goes on."""
    return tool.run(
        bench, "create_overlay", limit_s=600, server=running.server, out=str(out), keep="running", level=level
    )


def record(bench: Bench, overlay: Path, probe: str) -> tool.Done:
    """Find the working set of an overlay and put it to its front."""
    return tool.run(bench, "record", overlay=str(overlay), probe=probe, level="auto", timeout_s=_RECORD_TIMEOUT_S)


@dataclass(frozen=True)
class Wanted:
    """Which captures of a workload's server are needed beside our own."""

    peers: bool = False
    best: bool = False
    original: bool = False
    image: bool = False


def prepare(bench: Bench, name: str, wanted: Wanted) -> Prepared:
    """Set a workload's server up and capture it in all ways that are wanted."""
    workload = WORKLOADS[name]
    folder = bench.scratch / name
    folder.mkdir()
    overlay, best, saved, original = folder / "app.cloudlet", None, None, None
    reference, target = folder / "reference", folder / "target"
    running = app.start(bench, workload)
    try:
        with bench.section(f"{name}: overlay, {bench.repeats_of(name)} times"):
            created = tuple(create(bench, running, overlay, "auto") for _ in range(bench.repeats_of(name)))
        if wanted.image:
            app_image.app_image(bench, running)
        if wanted.best:
            with bench.section(f"{name}: overlay at level {BEST_LEVEL}"):
                best = create(bench, running, folder / "best.cloudlet", BEST_LEVEL)
        if wanted.original:
            original = exact.keep_original(bench, running.server, folder)
        if wanted.peers:
            saved = stock.save(bench, running.base, running.server, folder)
            with bench.home.open_base(running.base) as base:
                sparse.join([base.memory_path, base.disk_path], reference)
            sparse.join([saved.memory, saved.disk], target)
    finally:
        bench.stop(running.server)
    plain_bytes = overlay.stat().st_size
    with bench.section(f"{name}: recording"):
        recorded = record(bench, overlay, workload.probe)
    return Prepared(
        workload=workload,
        base=running.base,
        expected=running.expected,
        nonce=running.nonce,
        overlay=overlay,
        facts=read_facts(bench.home, overlay),
        plain_bytes=plain_bytes,
        created=created,
        best=best,
        recorded=recorded,
        saved=saved,
        reference=reference,
        target=target,
        original=original,
    )
