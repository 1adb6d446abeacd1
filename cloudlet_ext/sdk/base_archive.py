# SPDX-License-Identifier: Apache-2.0
"""Base archive: the two images of a base in one file, to be carried to another cloud.

An uncompressed POSIX tar of three regular files in this order, nothing else::

    manifest.json    what is told below; at most 1 MiB
    disk.qcow2       the disk image as the image service keeps it
    memory           the memory image likewise

    {"format": "cloudlet-base-archive", "version": 1, "name": NAME, "base_id": 64 hexadecimal digits,
     "images": {"disk.qcow2": IMAGE, "memory": IMAGE}}
    IMAGE = {"bytes": SIZE, "sha256": 64 hexadecimal digits, "disk_format", "container_format",
             "min_disk": GiB, "min_ram": MiB, "properties": {STRING: STRING}}

The manifest stands before the data and holds their digests: its place is kept free until they are known.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cloudlet_ext.engine.output import atomic_output, pwrite_all, write_all
from cloudlet_ext.sdk.errors import ArchiveDamaged, ArchiveTruncated, NotArchive

FORMAT, VERSION = "cloudlet-base-archive", 1
MANIFEST, DISK, MEMORY = "manifest.json", "disk.qcow2", "memory"
PARTS = (DISK, MEMORY)

_MANIFEST_LIMIT_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20
_HEX = set("0123456789abcdef")
_UNKNOWN_SHA256 = "0" * 64


@dataclass(frozen=True)
class Part:
    """What the manifest says of an image: size in bytes, digest, and how to make the image again."""

    bytes: int
    disk_format: str
    container_format: str
    min_disk: int
    min_ram: int
    properties: dict[str, str]
    sha256: str = _UNKNOWN_SHA256


@dataclass(frozen=True)
class ArchiveManifest:
    """The manifest; ``images`` by file name: DISK, MEMORY."""

    name: str
    base_id: str
    images: dict[str, Part]

    def encode(self) -> bytes:
        """As JSON; equally long whatever the digests are."""
        document = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(document, indent=1, sort_keys=True).encode()


def write_archive(
    path: Path, manifest: ArchiveManifest, data: Mapping[str, Iterable[bytes]], replace_file: bool
) -> int:
    """Write an archive with the ``data`` of each part; its size in bytes.

    The file appears under its name when it is whole. ArchiveTruncated when ``data`` is not as long as the manifest
    says; what ``data`` raises; OutputExists, OutputBusy, FileMissing, DiskFull.
    """
    with atomic_output(path, replace_file) as fd:
        _write_member(fd, MANIFEST, [manifest.encode()], len(manifest.encode()), path)
        images = {}
        for name in PARTS:
            part = manifest.images[name]
            images[name] = replace(part, sha256=_write_member(fd, name, data[name], part.bytes, path))
        write_all(fd, bytes(2 * tarfile.BLOCKSIZE))
        pwrite_all(fd, replace(manifest, images=images).encode(), tarfile.BLOCKSIZE)
        return os.lseek(fd, 0, os.SEEK_CUR)


class Archive:
    """An archive that is read: ``manifest`` is checked, the parts are as they are read."""

    def __init__(self, path: Path) -> None:
        """Open ``path``. NotArchive, ArchiveTruncated, OSError."""
        self._path = str(path)
        self._file = path.open("rb")
        try:
            self._offsets, sizes = self._members()
            self.manifest = self._read_manifest(sizes)
        except tarfile.TarError as error:
            self.close()
            raise NotArchive(path=self._path, reason=f"as a tar file it is unreadable ({error})") from error
        except BaseException:
            self.close()
            raise

    def pieces(self, name: str) -> Iterator[bytes]:
        """The data of a part. ArchiveDamaged instead of the last piece when the digest does not fit."""
        part = self.manifest.images[name]
        hasher = hashlib.sha256()
        self._file.seek(self._offsets[name])
        left = part.bytes
        while left:
            piece = self._file.read(min(_PIECE_BYTES, left))
            if not piece:
                raise ArchiveTruncated(path=self._path, part=name, expected=part.bytes, found=part.bytes - left)
            left -= len(piece)
            hasher.update(piece)
            if not left and hasher.hexdigest() != part.sha256:
                raise ArchiveDamaged(path=self._path, part=name, expected=part.sha256, found=hasher.hexdigest())
            yield piece

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _members(self) -> tuple[dict[str, int], dict[str, int]]:
        """Offsets and sizes of the three files."""
        offsets, sizes = {}, {}
        with tarfile.open(fileobj=self._file, mode="r:") as tar:
            for expected in (MANIFEST, *PARTS, None):
                member = tar.next()
                found = member.name if member else None
                if found != expected or (member and member.type != tarfile.REGTYPE):
                    reason = f"expected {expected or 'its end'}, found {found or 'its end'}"
                    raise NotArchive(path=self._path, reason=reason)
                if member:
                    offsets[member.name], sizes[member.name] = member.offset_data, member.size
        there = os.fstat(self._file.fileno()).st_size
        for name, offset in offsets.items():
            if offset + sizes[name] > there:
                found_bytes = max(there - offset, 0)
                raise ArchiveTruncated(path=self._path, part=name, expected=sizes[name], found=found_bytes)
        return offsets, sizes

    def _read_manifest(self, sizes: dict[str, int]) -> ArchiveManifest:
        if sizes[MANIFEST] > _MANIFEST_LIMIT_BYTES:
            raise NotArchive(path=self._path, reason=f"its manifest has {sizes[MANIFEST]} bytes")
        self._file.seek(self._offsets[MANIFEST])
        try:
            manifest = _decode(json.loads(self._file.read(sizes[MANIFEST])))
        except (ValueError, RecursionError) as error:
            raise NotArchive(path=self._path, reason=f"its manifest is wrong: {error}") from error
        for name in PARTS:
            said = manifest.images[name].bytes
            if said != sizes[name]:
                reason = f"its manifest says that {name} has {said} bytes, there are {sizes[name]}"
                raise NotArchive(path=self._path, reason=reason)
        return manifest


def _write_member(fd: int, name: str, data: Iterable[bytes], length: int, path: Path) -> str:
    """Write a file of ``length`` bytes into the tar at the position of ``fd``; its SHA-256."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = length, 0o600
    write_all(fd, info.tobuf(tarfile.GNU_FORMAT))
    hasher, done = hashlib.sha256(), 0
    for piece in data:
        hasher.update(piece)
        write_all(fd, piece)
        done += len(piece)
    if done != length:
        raise ArchiveTruncated(path=str(path), part=name, expected=length, found=done)
    write_all(fd, bytes(-length % tarfile.BLOCKSIZE))
    return hasher.hexdigest()


