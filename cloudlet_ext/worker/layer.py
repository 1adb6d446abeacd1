# SPDX-License-Identifier: Apache-2.0
"""The disk part of an overlay as a qcow2 layer over the base's disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.chunks import SPAN_CHUNKS
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer
from cloudlet_ext.engine.table import ChunkKind
from cloudlet_ext.engine.view import TargetView


def write_layer(view: TargetView, base: Base, path: Path) -> None:
    """Write all disk chunks that differ from the base; their slots must be here."""
    with Qcow2Writer.create(
        path, base.layout.disk_bytes, backing=base.disk_path, backing_format="qcow2", fill=base
    ) as writer:
        write_changes(view, base, writer)


def write_changes(view: TargetView, base: Base, writer: Qcow2Writer) -> None:
    """Write them to an image that has more to say."""
    for numbers, kinds, _ in view.table.within(0, base.layout.disk_chunks).pieces():
        zero = kinds == ChunkKind.ZERO
        writer.write(numbers[zero], None)
        full = numbers[~zero]
        for first in range(0, len(full), SPAN_CHUNKS):
            span = full[first : first + SPAN_CHUNKS]
            writer.write(span, np.ascontiguousarray(view.read(span)))
