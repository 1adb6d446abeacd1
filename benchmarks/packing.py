# SPDX-License-Identifier: Apache-2.0
"""Peers at work: packing a workload's server, and bringing it up again behind a link."""

from __future__ import annotations

import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import sparse, stock
from benchmarks.bench import Bench
from benchmarks.link import Rate, download, open_link
from benchmarks.measure import ProcessFailed, end
from benchmarks.peers import Peer
from benchmarks.prepared import Prepared
from cloudlet_ext.worker import probe

_RECEIVE_TIMEOUT_S = 300.0
_REPLY_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Received:
    """A server that a peer has brought up. Seconds since the request: all bytes here, unpacked, first reply."""

    downloaded_s: float
    unpacked_s: float
    first_reply_s: float


def pack(bench: Bench, made: Prepared, peer: Peer) -> Path:
    """Have a peer pack a server, once; notes size, time (with the save that it needs first) and peak memory."""
    key = (made.workload.name, peer.name)
    if key not in bench.packed:
        assert made.saved is not None
        out = made.overlay.parent / f"packed-{peer.name.replace(' ', '')}"
        with bench.section(f"{made.workload.name}: {peer.title}"):
            done = peer.encode(made.reference, made.target, out)
        workload = made.workload.name
        bench.rows.add(workload, peer.name, "size", out.stat().st_size, "bytes")
        bench.rows.add(workload, peer.name, "creation", made.saved.save_s + done.wall_s, "s")
        bench.rows.add(workload, peer.name, "creation peak memory", done.peak.anonymous, "bytes")
        bench.packed[key] = out
    return bench.packed[key]


def stream(command: list[str | Path], url: str) -> tuple[float, float]:
    """Feed a file into a command as it comes; the times, by time.monotonic(), at which it was here and unpacked."""
    process = subprocess.Popen(
        [str(part) for part in command], stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    late = threading.Timer(_RECEIVE_TIMEOUT_S, end, (process,))
    late.start()
    try:
        assert process.stdin is not None
        for piece in download(url):
            process.stdin.write(piece)
        downloaded = time.monotonic()
        _, said = process.communicate()
        if process.returncode:
            raise ProcessFailed(f"{command[0]}: status {process.returncode}: {said.decode(errors='replace')[-500:]}")
        return downloaded, time.monotonic()
    finally:
        late.cancel()
        end(process)


def receive(bench: Bench, made: Prepared, peer: Peer, rate: Rate) -> Received:
    """Download through a link, unpack as it comes, resume with QEMU's own means, wait for the right reply."""
    packed, saved = pack(bench, made, peer), made.saved
    assert saved is not None
    target, disk = bench.scratch / "received", bench.scratch / "received.disk"
    name = "received"
    try:
        with open_link(packed.parent, rate) as link:
            began = time.monotonic()
            downloaded, unpacked = stream(peer.decoder(made.reference, target), link.url(packed))
        sparse.copy(target, disk, offset=saved.memory.stat().st_size, length=saved.disk.stat().st_size)
        guest = stock.restore(bench, saved, target, disk, name)
        waiting = probe.parse(made.workload.probe)
        waiting.prepare(guest)
        answer = probe.wait(waiting, guest, _REPLY_TIMEOUT_S)
        replied = time.monotonic()
        guest.close()
        if answer.content != made.expected:
            raise ProcessFailed(f"{peer.name}: answered {answer.content!r}, expected {made.expected!r}")
        return Received(downloaded - began, unpacked - began, replied - began)
    finally:
        bench.stop(name)
        target.unlink(missing_ok=True)
        disk.unlink(missing_ok=True)
