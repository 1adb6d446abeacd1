# SPDX-License-Identifier: Apache-2.0
"""xdelta3: the classic."""

from __future__ import annotations

from pathlib import Path

from benchmarks.peers.peer import Peer

_SOURCE_WINDOW_BYTES = 1 << 31
"""All of the reference may be looked at, wherever in the target it is used."""


class Xdelta(Peer):
    """xdelta3 with its own second stage (lzma)."""

    name = "xdelta3"
    title = "xdelta3, memory and disk joined"

    def encoder(self, reference: Path, target: Path, out: Path) -> list[str | Path]:
        return ["xdelta3", "-q", "-e", "-f", "-B", str(_SOURCE_WINDOW_BYTES), "-s", reference, target, out]

    def decoder(self, reference: Path, target: Path) -> list[str | Path]:
        return ["xdelta3", "-q", "-d", "-f", "-B", str(_SOURCE_WINDOW_BYTES), "-s", reference, "/dev/stdin", target]
