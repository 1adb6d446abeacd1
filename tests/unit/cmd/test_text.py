# SPDX-License-Identifier: Apache-2.0
"""Figures as people read them."""

from __future__ import annotations

import pytest

from cloudlet_ext.cmd import text


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (14_700_000, "14.7 MB"),
        (99_960_000, "100 MB"),
        (999_600_000, "1.0 GB"),
        (2_500_000_000_000_000, "2500 TB"),
    ],
)
def test_size(count: int, expected: str) -> None:
    assert text.size(count) == expected


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 B"), (256 << 20, "256 MiB"), (1 << 30, "1 GiB"), (3 << 29, "1.5 GiB")]
)
def test_capacity(count: int, expected: str) -> None:
    assert text.capacity(count) == expected


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0.004, "0.00 s"),
        (9.99, "9.99 s"),
        (9.996, "10.0 s"),
        (61, "61.0 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_seconds(duration: float, expected: str) -> None:
    assert text.seconds(duration) == expected


def test_table_aligns() -> None:
    shown = text.table(("NAME", "SIZE"), [("a", "1"), ("long", "100000")], frozenset({1}))
    assert shown.splitlines() == ["NAME    SIZE", "a          1", "long  100000"]


def test_fields_without_a_value_are_left_out() -> None:
    assert text.fields([("a", "1"), ("long", None), ("bc", "2")]) == "  a   1\n  bc  2"


def test_reply_is_one_short_printable_line() -> None:
    assert text.reply(b"one\ntwo\x1b[1m") == "one two.[1m"
    assert text.reply(b"\xff" * 3) == "\N{REPLACEMENT CHARACTER}" * 3
    assert len(text.reply(b"x" * 1000)) == 60
    assert text.reply(b"") == ""


def test_sources_begin_with_the_largest() -> None:
    chunks = {"unchanged": 9, "zero": 0, "base_memory": 1, "base_disk": 0, "same_overlay": 0, "stored": 1000}
    assert text.sources(chunks) == "4.1 MB stored, 4.1 kB in base memory"
    assert text.sources(dict.fromkeys(chunks, 0)) == "nothing"


def test_clone_tells_what_was_left() -> None:
    assert text.clone(True, True, "") is None
    assert text.clone(False, True, "no agent") == "clock (no agent)"
