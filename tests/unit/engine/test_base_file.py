# SPDX-License-Identifier: Apache-2.0
"""Base files: export, import, interrupted and continued imports, damage."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloudlet_ext.engine.base import Base, finish_base
from cloudlet_ext.engine.base_file import BaseFile, export_base
from cloudlet_ext.engine.base_import import discard_import, import_base
from cloudlet_ext.engine.errors import (
    Damaged,
    DiskNeeded,
    FileMissing,
    FormatError,
    Malformed,
    OutputBusy,
    OutputExists,
    ShortRead,
    TooLarge,
)
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.header import DISK_APART, HEADER_BYTES, OVERLAY, decode_header
from cloudlet_ext.engine.manifest import CHUNKS
from cloudlet_ext.engine.overlay_writer import write_overlay
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer


@pytest.fixture(scope="module")
def exported(sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with kernel and initrd, exported; the base itself is in the folder ``base`` next to it."""
    folder: Path = tmp_path_factory.mktemp("exported")
    shutil.copytree(sample.base.folder, folder / "base")
    for path in (folder / "base").iterdir():
        path.chmod(0o644)
    (folder / "base" / "kernel").write_bytes(os.urandom(100_000))
    (folder / "base" / "initrd").write_bytes(b"initrd" * (3 << 20))
    with finish_base(folder / "base", sample.layout, sample.base.machine, b"device") as base:
        export_base(base, folder / "file", level=3)
        assert base.base_id != sample.base.base_id
    return folder / "file"


_opened: list[FileSource] = []


@pytest.fixture(autouse=True)
def _close_sources() -> Iterator[None]:
    yield
    while _opened:
        _opened.pop().close()


def open_file(path: Path) -> BaseFile:
    _opened.append(FileSource(path))
    return BaseFile.open(_opened[-1])


def test_an_imported_base_is_the_exported_one(sample, exported: Path, tmp_path: Path) -> None:
    file = open_file(exported)
    file.verify()
    assert file.file_bytes == exported.stat().st_size
    with Base.open(exported.parent / "base") as original:
        assert file.base_id == original.base_id
    seen: list[tuple[int, int]] = []
    with import_base(file, tmp_path / "base", lambda *pair: seen.append(pair)) as base:
        base.verify()
        assert base.base_id == file.base_id
        assert base.kernel_path is not None
        assert base.initrd_path is not None
        for name in ("kernel", "initrd", "memory", "device", "index", "manifest.json"):
            assert (base.folder / name).read_bytes() == (exported.parent / "base" / name).read_bytes()
        assert base.memory_path.stat().st_blocks * 512 <= sample.layout.memory_bytes * 0.8
    assert seen[-1][0] == seen[-1][1]
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_equal_chunks_are_stored_once(sample, exported: Path) -> None:
    different = {chunk.tobytes() for chunk in sample.content if chunk.any()}
    assert open_file(exported).container.manifest.slots == len(different)


class Stopping:
    """A source that fails, or is interrupted, after some bytes; and tells what was read."""

    def __init__(self, path: Path, after: int, error: BaseException) -> None:
        self._source = FileSource(path)
        self.size_bytes = self._source.size_bytes
        self.left = after
        self.error = error
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.left -= length
        if self.left < 0:
            raise self.error
        self.reads.append((offset, length))
        return self._source.read(offset, length)

    def describe(self) -> str:
        return self._source.describe()


