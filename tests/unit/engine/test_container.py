# SPDX-License-Identifier: Apache-2.0
"""Header and manifest: what is refused, and what the error says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudlet_ext.engine.compression import Content, compress
from cloudlet_ext.engine.container import FIRST_READ_BYTES, open_container
from cloudlet_ext.engine.digest import digest
from cloudlet_ext.engine.errors import (
    Damaged,
    Malformed,
    Truncated,
    UnknownFeature,
    UnsupportedVersion,
    WrongMagic,
)
from cloudlet_ext.engine.header import BASE, HEADER_BYTES, MANIFEST_LIMIT_BYTES, OVERLAY, Header, decode_header
from cloudlet_ext.engine.manifest import canonical
from cloudlet_ext.engine.manifest_decoder import decode_manifest


class BytesSource:
    """A source in memory that keeps count of reads; ``size_bytes`` may be unknown."""

    def __init__(self, data: bytes, size_known: bool = True) -> None:
        self.data = data
        self.size_bytes = len(data) if size_known else None
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.data[offset : offset + length]

    def describe(self) -> str:
        return "the file"


@pytest.fixture(scope="module")
def good(sample, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path: Path = tmp_path_factory.mktemp("container") / "overlay"
    sample.write(path, level=3)
    return path.read_bytes()


def header_of(data: bytes) -> Header:
    return decode_header(data[:HEADER_BYTES], "the file", OVERLAY)


def sealed(header: bytes) -> bytes:
    return header[:224] + digest(header[:224])


def with_manifest(data: bytes, change: Callable[[dict[str, Any]], Any] | bytes) -> bytes:
    """``data`` with another manifest, all digests made to fit."""
    header = header_of(data)
    container = open_container(BytesSource(data), OVERLAY)
    plain = container.manifest.encode()
    if callable(change):
        document = json.loads(plain)
        changed = change(document)
        plain = canonical(document if changed is None else changed)
    else:
        plain = change
    stored = compress(Content(plain), 3)
    header = replace(
        header,
        manifest_stored_bytes=len(stored),
        manifest_bytes=len(plain),
        manifest_digest=digest(plain),
        stored_digest=digest(stored),
    )
    return header.encode() + stored + data[container.manifest.segments[0].offset :]


def test_a_file_is_opened_with_one_read(good: bytes) -> None:
    source = BytesSource(good)
    container = open_container(source, OVERLAY)
    assert source.reads == [(0, min(len(good), FIRST_READ_BYTES))]
    again = open_container(BytesSource(good, size_known=False), OVERLAY)
    assert again.manifest == container.manifest


def test_a_long_manifest_is_read_to_its_end(good: bytes) -> None:
    def lengthen(document: dict[str, Any]) -> None:
        document["machine"] = {
            str(number): digest(number.to_bytes(4, "little")).hex() + str(number) for number in range(9000)
        }

    data = with_manifest(good, lengthen)
    source = BytesSource(data)
    open_container(source, OVERLAY)
    end = HEADER_BYTES + header_of(data).manifest_stored_bytes
    assert end > FIRST_READ_BYTES
    assert source.reads == [(0, FIRST_READ_BYTES), (FIRST_READ_BYTES, end - FIRST_READ_BYTES)]


@pytest.mark.parametrize("data", [b"", b"x", b"QFI\xfb" + bytes(500), b"CLOUDLEX" + bytes(500)])
def test_not_a_cloudlet_file(data: bytes) -> None:
    with pytest.raises(WrongMagic) as caught:
        open_container(BytesSource(data), OVERLAY)
    assert caught.value.found == data[:8]
    assert "the file is not a cloudlet overlay" in str(caught.value)


def test_a_newer_version(good: bytes) -> None:
    data = good[:12] + (2).to_bytes(4, "little") + good[16:]
    with pytest.raises(UnsupportedVersion, match="version 2; this program knows version 1"):
        open_container(BytesSource(data), OVERLAY)


def test_unknown_features_are_named(good: bytes) -> None:
    features = (1 | 1 << 5 | 1 << 63).to_bytes(8, "little")
    data = sealed(good[:16] + features + good[24:256]) + good[256:]
    with pytest.raises(UnknownFeature, match="feature 5, feature 63"):
        open_container(BytesSource(data), OVERLAY)


def test_the_prefix_feature_must_fit_the_segments(good: bytes) -> None:
    assert header_of(good).features == 1
    data = sealed(good[:16] + bytes(8) + good[24:256]) + good[256:]
    with pytest.raises(Malformed, match="feature prefix"):
        open_container(BytesSource(data), OVERLAY)


def test_the_other_kind_of_file(good: bytes) -> None:
    with pytest.raises(Malformed, match="overlay instead of base file"):
        open_container(BytesSource(good), BASE)
    data = sealed(good[:8] + b"WHAT" + good[12:256]) + good[256:]
    with pytest.raises(Malformed, match="WHAT"):
        open_container(BytesSource(data), OVERLAY)


@pytest.mark.parametrize("at", [24, 32])
@pytest.mark.parametrize("size", [0, MANIFEST_LIMIT_BYTES + 1, (1 << 64) - 1])
def test_sizes_of_the_manifest_are_bounded(good: bytes, at: int, size: int) -> None:
    data = sealed(good[:at] + size.to_bytes(8, "little") + good[at + 8 : 256]) + good[256:]
    with pytest.raises(Malformed, match="the header"):
        open_container(BytesSource(data), OVERLAY)


def test_reserved_bytes_are_zero(good: bytes) -> None:
    data = sealed(good[:210] + b"\1" + good[211:256]) + good[256:]
    with pytest.raises(Malformed, match="reserved"):
        open_container(BytesSource(data), OVERLAY)


def test_bytes_behind_the_end(good: bytes) -> None:
    with pytest.raises(Malformed, match="its end"):
        open_container(BytesSource(good + b"x"), OVERLAY)


def test_a_cut_names_the_place(good: bytes) -> None:
    container = open_container(BytesSource(good), OVERLAY)
    cuts = [(100, "the header"), (300, "the manifest")]
    cuts += [(segment.offset, segment.place) for segment in container.manifest.segments]
    cuts += [(len(good) - 1, container.manifest.segments[-1].place)]
    for length, place in cuts:
        with pytest.raises(Truncated) as caught:
            open_container(BytesSource(good[:length]), OVERLAY)
        assert caught.value.place == place


def test_a_manifest_of_another_digest(good: bytes) -> None:
    data = sealed(good[:40] + bytes(32) + good[72:256]) + good[256:]
    with pytest.raises(Damaged, match="the manifest"):
        open_container(BytesSource(data), OVERLAY)


def first_chunks(document: dict[str, Any]) -> list[Any]:
    row: list[Any] = next(row for row in document["segments"] if row[0] == "chunks")
    return row


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Set the value at a path of keys, ``put(key, key, value)``."""

    def change(document: Any) -> None:
        *keys, last, value = path
        for key in keys:
            document = document[key]
        document[last] = value

    return change


