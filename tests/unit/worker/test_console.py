# SPDX-License-Identifier: Apache-2.0
"""Reading of a console that goes on from file to file."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudlet_ext.hypervisor.log_keeper import CONSOLE_NAME, OLDER_NAME
from cloudlet_ext.worker.console import ConsoleReader


def say(folder: Path, text: bytes) -> None:
    with (folder / CONSOLE_NAME).open("ab") as file:
        file.write(text)


def turn(folder: Path) -> None:
    """The file is full."""
    (folder / CONSOLE_NAME).rename(folder / OLDER_NAME)


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    reader = ConsoleReader(tmp_path)
    assert reader.read() == reader.rest() == b""
    say(tmp_path, b"hello")
    assert reader.read() == b"hello"
    assert reader.read() == b""


def test_it_goes_on_in_the_next_file(tmp_path: Path) -> None:
    reader = ConsoleReader(tmp_path)
    say(tmp_path, b"one ")
    assert reader.rest() == b"one "
    say(tmp_path, b"two ")
    turn(tmp_path)
    assert reader.rest() == b"two "
    # There is no new file yet.
    assert reader.rest() == b""
    say(tmp_path, b"three ")
    assert reader.rest() == b"three "
    say(tmp_path, b"four ")
    turn(tmp_path)
    say(tmp_path, b"five ")
    turn(tmp_path)
    say(tmp_path, b"six")
    assert reader.rest() == b"four five six"
    assert reader.rest() == b""


def test_one_that_looks_too_late_goes_on_with_the_oldest(tmp_path: Path) -> None:
    reader = ConsoleReader(tmp_path)
    for text in (b"one ", b"two ", b"three "):
        say(tmp_path, text)
        turn(tmp_path)
        if text == b"one ":
            assert reader.rest() == text
    say(tmp_path, b"four")
    assert reader.rest() == b"three four"


def test_from_the_oldest_that_is_kept(tmp_path: Path) -> None:
    say(tmp_path, b"lost")
    turn(tmp_path)
    say(tmp_path, b"older ")
    turn(tmp_path)
    assert ConsoleReader(tmp_path).rest() == b"older "
    say(tmp_path, b"newer")
    assert ConsoleReader(tmp_path).rest() == b"older newer"


@pytest.mark.parametrize(
    ("backlog", "expected"),
    [(0, b""), (1, b"j"), (4, b"ghij"), (5, b"fghij"), (9, b"bcdefghij"), (10, b"abcdefghij"), (99, b"abcdefghij")],
)
def test_the_end_of_it(tmp_path: Path, backlog: int, expected: bytes) -> None:
    say(tmp_path, b"abcdef")
    turn(tmp_path)
    say(tmp_path, b"ghij")
    reader = ConsoleReader(tmp_path, backlog)
    assert reader.rest() == expected
    say(tmp_path, b"k")
    assert reader.rest() == b"k"


def test_pieces_are_bounded(tmp_path: Path) -> None:
    say(tmp_path, b"x" * 200_000)
    reader = ConsoleReader(tmp_path)
    assert len(reader.read()) == 65536
    assert len(reader.rest()) == 200_000 - 65536


def test_closed_it_begins_anew(tmp_path: Path) -> None:
    say(tmp_path, b"again")
    reader = ConsoleReader(tmp_path)
    assert reader.rest() == b"again"
    reader.close()
    assert reader.rest() == b"again"
