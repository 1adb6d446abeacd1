# SPDX-License-Identifier: Apache-2.0
"""zstd --patch-from: the strongest peer in size."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.peer import Peer

_WINDOW_LOG = 31
"""2 GiB: reference and target of a 1 GiB guest fit into it."""


class ZstdPatch(Peer):
    """One frame, with the reference as its dictionary. Works on one core only: the threads of zstd do not share it."""

    def __init__(self, level: int) -> None:
        self.level = level
        self.name = f"patch-from -{level}"
        self.title = f"zstd --patch-from, memory and disk joined, level {level}"

    def encoder(self, reference: Path, target: Path, out: Path) -> list[str | Path]:
        options = [f"-{self.level}", f"--long={_WINDOW_LOG}", f"--patch-from={reference}"]
        return ["zstd", "-q", *options, target, "-o", out]

    def decoder(self, reference: Path, target: Path) -> list[str | Path]:
        options = [f"--long={_WINDOW_LOG}", f"--patch-from={reference}"]
        return ["zstd", "-q", "-d", "-f", *options, "-", "-o", target]