def without(name: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        del document[name]

    return change


def alter_chunks(column: int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        first_chunks(document)[column] = value

    return change


def swap_segments(document: dict[str, Any]) -> None:
    document["segments"].reverse()


def drop_table(document: dict[str, Any]) -> None:
    del document["segments"][0]


def second_table(document: dict[str, Any]) -> None:
    document["segments"].insert(0, document["segments"][0])


def add_kernel(document: dict[str, Any]) -> None:
    document["segments"].insert(2, ["kernel", *document["segments"][1][1:]])


def more_slots(document: dict[str, Any]) -> None:
    document["regions"] = [["disk", "disk", 4], ["ram", "memory", 1]]


NAN = canonical({"a": 1}).replace(b"1", b"NaN")
DEEP = b'{"machine":' * 100_000

CASES: list[tuple[Any, str]] = [
    (put("extra", 1), "extra: unknown field"),
    (without("machine"), "machine: the field is missing"),
    (without("segments"), "segments: the field is missing"),
    (put("base_id", 7), "base_id"),
    (put("base_id", "A" * 64), "base_id"),
    (put("base_id", "a" * 63), "base_id"),
    (put("machine", []), "machine: it is not an object"),
    (put("machine", {"a": "x" * (1 << 20)}), "machine: it has 1048584 bytes, at most 1048576 are allowed"),
    (put("regions", []), "regions"),
    (put("regions", 0, "disk"), "region 0: it is not"),
    (put("regions", 0, ["disk", "disk"]), "region 0: it is not"),
    (put("regions", 0, ["", "disk", 5]), "region 0"),
    (put("regions", 0, ["x" * 256, "disk", 5]), "region 0"),
    (put("regions", 0, ["a\nb", "disk", 5]), "region 0"),
    (put("regions", 0, ["disk", "tape", 5]), "region 0: kind 'tape'"),
    (put("regions", 1, ["ram", "disk", 5]), "region 1: kind 'disk'"),
    (put("regions", 1, ["disk", "memory", 5]), "region 1: the name 'disk' is there twice"),
    (put("regions", 0, 2, 0), "region 0"),
    (put("regions", 0, 2, -1), "region 0"),
    (put("regions", 0, 2, 1.0), "region 0"),
    (put("regions", 0, 2, True), "region 0"),
    (put("regions", 0, 2, (1 << 29) + 1), "region 0: 536870913 is not a number from 1 to 536870912"),
    (put("regions", 0, 2, 1 << 29), "regions: 536871536 is not a number from 1 to 536870912"),
    (put("regions", [[f"ram{number}", "memory", 1] for number in range(257)]), "regions: 257 is not a number"),
    (put("segments", {}), "segments: it is not a list"),
    (put("segments", []), "0 segments of kind table"),
    (put("segments", 0, 7), "segment 0: it is not"),
    (put("segments", 0, []), "segment 0: it is not"),
    (put("segments", 0, 0, "gas"), "segment 0: unknown kind 'gas'"),
    (put("segments", 0, 0, []), "segment 0: unknown kind"),
    (put("segments", 0, 1, "disk"), "segment 0: section 'disk'"),
    (put("segments", 0, 2, 0), "segment 0, stored bytes"),
    (put("segments", 0, 3, (1 << 30) + 1), "segment 0, bytes"),
    (put("segments", 0, 3, 8 + 25 * 1024 + 1), "segment 0, bytes"),
    (put("segments", 0, 5, 1), "segment 0, slots"),
    (put("segments", 0, 6, True), "segment 0: prefix"),
    (put("segments", 1, 3, (64 << 20) + 1), "segment 1, bytes"),
    (alter_chunks(1, ""), "section ''"),
    (alter_chunks(1, None), "section None"),
    (alter_chunks(2, (64 << 20) + 2000), "stored bytes"),
    (alter_chunks(3, 4096), "4096 bytes for"),
    (alter_chunks(4, "00"), "digest"),
    (alter_chunks(4, 5), "digest"),
    (alter_chunks(5, 0), "slots"),
    (alter_chunks(5, 1025), "slots"),
    (alter_chunks(6, 1), "prefix"),
    (swap_segments, "cannot stand here"),
    (drop_table, "0 segments of kind table"),
    (second_table, "2 segments of kind table"),
    (add_kernel, "no kernel"),
    (more_slots, "slots for 5 chunks|segment 0, bytes"),
    (b"[]", "not a JSON object"),
    (b"{", "not JSON"),
    (b"\xff", "not JSON"),
    (b'{"a":1,"a":1}', "unknown field"),
    (NAN, "unknown field"),
    (b"9" * 5000, "not JSON"),
    (DEEP, "not JSON"),
    (canonical({"base_id": None}) + b" ", "missing"),
]


@pytest.mark.parametrize(("change", "reason"), CASES)
def test_a_manifest_that_makes_no_sense(good: bytes, change: Any, reason: str) -> None:
    with pytest.raises(Malformed, match=reason) as caught:
        open_container(BytesSource(with_manifest(good, change)), OVERLAY)
    assert caught.value.path == "the file"
    assert caught.value.place.startswith("the manifest")


@pytest.mark.parametrize(
    "text",
    ['{"machine":{"a":NaN},', '{"machine":{"a":1e5},', '{"machine": {},', '{"machine":{"b":1,"a":1},'],
)
def test_json_that_is_not_canonical(good: bytes, text: str) -> None:
    plain = open_container(BytesSource(good), OVERLAY).manifest.encode().decode()
    rest = plain[plain.index('"regions"') :]
    changed = text + '"base_id":null,' + rest
    with pytest.raises(Malformed, match=r"canonical|not allowed"):
        decode_manifest(changed.encode(), "the file", is_base=False)


def test_a_segment_that_unpacks_to_more_than_it_declares(good: bytes) -> None:
    def smaller(document: dict[str, Any]) -> None:
        row = document["segments"][1]
        row[3] -= 1

    container = open_container(BytesSource(with_manifest(good, smaller)), OVERLAY)
    with pytest.raises(Malformed, match=r"segment 1 \(device\): it unpacks to more than"):
        container.load("device")


def test_a_segment_that_unpacks_to_less_than_it_declares(good: bytes) -> None:
    def larger(document: dict[str, Any]) -> None:
        document["segments"][1][3] += 1

    container = open_container(BytesSource(with_manifest(good, larger)), OVERLAY)
    with pytest.raises(Malformed, match=r"segment 1 \(device\): it does not unpack to"):
        container.load("device")
