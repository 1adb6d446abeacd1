# SPDX-License-Identifier: Apache-2.0
"""The whole image, compressed: downloaded, unpacked, booted."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import stock
from benchmarks.bench import Bench
from benchmarks.link import Rate, open_link
from benchmarks.measure import run
from benchmarks.packing import stream
from cloudlet_ext.worker import probe

_LEVEL = 3
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Booted:
    """A server that was booted. Seconds since the request: all bytes here, unpacked, first reply."""

    size_bytes: int
    downloaded_s: float
    unpacked_s: float
    first_reply_s: float


def pack(bench: Bench, image: Path) -> Path:
    """The image through zstd, once."""
    packed = image.with_name(image.name + ".zst")
    if not packed.exists():
        partial = bench.scratch / packed.name
        run(["zstd", "-q", f"-{_LEVEL}", "-T0", image, "-o", partial], _TIMEOUT_S)
        partial.rename(packed)
    return packed


def receive(bench: Bench, image: Path, base: str, probe_text: str, rate: Rate) -> Booted:
    """Download through a link, unpack as it comes, boot in the machine of ``base``, wait for the app's first reply."""
    packed, unpacked_image, name = pack(bench, image), bench.scratch / "booted.qcow2", "booted"
    try:
        with open_link(packed.parent, rate) as link:
            began = time.monotonic()
            command: list[str | Path] = ["zstd", "-q", "-d", "-f", "-", "-o", unpacked_image]
            downloaded, unpacked = stream(command, link.url(packed))
        guest = stock.boot(bench, base, unpacked_image, name)
        waiting = probe.parse(probe_text)
        waiting.prepare(guest)
        probe.wait(waiting, guest, _TIMEOUT_S)
        replied = time.monotonic()
        guest.close()
        return Booted(packed.stat().st_size, downloaded - began, unpacked - began, replied - began)
    finally:
        bench.stop(name)
        unpacked_image.unlink(missing_ok=True)
