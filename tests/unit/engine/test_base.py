# SPDX-License-Identifier: Apache-2.0
"""Bases: opened, read, verified; missing and damaged parts are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cloudlet_ext.engine.base import Base, decode_base_manifest
from cloudlet_ext.engine.chunks import is_zero
from cloudlet_ext.engine.errors import (
    Damaged,
    FileMissing,
    FormatError,
    Malformed,
    PartMissing,
    Truncated,
)
from cloudlet_ext.engine.manifest import canonical
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer


@pytest.fixture
def folder(sample, tmp_path: Path) -> Path:
    """A copy of the base that may be spoiled."""
    shutil.copytree(sample.base.folder, tmp_path / "base")
    for path in (tmp_path / "base").iterdir():
        path.chmod(0o644)
    return tmp_path / "base"


def test_a_base_gives_its_content(sample) -> None:
    everything = np.arange(sample.layout.total_chunks)
    assert (sample.base.read(everything) == sample.content).all()
    mixed = np.random.default_rng(3).permutation(everything)
    assert (sample.base.read(mixed) == sample.content[mixed]).all()
    assert sample.base.read(everything[:0]).shape == (0, 4096)
    assert sample.base.load_device() == b"device state of the base " * 40


def test_a_whole_base_is_verified(sample) -> None:
    seen: list[tuple[int, int]] = []
    sample.base.verify(lambda *pair: seen.append(pair))
    assert seen
    assert seen[-1][0] == seen[-1][1]


def test_all_files_are_read_only(sample) -> None:
    for path in sample.base.folder.iterdir():
        assert path.stat().st_mode & 0o222 == 0


def test_the_identity_does_not_depend_on_how_the_disk_is_stored(sample, folder: Path) -> None:
    (folder / "disk.qcow2").unlink()
    with Qcow2Writer.create(folder / "disk.qcow2", sample.layout.disk_bytes) as writer:
        for number in reversed(range(sample.layout.disk_chunks)):
            writer.write(np.array([number]), sample.content[number : number + 1])
    assert (folder / "disk.qcow2").read_bytes() != sample.base.disk_path.read_bytes()
    with Base.open(folder) as base:
        base.verify()
        assert base.base_id == sample.base.base_id


def test_a_missing_base(tmp_path: Path) -> None:
    with pytest.raises(FileMissing):
        Base.open(tmp_path / "nothing")


@pytest.mark.parametrize("part", ["manifest.json", "disk.qcow2", "memory", "device", "index"])
def test_a_missing_part_is_named(folder: Path, part: str) -> None:
    (folder / part).unlink()
    with pytest.raises(PartMissing) as caught:
        Base.open(folder)
    assert caught.value.part == part


@pytest.mark.parametrize("part", ["memory", "device", "index"])
def test_a_part_of_another_size_is_named(folder: Path, part: str) -> None:
    with (folder / part).open("r+b") as file:
        file.truncate((folder / part).stat().st_size - 4096 if part == "memory" else 3)
    with pytest.raises(Truncated, match=part):
        Base.open(folder)
    with (folder / part).open("r+b") as file:
        file.truncate(10 << 20)
    with pytest.raises(Malformed, match=part):
        Base.open(folder)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("part", ["device", "index"])
def test_a_damaged_part_is_named(folder: Path, part: str) -> None:
    flip(folder / part, 50)
    with Base.open(folder) as base, pytest.raises(Damaged, match=part):
        base.verify()


def test_damaged_parts_are_not_used(folder: Path) -> None:
    flip(folder / "device", 50)
    flip(folder / "index", 50)
    with Base.open(folder) as base:
        with pytest.raises(Damaged):
            base.load_device()
        with pytest.raises(Damaged):
            base.index.covers(np.zeros(1, dtype=np.int64))


def test_a_changed_page_of_memory_is_named(folder: Path) -> None:
    flip(folder / "memory", 4096 * 333 + 7)
    with Base.open(folder) as base, pytest.raises(Damaged) as caught:
        base.verify()
    assert caught.value.place == "region pc.ram, chunk 333"


@pytest.mark.parametrize("first", [True, False])
def test_a_lost_page_of_memory_is_named(sample, folder: Path, first: bool) -> None:
    full = np.flatnonzero(~is_zero(sample.content[sample.layout.disk_chunks :]))
    page = int(full[0] if first else full[-1])
    (folder / "memory").chmod(0o600)
    with (folder / "memory").open("r+b") as memory:
        memory.seek(4096 * page)
        memory.write(bytes(4096))
    with Base.open(folder) as base, pytest.raises(Damaged, match="that of zeros") as caught:
        base.verify()
    assert caught.value.place == sample.layout.place(sample.layout.disk_chunks + page)


def test_a_page_more_is_named(sample, folder: Path) -> None:
    page = int(np.flatnonzero(is_zero(sample.content[sample.layout.disk_chunks :]))[0])
    flip(folder / "memory", 4096 * page)
    with Base.open(folder) as base, pytest.raises(Damaged, match="instead of that of zeros") as caught:
        base.verify()
    assert caught.value.place == sample.layout.place(sample.layout.disk_chunks + page)


def test_a_changed_disk_is_named(sample, folder: Path) -> None:
    content = sample.content[:400].copy()
    content[250:260] ^= 5
    (folder / "disk.qcow2").unlink()
    with Qcow2Writer.create(folder / "disk.qcow2", sample.layout.disk_bytes) as writer:
        writer.write(np.arange(400), content)
    with Base.open(folder) as base, pytest.raises(Damaged) as caught:
        base.verify()
    assert caught.value.place == "region disk, chunk 250"


def test_a_disk_of_another_size(folder: Path) -> None:
    (folder / "disk.qcow2").unlink()
    Qcow2Writer.create(folder / "disk.qcow2", 1 << 20).close()
    with pytest.raises(Malformed, match="disk"):
        Base.open(folder)


def test_a_disk_over_another_image(sample, folder: Path) -> None:
    """A guest would read any file of this host that a stranger's image names as what lies below it."""
    (folder / "disk.qcow2").unlink()
    with Qcow2Writer.create(folder / "disk.qcow2", sample.layout.disk_bytes, "/etc/shadow", "raw"):
        pass
    with pytest.raises(Malformed, match=r"a disk over the image '/etc/shadow', a base's disk has none"):
        Base.open(folder)


def test_every_change_of_the_manifest_is_another_base_or_refused(sample, folder: Path) -> None:
    good = (folder / "manifest.json").read_bytes()
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        try:
            assert decode_base_manifest(bytes(bad), "manifest").base_id != sample.base.base_id
        except FormatError:
            continue
    for length in range(len(good)):
        with pytest.raises(FormatError):
            decode_base_manifest(good[:length], "manifest")


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (["version"], 2, "version"),
        (["parts", "spare"], {}, "parts, spare"),
        (["parts", "device"], 7, "parts, device"),
        (["parts", "device", "bytes"], -1, "parts, device"),
        (["parts", "device", "digest"], "x", "parts, device"),
        (["parts"], [], "parts"),
        (["regions"], [], "regions"),
        (["name"], "web", "name"),
    ],
)
def test_senseless_manifests(folder: Path, path: list[str], value: object, place: str) -> None:
    document = json.loads((folder / "manifest.json").read_bytes())
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder / "manifest.json").write_bytes(canonical(document))
    with pytest.raises(Malformed) as caught:
        Base.open(folder)
    assert place in caught.value.place
