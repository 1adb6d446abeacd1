# SPDX-License-Identifier: Apache-2.0
"""Imports of bases that break off: what is kept is told, listed, used again, and can be removed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cloudlet_ext.engine.base import DISK_NAME, MEMORY_NAME, finish_base
from cloudlet_ext.engine.base_file import BaseFile, export_base
from cloudlet_ext.engine.chunks import CHUNK_BYTES
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.layout import Layout, Region
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer
from cloudlet_ext.worker.base_care import UnfinishedImport, unfinished_imports
from cloudlet_ext.worker.home import Home
from tests.unit.cmd.conftest import CommandLine
from tests.unit.engine.faulty_server import FaultyHandler, FaultyServer
from tests.unit.worker.test_server import MACHINE

LAYOUT = Layout((Region("disk", "disk", 64), Region("pc.ram", "memory", 6144)))
REQUEST_BYTES = 8 << 20
"""An import reads as much at once; a file of 24 MiB that cannot be compressed takes three."""


def base_file(folder: Path, seed: int) -> Path:
    folder.mkdir()
    content = np.random.default_rng(seed).integers(0, 256, (LAYOUT.total_chunks, CHUNK_BYTES), dtype=np.uint8)
    with Qcow2Writer.create(folder / DISK_NAME, LAYOUT.disk_bytes) as disk:
        disk.write(np.arange(LAYOUT.disk_chunks), content[: LAYOUT.disk_chunks])
    (folder / MEMORY_NAME).write_bytes(content[LAYOUT.disk_chunks :].tobytes())
    path = folder.with_suffix(".base")
    with finish_base(folder, LAYOUT, MACHINE.to_dict(), b"device") as base:
        export_base(base, path, level=1)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the base files debian.base and other.base."""
    folder = tmp_path_factory.mktemp("files")
    for seed, name in enumerate(("debian", "other")):
        base_file(folder / name, seed)
    return folder


class Source(FaultyServer):
    """Holds back what lies behind the first ten megabytes until it is ``up``; ``gone``: it has no such file then."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.up, self.waits = threading.Event(), threading.Event()
        self.gone = False
        self.behaviour = self.behave

    def behave(self, handler: FaultyHandler) -> bool:
        first, _ = handler.asked_range(handler.folder, len(handler.whole)) or (0, 0)
        if first < 10_000_000 or self.up.is_set():
            return False
        if self.gone:
            handler.header_lines("404 Not Found", "Content-Length: 0")
            return True
        self.waits.set()
        while not (self.up.wait(0.05) or self.ending.is_set()):
            pass
        return False


@pytest.fixture
def source(files: Path) -> Iterator[Source]:
    with Source(files) as source:
        yield source


def base_id(path: Path) -> str:
    source = FileSource(path)
    try:
        return str(BaseFile.open(source).base_id)
    finally:
        source.close()


def kept(cloudlet: CommandLine) -> list[dict[str, object]]:
    found: list[dict[str, object]] = cloudlet("base", "list", "--json").document["unfinished_imports"]
    return found


@pytest.fixture
def broken(cloudlet: CommandLine, source: Source) -> str:
    """The name of an import that broke off when the source had lost its file."""
    source.gone = True
    ended = cloudlet("base", "import", source.url("debian.base"))
    assert ended.code == 4
    megabytes = (cloudlet.home / "bases/.debian.partial/slots").stat().st_blocks * 512 / 1e6
    assert megabytes > 7
    assert f"What has arrived is kept ({megabytes:.1f} MB on disk): the same command goes on with it, " in ended.error
    assert ended.error.endswith("cloudlet base delete debian removes it.\n")
    return "debian"


def test_it_goes_on(cloudlet: CommandLine, source: Source, files: Path, broken: str) -> None:
    (listed,) = kept(cloudlet)
    assert listed["name"] == broken and listed["is_running"] is False
    assert "unfinished import: debian, " in cloudlet("base", "list").output
    assert cloudlet("base", "show", broken).code == 4
    source.up.set()
    source.seen.clear()
    document = cloudlet("base", "import", source.url("debian.base"), "--json").document
    assert document["base_id"] == base_id(files / "debian.base")
    # The first request's segments were not asked for again.
    assert not [seen for seen in source.seen if 1_000_000 < seen.first < REQUEST_BYTES - 1_000_000]
    assert kept(cloudlet) == []
    assert cloudlet("base", "verify", broken).code == 0


def test_another_file_under_its_name(cloudlet: CommandLine, files: Path, broken: str) -> None:
    assert cloudlet("base", "import", files / "other.base", "--name", broken).code == 0
    assert cloudlet("base", "show", broken, "--json").document["base_id"] == base_id(files / "other.base")
    assert cloudlet("base", "verify", broken).code == 0
    assert kept(cloudlet) == []


def test_it_is_deleted(cloudlet: CommandLine, broken: str) -> None:
    ended = cloudlet("base", "delete", broken)
    assert ended.output.startswith("the unfinished import of base debian is deleted, ")
    assert list((cloudlet.home / "bases").iterdir()) == []
    assert cloudlet("base", "delete", broken).code == 4


def test_a_base_of_its_name_is_deleted_with_it(cloudlet: CommandLine, base: str, broken: str) -> None:
    """Made in another way meanwhile."""
    bases = cloudlet.home / "bases"
    (bases / base).rename(bases / broken)
    assert [facts["name"] for facts in cloudlet("base", "list", "--json").document["bases"]] == [broken]
    assert cloudlet("base", "delete", broken).output.startswith("base debian is deleted, ")
    assert list(bases.iterdir()) == []


def test_it_is_interrupted(cloudlet: CommandLine, source: Source) -> None:
    words = [sys.executable, "-m", "cloudlet_ext.cmd.cloudlet", "--home", str(cloudlet.home)]
    with subprocess.Popen(
        [*words, "base", "import", source.url("debian.base")], stderr=subprocess.PIPE, text=True
    ) as running:
        assert source.waits.wait(60)
        (now,) = unfinished_imports(Home(cloudlet.home))
        assert now.is_running and now.name == "debian"
        # Nobody takes it from under its hands.
        ended = cloudlet("base", "delete", "debian", "--json")
        assert (ended.code, ended.told["kind"]) == (9, "Busy")
        assert "(goes on now)" in cloudlet("base", "list").output
        running.send_signal(signal.SIGINT)
        _, error = running.communicate(timeout=60)
    assert running.returncode == 130
    (left,) = unfinished_imports(Home(cloudlet.home))
    assert left == UnfinishedImport("debian", left.kept_bytes, False)
    last = error.splitlines()[-1]
    assert last.startswith(
        f"cloudlet: Interrupted. What has arrived is kept ({left.kept_bytes / 1e6:.1f} MB on disk): "
    )
    assert "undone" not in last


def test_nothing_arrived(cloudlet: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "x.base").write_bytes(b"no base file")
    ended = cloudlet("base", "import", tmp_path / "x.base")
    assert ended.code == 3 and "kept" not in ended.error
    assert kept(cloudlet) == []


def test_a_deletion_that_was_broken_off_is_finished(cloudlet: CommandLine, base: str) -> None:
    bases = cloudlet.home / "bases"
    for name in (".other.deleted", f".{base}.deleted"):
        (bases / name).mkdir()
        (bases / name / "memory").write_bytes(b"x")
    assert cloudlet("base", "delete", base).code == 0
    assert list(bases.iterdir()) == []