@pytest.fixture(scope="module")
def large(sample, make_sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base file of several requests: the import asks for 8 MiB at a time."""
    import numpy as np

    from cloudlet_ext.engine.layout import Layout, Region

    folder: Path = tmp_path_factory.mktemp("large")
    layout = Layout((Region("disk", "disk", 64), Region("ram", "memory", 8192)))
    content = np.random.default_rng(5).integers(0, 256, (layout.total_chunks, 4096), dtype=np.uint8)
    one = make_sample(folder / "base", layout, content, content)
    export_base(one.base, folder / "file", level=1)
    one.base.close()
    shutil.rmtree(folder / "base")
    return folder / "file"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ShortRead(source="x", offset=0, length=1, size=0)])
def test_an_interrupted_import_is_continued(large: Path, tmp_path: Path, error: BaseException) -> None:
    source = Stopping(large, 20 << 20, error)
    with pytest.raises(type(error)):
        import_base(BaseFile.open(source), tmp_path / "base")
    assert not (tmp_path / "base").exists()
    assert (tmp_path / ".base.partial" / "journal").exists()
    again = Stopping(large, 1 << 40, error)
    import_base(BaseFile.open(again), tmp_path / "base").close()
    segments = BaseFile.open(again).container.manifest.of_kind(CHUNKS)
    total = sum(segment.stored_bytes for segment in segments)
    fetched = sum(length for offset, length in again.reads if offset >= segments[0].offset)
    assert fetched < total - (7 << 20)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_another_file_is_not_continued(large: Path, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_base(BaseFile.open(Stopping(large, 20 << 20, KeyboardInterrupt())), tmp_path / "base")
    with import_base(open_file(exported), tmp_path / "base") as base:
        assert base.base_id == open_file(exported).base_id
        base.verify()


def test_an_interrupted_import_can_be_thrown_away(large: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_base(BaseFile.open(Stopping(large, 20 << 20, KeyboardInterrupt())), tmp_path / "base")
    discard_import(tmp_path / "base")
    discard_import(tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tail", ["", "7", "7\n\0garbage\n12"])
def test_a_torn_journal_is_understood(large: Path, tmp_path: Path, tail: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_base(BaseFile.open(Stopping(large, 20 << 20, KeyboardInterrupt())), tmp_path / "base")
    journal = tmp_path / ".base.partial" / "journal"
    identity = journal.read_text().split("\n")[0]
    journal.write_text(f"{identity}\n{tail}")
    # Segments that the journal does not know are fetched again; what it says is believed, so that
    # content which is not what it should be must be found at the end.
    known = tail.startswith("7\n")
    if known:
        with (tmp_path / ".base.partial" / "slots").open("r+b") as slots:
            slots.truncate(0)
        with pytest.raises(Damaged, match="identity"):
            import_base(open_file(large), tmp_path / "base")
        assert list(tmp_path.iterdir()) == []
    import_base(open_file(large), tmp_path / "base").close()


def test_slots_without_a_journal_are_not_used(large: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_base(BaseFile.open(Stopping(large, 20 << 20, KeyboardInterrupt())), tmp_path / "base")
    (tmp_path / ".base.partial" / "slots").unlink()
    import_base(open_file(large), tmp_path / "base").close()


def test_a_place_for_the_file_is_looked_at_first(sample, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(FileMissing):
        export_base(sample.base, tmp_path / "nowhere" / "file")
    with pytest.raises(OutputExists):
        export_base(sample.base, exported)


def test_names_in_use(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    with pytest.raises(OutputExists):
        import_base(open_file(exported), tmp_path / "base")
    (tmp_path / ".other.partial").mkdir()
    fd = os.open(tmp_path / ".other.partial", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        with pytest.raises(OutputBusy):
            import_base(open_file(exported), tmp_path / "other")
        with pytest.raises(OutputBusy):
            discard_import(tmp_path / "other")
    finally:
        os.close(fd)


def test_a_damaged_segment_is_named(exported: Path, tmp_path: Path) -> None:
    segment = open_file(exported).container.manifest.of_kind(CHUNKS)[0]
    data = bytearray(exported.read_bytes())
    data[segment.offset + 9] ^= 1
    (tmp_path / "bad").write_bytes(data)
    file = open_file(tmp_path / "bad")
    with pytest.raises(Damaged, match=r"segment \d+ \(disk chunks\)"):
        file.verify()
    with pytest.raises(Damaged, match=r"segment \d+ \(disk chunks\)"):
        import_base(file, tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_an_overlay_is_no_base_file(sample, exported: Path, tmp_path: Path) -> None:
    sample.write(tmp_path / "overlay")
    with pytest.raises(Malformed, match="overlay instead of base file"):
        open_file(tmp_path / "overlay")
    with pytest.raises(Malformed, match="base file instead of overlay"):
        sample.open(exported)


def test_every_cut_is_refused(exported: Path, tmp_path: Path) -> None:
    data = exported.read_bytes()
    for length in [*range(0, 3000, 7), *range(3000, len(data), 4999)]:
        (tmp_path / "cut").write_bytes(data[:length])
        with pytest.raises(FormatError):
            open_file(tmp_path / "cut")


def test_a_base_file_may_leave_the_disk_out(sample, tmp_path: Path) -> None:
    export_base(sample.base, tmp_path / "whole", level=3)
    export_base(sample.base, tmp_path / "pages", level=3, with_disk=False)
    assert (tmp_path / "pages").stat().st_size < (tmp_path / "whole").stat().st_size
    file = open_file(tmp_path / "pages")
    assert not file.has_disk
    assert file.base_id == sample.base.base_id
    file.verify()
    shutil.copy(sample.base.disk_path, tmp_path / "disk")
    with import_base(file, tmp_path / "again", disk=tmp_path / "disk") as base:
        assert base.base_id == sample.base.base_id
        base.verify()
    assert not (tmp_path / "disk").exists(), "the disk was to be moved"


def test_a_disk_is_needed_where_the_file_has_none_and_only_there(sample, exported: Path, tmp_path: Path) -> None:
    export_base(sample.base, tmp_path / "pages", level=3, with_disk=False)
    with pytest.raises(DiskNeeded, match="False"):
        import_base(open_file(tmp_path / "pages"), tmp_path / "again")
    shutil.copy(sample.base.disk_path, tmp_path / "disk")
    with pytest.raises(DiskNeeded, match="True"):
        import_base(open_file(exported), tmp_path / "again", disk=tmp_path / "disk")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "pages"]


def test_another_disk_is_refused(sample, tmp_path: Path) -> None:
    export_base(sample.base, tmp_path / "pages", level=3, with_disk=False)
    Qcow2Writer.create(tmp_path / "disk", sample.layout.disk_bytes).close()
    with pytest.raises(Damaged, match="identity"):
        import_base(open_file(tmp_path / "pages"), tmp_path / "again", disk=tmp_path / "disk")
    assert [path.name for path in tmp_path.iterdir()] == ["pages"]


def test_a_disk_over_another_image_is_refused(sample, tmp_path: Path) -> None:
    export_base(sample.base, tmp_path / "pages", level=3, with_disk=False)
    with Qcow2Writer.create(
        tmp_path / "disk", sample.layout.disk_bytes, "/etc/shadow", "raw", fill=sample.base
    ) as writer:
        used = np.flatnonzero(sample.content[: sample.layout.disk_chunks].any(axis=1))
        writer.write(used, sample.content[used])
    with pytest.raises(Malformed, match="'/etc/shadow'"):
        import_base(open_file(tmp_path / "pages"), tmp_path / "again", disk=tmp_path / "disk")
    assert [path.name for path in tmp_path.iterdir()] == ["pages"]


def test_what_no_reader_would_take_is_not_written(sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sample.plan(tmp_path) as plan:
        for machine, device, what in (
            ({"a": "x" * (1 << 20)}, b"", "1048584 bytes of machine description, and at most 1048576"),
            ({}, bytes((64 << 20) + 1), "67108865 bytes in a segment of kind device, and at most 67108864"),
        ):
            with pytest.raises(TooLarge, match=what):
                write_overlay(tmp_path / "overlay", plan, machine, device, level=1)
        monkeypatch.setattr("cloudlet_ext.engine.container.RUNS_LIMIT", 2)
        with pytest.raises(TooLarge, match=r"\d+ runs in its chunk table, and at most 2"):
            write_overlay(tmp_path / "overlay", plan, {}, b"", level=1)
    assert list(tmp_path.iterdir()) == []


def test_an_overlay_has_its_disk_always(sample, tmp_path: Path) -> None:
    sample.write(tmp_path / "overlay", level=3)
    data = bytearray((tmp_path / "overlay").read_bytes())
    header = decode_header(bytes(data[:HEADER_BYTES]), "overlay", OVERLAY)
    data[:HEADER_BYTES] = replace(header, features=header.features | DISK_APART).encode()
    with pytest.raises(Malformed, match="disk apart"):
        decode_header(bytes(data[:HEADER_BYTES]), "overlay", OVERLAY)
