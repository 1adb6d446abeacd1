# SPDX-License-Identifier: Apache-2.0
"""A file of segments to be fetched, and what must come out."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cloudlet_ext.engine.chunks import CHUNK_BYTES
from cloudlet_ext.engine.digest import digest
from cloudlet_ext.engine.manifest import SegmentInfo
from cloudlet_ext.engine.patience import Patience
from cloudlet_ext.engine.slot_store import SlotStore

SLOTS = 64
"""Slots per segment here."""

HASTY = Patience(attempts=4, first_delay_s=0.02, longest_delay_s=0.1, give_up_s=3)


@dataclass(frozen=True)
class Overlay:
    """A file of segments; each is kept as a random part of its content, which ends in zeros."""

    path: Path
    infos: list[SegmentInfo]
    contents: dict[int, bytes]


def unpack(segment: SegmentInfo, stored: bytes) -> bytes:
    return bytes(stored) + bytes(segment.bytes - len(stored))


def make_overlay(path: Path, count: int, seed: int = 1) -> Overlay:
    dice = random.Random(seed)
    infos, contents = [], {}
    with path.open("wb") as file:
        file.write(dice.randbytes(5000))
        for index in range(count):
            stored = dice.randbytes(dice.randint(1, SLOTS * CHUNK_BYTES))
            info = SegmentInfo(
                number=index + 2,
                kind="chunks",
                section="memory",
                offset=file.tell(),
                stored_bytes=len(stored),
                bytes=SLOTS * CHUNK_BYTES,
                digest=digest(stored),
                first_slot=index * SLOTS,
                slots=SLOTS,
                prefix=False,
            )
            infos.append(info)
            contents[info.number] = unpack(info, stored)
            file.write(stored)
    return Overlay(path, infos, contents)


def assert_whole(store: SlotStore, overlay: Overlay) -> None:
    whole = b"".join(overlay.contents[info.number] for info in overlay.infos)
    slots = np.arange(len(overlay.infos) * SLOTS)
    assert store.read(slots).tobytes() == whole
    assert sorted(store.arrivals) == [info.number for info in overlay.infos]
