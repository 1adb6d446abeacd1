# SPDX-License-Identifier: Apache-2.0
"""Source: where the bytes of an overlay or base file come from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.source_policy import SourcePolicy

__all__ = ["Source", "SourcePolicy", "open_source"]


class Source(Protocol):
    """A file that is read by ranges. All methods may be called from several threads at once."""

    size_bytes: int | None
    """Size of the file; None as long as the source has not told."""

    @property
    def rate_bytes_per_s(self) -> float | None:
        """Measured rate without round trips; None before about 64 KiB were read."""
        ...

    @property
    def latency_s(self) -> float:
        """Shortest time seen from a request to its first byte, seconds."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes at ``offset``, resumed if broken off. ShortRead, SourceError."""
        ...

    def stream(self, offset: int, length: int) -> Iterator[bytes]:
        """The same in pieces as they come; together exactly ``length`` bytes."""
        ...

    def attempt(self, offset: int, length: int) -> Iterator[bytes]:
        """The same without trying again: SourceInterrupted when the transfer breaks off."""
        ...

    def warm(self, connections: int) -> None:
        """Have ``connections`` open ahead of their use, so that a later request costs one round
        trip. Does not wait, and raises nothing."""
        ...

    def close(self) -> None:
        """End every transfer (its reader gets SourceClosed) and free everything. Idempotent."""
        ...

    def describe(self) -> str:
        """The source for messages, without secrets."""
        ...


def open_source(text: str, policy: SourcePolicy | None = None) -> Source:
    """Source for a path or URL. SourceNotFound for a missing file, SourceRefused for a URL that
    ``policy`` forbids. A URL is not contacted before the first read."""
    if "://" in text:
        # The HTTP library takes 0.1 s to import, which most commands can do without.
        from cloudlet_ext.engine.http_source import HttpSource

        return HttpSource(text, policy or SourcePolicy())
    return FileSource(text)