def _decode(document: Any) -> ArchiveManifest:
    """The manifest, checked; ValueError."""
    kinds = {"format": str, "version": int, "name": str, "base_id": str, "images": dict}
    fields = _object(document, "the manifest", kinds)
    if (fields["format"], fields["version"]) != (FORMAT, VERSION):
        raise ValueError(
            f"expected {FORMAT} version {VERSION}, found {fields['format']!r:.40} version {fields['version']}"
        )
    _check_hex(fields["base_id"], "base_id")
    parts = _object(fields["images"], "images", dict.fromkeys(PARTS, dict))
    return ArchiveManifest(fields["name"], fields["base_id"], {name: _part(parts[name], name) for name in PARTS})


def _part(document: Any, name: str) -> Part:
    kinds = {
        "bytes": int,
        "sha256": str,
        "disk_format": str,
        "container_format": str,
        "min_disk": int,
        "min_ram": int,
        "properties": dict,
    }
    fields = _object(document, name, kinds)
    _check_hex(fields["sha256"], f"{name}, sha256")
    if not fields["bytes"] or min(fields["bytes"], fields["min_disk"], fields["min_ram"]) < 0:
        raise ValueError(f"{name} has a size that cannot be")
    if not all(isinstance(value, str) for value in fields["properties"].values()):
        raise ValueError(f"{name} has a property that is no string")
    return Part(**fields)


def _object(document: Any, name: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    """``document`` if it is an object of exactly these fields; ValueError."""
    if not isinstance(document, dict) or document.keys() != kinds.keys():
        raise ValueError(f"{name} is not an object of {', '.join(sorted(kinds))}")
    for field, kind in kinds.items():
        if type(document[field]) is not kind:
            raise ValueError(f"{name}, {field} is not of type {kind.__name__}")
    return document


def _check_hex(value: str, name: str) -> None:
    if len(value) != 64 or not set(value) <= _HEX:
        raise ValueError(f"{name} is not 64 hexadecimal digits")
