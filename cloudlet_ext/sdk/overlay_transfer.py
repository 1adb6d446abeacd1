# SPDX-License-Identifier: Apache-2.0
"""Overlay transfer: an overlay of a cloud becomes a file, a file or URL becomes an overlay of a cloud."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from openstack.connection import Connection

from cloudlet_ext.engine.chunks import CHUNK_BYTES
from cloudlet_ext.engine.digest import digest
from cloudlet_ext.engine.errors import Damaged
from cloudlet_ext.engine.header import HEADER_BYTES, OVERLAY, decode_header
from cloudlet_ext.engine.output import atomic_output, check_output, write_all
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.source import Source, SourcePolicy, open_source
from cloudlet_ext.sdk import image_data
from cloudlet_ext.sdk.errors import BaseUnknown, NotReady
from cloudlet_ext.sdk.image_data import Progress
from cloudlet_ext.sdk.overlay import Overlay


@contextmanager
def opened(path_or_url: str) -> Iterator[tuple[OverlayFile, Source]]:
    """Open an overlay that is a file or at an http(s) URL: header and manifest are read and checked.

    FormatError, SourceError.
    """
    with closing(open_source(path_or_url, SourcePolicy())) as source:
        yield OverlayFile.open(source), source


def base_id_of(path_or_url: str) -> str:
    """The base that an overlay was made for: 64 hexadecimal digits. BaseUnknown, FormatError, SourceError."""
    with opened(path_or_url) as (overlay, _):
        if not overlay.base_id:
            raise BaseUnknown(overlay=overlay.path)
        return overlay.base_id


def save_overlay(
    connection: Connection, overlay: Overlay, path: Path, progress: Progress, replace: bool = False
) -> int:
    """Write an overlay to a file; its size in bytes. A failure leaves no file behind.

    NotReady, ImageDamaged, OutputExists, OutputBusy, FileMissing, DiskFull.
    """
    check_output(path, replace)
    image = image_data.show(connection.image, overlay.id)
    if image["status"] != "active":
        raise NotReady(kind="overlay", name=overlay.name, image_id=overlay.id, status=image["status"])
    with atomic_output(path, replace) as fd:
        for piece in image_data.fetch(connection.image, image, progress):
            write_all(fd, piece)
    return int(image["size"])


def import_overlay(
    connection: Connection,
    overlay: OverlayFile,
    source: Source,
    name: str,
    progress: Progress,
    base_image_id: str | None = None,
) -> str:
    """Make an overlay image of an opened overlay; the image's id.

    Read once from front to back and checked on the way, so that the image becomes usable only when all was right.
    ``base_image_id``: the image of its base in this cloud, if it has one. BaseUnknown, FormatError, SourceError; no
    image is left after a failure.
    """
    images = connection.image
    image_id = str(uuid.uuid4())
    document = _document(overlay, image_id, name, base_image_id)
    with image_data.undone_on_failure(images) as made:
        made.append(image_id)
        image_data.create(images, document)
        pieces = image_data.counted(_checked(overlay, source), progress)
        image_data.send(images, image_id, pieces, overlay.file_bytes)
    return image_id


def _document(overlay: OverlayFile, image_id: str, name: str, base_image_id: str | None) -> dict[str, Any]:
    """The image as the image service wants it at its creation."""
    if not overlay.base_id:
        raise BaseUnknown(overlay=overlay.path)
    memory, vcpus = overlay.layout.memory, overlay.machine.get("vcpus")
    known = {
        "cloudlet_base_image": base_image_id,
        "cloudlet_memory_mb": str(memory[0].chunks * CHUNK_BYTES >> 20) if memory else None,
        "cloudlet_vcpus": str(vcpus) if vcpus else None,
    }
    return {
        **{key: value for key, value in known.items() if value},
        "cloudlet_type": "overlay",
        "cloudlet_overlay_id": overlay.overlay_id,
        "cloudlet_base_id": overlay.base_id,
        "id": image_id,
        "name": name,
        "disk_format": "raw",
        "container_format": "bare",
        "visibility": "private",
    }


def _checked(overlay: OverlayFile, source: Source) -> Iterator[bytes]:
    """The bytes of the file, part by part as the manifest tells them, each checked before it is given."""
    parts = _Parts(source.stream(0, overlay.file_bytes))
    front = parts.take(overlay.segments[0].offset)
    header, found = overlay.container.header, digest(front[HEADER_BYTES:])
    if decode_header(front, overlay.path, OVERLAY) != header or found != header.stored_digest:
        expected = header.stored_digest.hex()
        raise Damaged(path=overlay.path, place="the manifest", expected=expected, found=found.hex())
    yield front
    for segment in overlay.segments:
        part = parts.take(segment.stored_bytes)
        overlay.container.check(segment, part)
        yield part


class _Parts:
    """A stream of pieces, taken in parts of the lengths that are asked for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = bytearray()

    def take(self, length: int) -> bytes:
        """The next ``length`` bytes; fewer when the stream ends."""
        while len(self._rest) < length and (piece := next(self._pieces, None)):
            self._rest += piece
        part = bytes(self._rest[:length])
        del self._rest[:length]
        return part
