# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of format version 1 anew: python3 tests/golden/regenerate.py

Only for a new version of a format, or for something that version 1 could always hold but no golden file holds yet:
what is in tests/golden/v1 must stay readable for ever. The bytes of compressed parts depend on the version of zstd.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloudlet_ext.engine.base import Base, finish_base
from cloudlet_ext.engine.base_file import export_base
from cloudlet_ext.engine.chunks import CHUNK_BYTES, Chunks, Numbers, is_zero
from cloudlet_ext.engine.layout import Layout, Region
from cloudlet_ext.engine.overlay_writer import write_overlay
from cloudlet_ext.engine.plan import Changes, plan_overlay
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer
from cloudlet_ext.engine.signature import sign_overlay

GOLDEN = Path(__file__).parent / "v1"
DISK_CHUNKS = 32
LAYOUT = Layout(
    (
        Region("disk", "disk", DISK_CHUNKS),
        Region("pc.ram", "memory", 48),
        Region("pc.bios", "memory", 4),
    )
)
MACHINE = {"cpu": "Nehalem", "machine_type": "pc-q35-10.0", "note": "gr\u00fc\u00dfe"}
ORDER = np.array([70, 71, 72, 9, 40, 3], dtype=np.int64)
KEY = Ed25519PrivateKey.from_private_bytes(blake3(b"golden").digest())


def page(number: int) -> Chunks:
    """A chunk that compresses well and is unlike the others."""
    line = f"line {{}} of page {number}, {blake3(bytes([number])).hexdigest()}\n"
    text = "".join(line.format(count) for count in range(80)).encode()[:CHUNK_BYTES]
    return np.frombuffer(text, dtype=np.uint8)


def base_content() -> Chunks:
    content = np.zeros((LAYOUT.total_chunks, CHUNK_BYTES), dtype=np.uint8)
    for number in range(1, 12):
        content[number] = page(number)
    for number in range(32, 60):
        content[number] = page(number)
    content[60:63] = content[4:7]
    content[82] = page(82)
    return content


def target_content(base: Chunks) -> Chunks:
    """Every kind of description: zero, from base disk and memory, equal to each other, stored."""
    target = base.copy()
    target[2] = 0
    target[33:35] = 0
    target[3] = page(103)
    target[9] = page(104)
    target[10, 3000] ^= 1
    target[20:22] = base[40:42]
    target[64] = base[8]
    target[70] = page(103)
    target[71] = page(105)
    target[40, 100:108] = 7
    target[41, 1000] ^= 1
    target[82, 0] ^= 255
    return target


class Reader:
    """The chunks of an array."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks

    def read(self, numbers: Numbers) -> Chunks:
        return self._chunks[numbers]


def make_base(folder: Path) -> Base:
    folder.mkdir(parents=True)
    content = base_content()
    used = np.flatnonzero(~is_zero(content[:DISK_CHUNKS]))
    with Qcow2Writer.create(folder / "disk.qcow2", LAYOUT.disk_bytes) as disk:
        disk.write(used, content[used])
    (folder / "memory").write_bytes(content[DISK_CHUNKS:].tobytes())
    (folder / "kernel").write_bytes(b"kernel " * 100)
    return finish_base(folder, LAYOUT, MACHINE, b"device state of the base")


def make_overlay(base: Base, out: Path) -> None:
    target = target_content(base_content())
    zero = is_zero(target)
    disk, memory = np.arange(DISK_CHUNKS), np.arange(DISK_CHUNKS, LAYOUT.total_chunks)
    reader = Reader(target)
    disk_changes = Changes(disk, zero[disk], reader)
    memory_pages = Changes(memory, zero[memory], reader)
    with plan_overlay(base, disk_changes, memory_pages, out.parent) as plan:
        write_overlay(out, plan, MACHINE, b"device state of the target", level=19, order=ORDER)


def main() -> None:
    shutil.rmtree(GOLDEN, ignore_errors=True)
    with make_base(GOLDEN / "base") as base:
        make_overlay(base, GOLDEN / "overlay")
        export_base(base, GOLDEN / "base-file", level=19)
        shutil.copy(GOLDEN / "overlay", GOLDEN / "overlay-signed")
        sign_overlay(GOLDEN / "overlay-signed", KEY)
        public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (GOLDEN / "key.pem").write_bytes(public)
        facts = {
            "base_id": base.base_id,
            "order": ORDER.tolist(),
            "overlay_id": (GOLDEN / "overlay").read_bytes()[40:72].hex(),
            "base_blake3": blake3(base_content().tobytes()).hexdigest(),
            "target_blake3": blake3(target_content(base_content()).tobytes()).hexdigest(),
        }
        (GOLDEN / "facts.json").write_text(json.dumps(facts, indent=2) + "\n")
    # Git keeps no holes and no read-only bits.
    for path in (GOLDEN / "base").iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main()
