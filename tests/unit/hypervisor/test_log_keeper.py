# SPDX-License-Identifier: Apache-2.0
"""Keepers of what QEMU and its guest say."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor import log_keeper
from cloudlet_ext.hypervisor.log_keeper import CONSOLE_BYTES, CONSOLE_NAME, CONSOLE_PIPE, OLDER_NAME

WAIT_S = 30.0


class Writer:
    """Writes to a console's pipe, as QEMU does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pipe = log_keeper.keep_last(folder)

    def write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._pipe, data) :]

    def end(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        assert log_keeper.ended(self.folder, WAIT_S)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    writer = Writer(tmp_path)
    yield writer
    writer.end()


def kept(folder: Path) -> bytes:
    parts = [folder / name for name in (OLDER_NAME, CONSOLE_NAME)]
    return b"".join(part.read_bytes() for part in parts if part.exists())


def wait_for(folder: Path, end: bytes) -> None:
    deadline = time.monotonic() + WAIT_S
    while not kept(folder).endswith(end):
        assert time.monotonic() < deadline, kept(folder)[-100:]
        time.sleep(0.005)


def test_what_is_said_is_there_at_once(writer: Writer, tmp_path: Path) -> None:
    for text in (b"login: ", b"root\n", b"\0\xff\n"):
        writer.write(text)
        wait_for(tmp_path, text)
    assert (tmp_path / CONSOLE_NAME).read_bytes() == b"login: root\n\0\xff\n"
    assert (tmp_path / CONSOLE_NAME).stat().st_mode & 0o777 == 0o600
    assert not log_keeper.ended(tmp_path, 0.05)


def test_the_last_of_much_is_kept(writer: Writer, tmp_path: Path) -> None:
    """24 MiB leave two files of at most five; what they hold is the end, without a gap."""
    for number in range(24):
        writer.write(b"".join(b"%07d\n" % (number << 17 | at) for at in range(1 << 17)))
    writer.end()
    lines = kept(tmp_path).split()
    numbers = list(map(int, lines[1:]))
    assert numbers == list(range((24 << 17) - len(numbers), 24 << 17))
    assert len(numbers) * 8 > CONSOLE_BYTES
    for name in (CONSOLE_NAME, OLDER_NAME):
        if (tmp_path / name).exists():
            assert (tmp_path / name).stat().st_size <= CONSOLE_BYTES + (4 << 20)
    assert {path.name for path in tmp_path.iterdir()} <= {CONSOLE_NAME, OLDER_NAME, CONSOLE_PIPE}


def test_it_ends_with_the_writer_and_takes_all(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.write(b"the last words")
    writer.end()
    assert kept(tmp_path) == b"the last words"
    # One that follows goes on where the first one ended.
    other = Writer(tmp_path)
    other.write(b", and more")
    other.end()
    assert kept(tmp_path) == b"the last words, and more"


def test_a_folder_without_a_console(tmp_path: Path) -> None:
    assert log_keeper.ended(tmp_path, 0.0)
    assert log_keeper.ended(tmp_path / "none", 0.0)


def test_a_folder_that_goes_away(tmp_path: Path) -> None:
    """Nothing is written to where it was, and the keeper ends with its writer."""
    folder = tmp_path / "folder"
    folder.mkdir()
    writer = Writer(folder)
    writer.write(b"x")
    wait_for(folder, b"x")
    writer.folder = folder.rename(tmp_path / "renamed")
    writer.write(b"y")
    wait_for(writer.folder, b"xy")
    writer.end()
    assert not folder.exists()


def test_the_first_messages_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "qemu.log"
    pipe = log_keeper.keep_first(path)
    message = b"it went wrong again\n".rjust(4096, b".")
    for _ in range(2500):
        os.write(pipe, message)
    os.close(pipe)
    assert path.stat().st_size == 2000 * 4096
    assert path.stat().st_mode & 0o777 == 0o600
