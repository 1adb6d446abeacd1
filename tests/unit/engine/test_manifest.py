# SPDX-License-Identifier: Apache-2.0
"""The list of segments of a manifest, which is read in batches: that changes nothing of what is allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlet_ext.engine.errors import Malformed
from cloudlet_ext.engine.layout import Layout, Region
from cloudlet_ext.engine.manifest import canonical
from cloudlet_ext.engine.manifest_decoder import _SegmentRows, decode_manifest
from cloudlet_ext.engine.manifest_reader import ManifestReader


@pytest.fixture(scope="module")
def good(sample, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The manifest of an overlay."""
    path: Path = tmp_path_factory.mktemp("manifest") / "overlay"
    sample.write(path, level=3)
    overlay = sample.open(path)
    return overlay.container.manifest.encode()


def rows_text(good: bytes) -> tuple[str, str]:
    """The manifest up to its list of segments, and the rest."""
    plain = good.decode()
    begin = plain.index('"segments":[')
    return plain[:begin], plain[begin:]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"chunks"', ' "chunks"'),
        ('"chunks"', '"c\\u0068unks"'),
        ("false", "false "),
        ("],[", "], ["),
        (",0,false", ",-0,false"),
    ],
)
def test_rows_that_are_not_canonical(good: bytes, old: str, new: str) -> None:
    head, rows = rows_text(good)
    assert old in rows
    with pytest.raises(Malformed, match="segments: it is not canonical JSON"):
        decode_manifest((head + rows.replace(old, new, 1)).encode(), "the file", is_base=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda head, rows: head + rows[:-1] + ',"zebra":1}', "zebra: unknown field"),
        (lambda head, rows: head + rows[:-1] + "]}", "not JSON"),
        (lambda head, rows: head + rows[:-2] + ",]}", "not JSON"),
        (lambda head, rows: head + rows[:-1] + ',"segments":[]}', "not canonical|segments of kind table"),
        (lambda head, rows: head + rows[:-1] + "," + rows, "segments: unknown field|not JSON"),
        (lambda head, rows: head[:-1] + ',"segments_":0,' + rows, "segments_: unknown field|not canonical"),
        (lambda head, rows: '{"base_id":null,"machine":{"a":0,' + rows[:-1] + '},"regions":[]}', "segments"),
        (lambda head, rows: '{"base_id":"a,' + rows[:-1] + '","machine":{}}', "not JSON"),
    ],
)
def test_the_list_of_segments_is_where_it_belongs(good: bytes, change: Callable[[str, str], str], reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        decode_manifest(change(*rows_text(good)).encode(), "the file", is_base=False)


def test_a_machine_may_have_segments_of_its_own(good: bytes) -> None:
    """Its own member of that name, rows and all, is not taken for the list of segments."""
    document = json.loads(b"".join(part.encode() for part in rows_text(good)))
    document["machine"] = {"a": 1, "segments": [[1], [2]], "text": ',"segments":[[1]]}'}
    manifest = decode_manifest(canonical(document), "the file", is_base=False)
    assert manifest.machine == document["machine"]
    assert manifest.encode() == canonical(document)


CHUNK_ROW = ["chunks", "memory", 500, 4096 * 3, "ab" * 32, 3, False]
NUMBERS = [0, 1, 3, 1024, 1025, 4096, 12288, 13324, 13325, -1, 1 << 70, 3.0, True, False]
TEXTS = ["chunks", "disk", "memory", "working_set", "table", "", "ab" * 32, "AB" * 32, "a" * 63]
FIELDS = st.sampled_from([*NUMBERS, *TEXTS, None, [], {}])


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 7), FIELDS), max_size=3))
def test_rows_by_columns_are_rows_one_by_one(changes: list[tuple[int, int, Any]]) -> None:
    """Rows that are all alike are taken in together. What is allowed, and what is wrong, must not depend on that."""
    rows: list[list[Any]] = [list(CHUNK_ROW) for _ in range(20)]
    for row, column, value in changes:
        rows[row][column : column + 1] = [value]
    head = [["table", "", 40, 8, "cd" * 32, 0, False], ["device", "", 40, 8, "cd" * 32, 0, False]]

    def decoded(rows: list[list[Any]]) -> Any:
        document = {"base_id": None, "machine": {}, "regions": [["ram", "memory", 200]], "segments": rows}
        try:
            return decode_manifest(canonical(document), "file", is_base=False, offset=7).segments
        except Malformed as error:
            return str(error)

    # A first row of another kind is in the same batch: so all of them are looked at one by one.
    one_by_one = decoded(head + rows)
    reader = ManifestReader(b"{}", "file", set())
    by_columns = _SegmentRows(reader, Layout((Region("ram", "memory", 200),)), 7)
    try:
        by_columns.add(head)
        by_columns.add(rows)
    except Malformed as error:
        assert str(error) == one_by_one
    else:
        assert tuple(by_columns.segments) == one_by_one
