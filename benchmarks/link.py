# SPDX-License-Identifier: Apache-2.0
"""A folder's files behind a shaped link."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.file_server import FileServer
from benchmarks.shaper import Shaper

_READ_BYTES = 64 * 1024
_SILENCE_S = 60.0


@dataclass(frozen=True)
class Rate:
    """A link: Mbit/s in each direction, round trip in ms."""

    mbit: float
    rtt_ms: float

    @property
    def bytes_per_s(self) -> float:
        """The same in bytes."""
        return self.mbit * 1e6 / 8

    def __str__(self) -> str:
        return f"{self.mbit:g} Mbit/s, {self.rtt_ms:g} ms"


@dataclass(frozen=True)
class Link:
    """URLs of the files of a folder."""

    server: FileServer
    address: str

    def url(self, path: Path) -> str:
        """URL of a file of the folder, through the link."""
        return self.server.url(path.name, self.address)


@contextmanager
def open_link(folder: Path, rate: Rate) -> Iterator[Link]:
    """Serve ``folder`` through a link of ``rate`` while the block runs."""
    with FileServer(folder) as server, Shaper(server.address, rate_mbit=rate.mbit, rtt_ms=rate.rtt_ms) as shaper:
        yield Link(server, shaper.address)


def download(url: str) -> Iterator[bytes]:
    """The body of a file, by one plain request, as it comes."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=_SILENCE_S)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        if answer.status != 200:
            raise OSError(f"{url}: HTTP status {answer.status}")
        while piece := answer.read1(_READ_BYTES):
            yield piece
    finally:
        connection.close()
