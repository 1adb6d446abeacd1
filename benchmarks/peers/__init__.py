# SPDX-License-Identifier: Apache-2.0
"""The peers: other ways to send a customised, running server to a place that has its base."""

from __future__ import annotations

from benchmarks.peers.ancestors import Ancestors
from benchmarks.peers.peer import Peer
from benchmarks.peers.snapshot import Snapshot
from benchmarks.peers.xdelta import Xdelta
from benchmarks.peers.zstd_patch import ZstdPatch

SNAPSHOT, PATCH_3, PATCH_19 = Snapshot(), ZstdPatch(3), ZstdPatch(19)
XDELTA, ANCESTORS = Xdelta(), Ancestors()

PEERS: tuple[Peer, ...] = (SNAPSHOT, PATCH_3, PATCH_19, XDELTA, ANCESTORS)

__all__ = ["ANCESTORS", "PATCH_3", "PATCH_19", "PEERS", "SNAPSHOT", "XDELTA", "Peer"]
