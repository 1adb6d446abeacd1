# SPDX-License-Identifier: Apache-2.0
"""Output: whole or not at all, one writer at a time, a full disk leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cloudlet_ext.engine import output
from cloudlet_ext.engine.base_file import BaseFile, export_base
from cloudlet_ext.engine.base_import import import_base
from cloudlet_ext.engine.errors import DiskFull, FileMissing, NoRoom, OutputBusy, OutputExists
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.output import atomic_output, write_all
from cloudlet_ext.engine.slots import SlotFile


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_name_appears_at_the_end(tmp_path: Path) -> None:
    with atomic_output(tmp_path / "out") as fd:
        write_all(fd, b"content")
        assert names(tmp_path) == [".out.partial"]
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"content"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), atomic_output(tmp_path / "out") as fd:
        write_all(fd, b"content")
        raise error
    assert names(tmp_path) == []


def test_an_existing_file_is_kept_unless_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    with pytest.raises(OutputExists), atomic_output(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_bytes() == b"old"
    with pytest.raises(ValueError, match="stop"), atomic_output(tmp_path / "out", replace=True):
        raise ValueError("stop")
    assert (tmp_path / "out").read_bytes() == b"old"
    with atomic_output(tmp_path / "out", replace=True) as fd:
        write_all(fd, b"new")
    assert (tmp_path / "out").read_bytes() == b"new"
    assert names(tmp_path) == ["out"]


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(OutputExists), atomic_output(tmp_path / "out"):
        (tmp_path / "out").write_bytes(b"of another")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_bytes() == b"of another"


def test_a_second_writer_is_told(tmp_path: Path) -> None:
    with atomic_output(tmp_path / "out") as fd:
        with pytest.raises(OutputBusy), atomic_output(tmp_path / "out"):
            pass
        write_all(fd, b"of the first")
    assert (tmp_path / "out").read_bytes() == b"of the first"
    assert names(tmp_path) == ["out"]


KILLED = """
import os, sys
from pathlib import Path
from cloudlet_ext.engine.output import atomic_output, write_all
with atomic_output(Path(sys.argv[1])) as fd:
    write_all(fd, b"half of a much longer text")
    print("written", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_writer_left_is_taken_over(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        with pytest.raises(OutputBusy), atomic_output(tmp_path / "out"):
            pass
        os.kill(writer.pid, signal.SIGKILL)
    assert names(tmp_path) == [".out.partial"]
    with atomic_output(tmp_path / "out") as fd:
        write_all(fd, b"short")
    assert (tmp_path / "out").read_bytes() == b"short"
    assert names(tmp_path) == ["out"]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileMissing), atomic_output(tmp_path / "no" / "out"):
        pass


def noise(chunks: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (chunks, 4096), dtype=np.uint8)


def test_a_full_disk_is_named_and_left_clean(small_disk: Path) -> None:
    with pytest.raises(DiskFull, match="small/out"), atomic_output(small_disk / "out") as fd:
        write_all(fd, bytes(2 << 20))
    assert names(small_disk) == []
    with SlotFile(small_disk) as slots, pytest.raises(DiskFull):
        slots.append(noise(300))


def test_no_room_for_an_overlay(sample, small_disk: Path, tmp_path: Path) -> None:
    with sample.plan(tmp_path) as plan, (small_disk / "ballast").open("wb") as ballast:
        from cloudlet_ext.engine.overlay_writer import write_overlay

        ballast.write(bytes((1 << 20) - 32768))
        ballast.flush()
        with pytest.raises(DiskFull):
            write_overlay(small_disk / "overlay", plan, {}, noise(20).tobytes(), level=3)
    assert names(small_disk) == ["ballast"]


def test_no_room_for_a_base(sample, small_disk: Path, tmp_path: Path) -> None:
    export_base(sample.base, tmp_path / "file", level=3)
    file = BaseFile.open(FileSource(tmp_path / "file"))
    with pytest.raises(NoRoom) as caught:
        import_base(file, small_disk / "base")
    assert caught.value.needed > caught.value.free == 1 << 20
    assert names(small_disk) == []
    with (small_disk / "ballast").open("wb") as ballast:
        ballast.write(bytes((1 << 20) - 32768))
        ballast.flush()
        with pytest.raises(DiskFull):
            export_base(sample.base, small_disk / "file", level=3)
    assert names(small_disk) == ["ballast"]


def test_an_interruption_before_the_descriptor_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = output._lock

    def interrupted(partial: Path, path: Path) -> int:
        os.close(lock(partial, path))
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "_lock", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_output(tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())
