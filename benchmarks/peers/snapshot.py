# SPDX-License-Identifier: Apache-2.0
"""External snapshot: the disk layer over the base's disk and QEMU's save of the memory, compressed."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.peer import Peer


class Snapshot(Peer):
    """qcow2 layer and save through zstd on all cores; the base's disk is used by the layer, its memory by nobody."""

    name = "snapshot"
    title = "external qcow2 snapshot + save, zstd -3"

    def encoder(self, reference: Path, target: Path, out: Path) -> list[str | Path]:
        return ["zstd", "-q", "-3", "-T0", target, "-o", out]

    def decoder(self, reference: Path, target: Path) -> list[str | Path]:
        return ["zstd", "-q", "-d", "-f", "-", "-o", target]
