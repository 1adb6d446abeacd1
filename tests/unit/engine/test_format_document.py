# SPDX-License-Identifier: Apache-2.0
"""The golden files are read by what the page on formats says, without the engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from blake3 import blake3

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "v1"
PAGE = (ROOT / "doc" / "source" / "contributor" / "formats.rst").read_text()
FACTS = json.loads((GOLDEN / "facts.json").read_text())


def field_table(name: str) -> dict[str, tuple[str, str]]:
    """Rows of a table of the page: offset and size by field."""
    text = PAGE[PAGE.index(f".. list-table:: {name}\n") :]
    text = text[: re.search(r"\n\n\S", text).start()]  # type: ignore[union-attr]
    rows = re.findall(r"\* - (.*)\n     - (.*)\n     - (.*)\n     - ", text)[1:]
    return {field: (offset, size) for offset, size, field in rows}


def header_fields(data: bytes) -> dict[str, bytes]:
    table = field_table("header")
    return {field: data[int(offset) : int(offset) + int(size)] for field, (offset, size) in table.items()}


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


def column(data: bytes, count: int) -> list[int]:
    """A column by its byte planes."""
    return [sum(data[plane * count + row] << 8 * plane for plane in range(8)) for row in range(count)]


def unzigzag(value: int) -> int:
    return value // 2 if value % 2 == 0 else -(value + 1) // 2


def unpack(stored: bytes, prefix: bytes = b"") -> bytes:
    dictionary = zstd.ZstdDict(prefix, is_raw=True).as_prefix if prefix else None
    return zstd.decompress(stored, dictionary)


def read_table(data: bytes) -> dict[int, tuple[int, int]]:
    """Kind and source of each chunk that a run covers."""
    count = number(data[:8])
    at = 8
    gaps = column(data[at:], count)
    counts = column(data[at + 8 * count :], count)
    kinds = data[at + 16 * count : at + 17 * count]
    steps = [unzigzag(step) for step in column(data[at + 17 * count :], count)]
    assert len(data) == 8 + 25 * count
    end, ends = 0, {1: 0, 2: 0, 3: 0}
    chunks: dict[int, tuple[int, int]] = {}
    for gap, length, kind, step in zip(gaps, counts, kinds, steps, strict=True):
        source = ends[kind] + step
        for inner in range(length):
            chunks[end + gap + inner] = (kind, source + inner if kind > 1 else 0)
        end += gap + length
        ends[kind] = source + length if kind > 1 else 0
    return chunks


def read_order(data: bytes) -> list[int]:
    count = number(data[:8])
    steps, counts = column(data[8:], count), column(data[8 + 8 * count :], count)
    order: list[int] = []
    end = 0
    for step, length in zip(steps, counts, strict=True):
        start = end + unzigzag(step)
        order.extend(range(start, start + length))
        end = start + length
    return order


class File:
    """A container, taken apart."""

    def __init__(self, path: Path, kind: bytes) -> None:
        data = path.read_bytes()
        self.header = header_fields(data)
        stored = data[256 : 256 + number(self.header["manifest_stored_bytes"])]
        plain = unpack(stored)
        assert self.header["magic"] == b"CLOUDLET"
        assert self.header["kind"] == kind
        assert number(self.header["version"]) == 1
        assert self.header["header_digest"] == digest(data[:224])
        assert self.header["stored_digest"] == digest(stored)
        assert self.header["manifest_digest"] == digest(plain)
        assert number(self.header["manifest_bytes"]) == len(plain)
        assert not any(self.header["reserved"])
        self.manifest: dict[str, Any] = json.loads(plain)
        assert plain == canonical(self.manifest)
        at = 256 + len(stored)
        self.segments: list[tuple[list[Any], bytes]] = []
        for row in self.manifest["segments"]:
            part = data[at : at + row[2]]
            assert digest(part).hex() == row[4]
            self.segments.append((row, part))
            at += row[2]
        assert at == len(data)

    def content(self, kind: str) -> bytes:
        return b"".join(unpack(part) for row, part in self.segments if row[0] == kind)

    def slots(self, base: bytes, table: dict[int, tuple[int, int]]) -> list[bytes]:
        slots: list[bytes] = []
        for row, part in self.segments:
            if row[0] != "chunks":
                continue
            numbers = range(len(slots), len(slots) + row[5])
            homes = [min(chunk for chunk, entry in table.items() if entry == (3, slot)) for slot in numbers]
            pieces = [base[4096 * home :][:4096] for home in homes]
            prefix = b"".join(piece for piece in pieces if any(piece)) if row[6] else b""
            plain = unpack(part, prefix)
            assert len(plain) == row[3] == 4096 * row[5]
            slots += [plain[at : at + 4096] for at in range(0, len(plain), 4096)]
        return slots


def canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def apply(base: bytes, table: dict[int, tuple[int, int]], slots: list[bytes]) -> bytes:
    chunks = [base[at : at + 4096] for at in range(0, len(base), 4096)]
    target = list(chunks)
    for chunk, (kind, source) in table.items():
        target[chunk] = [b"", bytes(4096), chunks[source] if kind == 2 else b"", b""][kind]
        if kind == 3:
            target[chunk] = slots[source]
    return b"".join(target)


def base_from_file() -> tuple[File, bytes]:
    file = File(GOLDEN / "base-file", b"BASE")
    table = read_table(file.content("table"))
    total = sum(chunks for _, _, chunks in file.manifest["regions"])
    return file, apply(bytes(4096 * total), table, file.slots(b"", table))


@pytest.mark.parametrize("name", ["header", "index"])
def test_the_fields_follow_each_other(name: str) -> None:
    def value(text: str, n: int) -> int:
        parts = [re.sub(r"(\d+) n", lambda match: str(int(match[1]) * n), part) for part in text.split(" + ")]
        return sum(int(part) for part in parts)

    for n in (0, 3):
        at = 0
        for offset, size in field_table(name).values():
            assert value(offset, n) == at
            at += value(size, n)
        assert at == (256 if name == "header" else 64 + 24 * n)


def test_the_base_file() -> None:
    file, content = base_from_file()
    manifest = {key: file.manifest[key] for key in ("machine", "parts", "regions")} | {"version": 1}
    assert digest(canonical(manifest)).hex() == FACTS["base_id"]
    assert digest(content).hex() == FACTS["base_blake3"]
    assert file.content("kernel") == (GOLDEN / "base" / "kernel").read_bytes()
    assert file.content("device") == (GOLDEN / "base" / "device").read_bytes()


def test_the_base_directory() -> None:
    _, content = base_from_file()
    manifest = json.loads((GOLDEN / "base" / "manifest.json").read_bytes())
    assert digest((GOLDEN / "base" / "manifest.json").read_bytes()).hex() == FACTS["base_id"]
    for name, part in manifest["parts"].items():
        data = (GOLDEN / "base" / name).read_bytes()
        assert part == {"bytes": len(data), "digest": digest(data).hex()}
    disk = 4096 * manifest["regions"][0][2]
    assert (GOLDEN / "base" / "memory").read_bytes() == content[disk:]


def test_the_index() -> None:
    _, content = base_from_file()
    data = (GOLDEN / "base" / "index").read_bytes()
    chunks = [content[at : at + 4096] for at in range(0, len(content), 4096)]
    used = [chunk for chunk, data in enumerate(chunks) if any(data)]
    expected = b"CLDLTIDX" + (1).to_bytes(4, "little") + bytes(4)
    expected += len(chunks).to_bytes(8, "little") + len(used).to_bytes(8, "little")
    expected += b"".join(chunk.to_bytes(8, "little") for chunk in used)
    expected += b"".join(digest(chunks[chunk])[:16] for chunk in used)
    assert data == expected + digest(expected)


def test_the_overlay() -> None:
    _, base = base_from_file()
    file = File(GOLDEN / "overlay", b"OVLY")
    assert file.manifest["base_id"] == FACTS["base_id"]
    assert file.header["manifest_digest"].hex() == FACTS["overlay_id"]
    table = read_table(file.content("table"))
    assert {kind for kind, _ in table.values()} == {1, 2, 3}
    assert {row[1] for row, _ in file.segments if row[0] == "chunks"} == {"working_set", "disk", "memory"}
    assert number(file.header["features"]) == 1
    target = apply(base, table, file.slots(base, table))
    assert digest(target).hex() == FACTS["target_blake3"]
    assert read_order(file.content("order")) == FACTS["order"]
    assert file.content("device") == b"device state of the target"


def test_the_signature() -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    header = File(GOLDEN / "overlay-signed", b"OVLY").header
    key: Any = load_pem_public_key((GOLDEN / "key.pem").read_bytes())
    assert key.public_bytes_raw() == header["public_key"]
    key.verify(header["signature"], b"cloudlet overlay v1\0" + header["manifest_digest"])
