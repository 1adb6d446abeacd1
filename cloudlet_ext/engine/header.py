# SPDX-License-Identifier: Apache-2.0
"""Header: the first 256 bytes of an overlay or a base file."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cloudlet_ext.engine.digest import digest
from cloudlet_ext.engine.errors import (
    Damaged,
    Malformed,
    Truncated,
    UnknownFeature,
    UnsupportedVersion,
    WrongMagic,
)

MAGIC = b"CLOUDLET"
OVERLAY = b"OVLY"
BASE = b"BASE"
VERSION = 1

HEADER_BYTES = 256
MANIFEST_LIMIT_BYTES = 40 << 20
"""2 MiB beside the segments, and 300,000 rows of at most 122 bytes."""

PREFIX = 1 << 0
"""Feature bit: some segments are compressed with the base's content as a prefix."""

DISK_APART = 1 << 1
"""Feature bit of a base file: the base's disk is not in it, it is an image of its own."""

_FEATURE_NAMES = {PREFIX: "prefix", DISK_APART: "disk apart"}
_KIND_NAMES = {OVERLAY: "overlay", BASE: "base file"}
_FIELDS = struct.Struct("<8s4sIQQQ32s32s64s32s24s32s")
_DIGEST_AT = 224


@dataclass(frozen=True)
class Header:
    """What the header says; all sizes in bytes.

    ``manifest_digest`` is of the manifest before compression (the identity of the file),
    ``stored_digest`` of its bytes as stored. ``public_key`` and ``signature`` are zeros when the
    file is not signed.
    """

    kind: bytes
    features: int
    manifest_stored_bytes: int
    manifest_bytes: int
    manifest_digest: bytes
    stored_digest: bytes
    public_key: bytes = bytes(32)
    signature: bytes = bytes(64)

    @property
    def is_signed(self) -> bool:
        """Whether there is a signature (right or wrong)."""
        return any(self.signature) or any(self.public_key)

    def encode(self) -> bytes:
        """The 256 bytes."""
        data = _FIELDS.pack(
            MAGIC,
            self.kind,
            VERSION,
            self.features,
            self.manifest_stored_bytes,
            self.manifest_bytes,
            self.manifest_digest,
            self.public_key,
            self.signature,
            self.stored_digest,
            bytes(24),
            bytes(32),
        )
        return data[:_DIGEST_AT] + digest(data[:_DIGEST_AT])


def decode_header(data: bytes, path: str, kind: bytes) -> Header:
    """Read and check the header of a file of ``kind``.

    Raises WrongMagic, Truncated, UnsupportedVersion, Damaged, UnknownFeature or Malformed.
    """
    if data[:8] != MAGIC[: len(data[:8])] or not data:
        raise WrongMagic(path=path, expected=_KIND_NAMES[kind], found=bytes(data[:8]))
    if len(data) < HEADER_BYTES:
        raise Truncated(path=path, place="the header", expected=HEADER_BYTES, found=len(data))
    fields = _FIELDS.unpack_from(data)
    _, found_kind, version, features, stored, size, manifest_digest = fields[:7]
    key, signature, stored_digest, reserved, own = fields[7:]
    if version != VERSION:
        raise UnsupportedVersion(path=path, expected=VERSION, found=version)
    computed = digest(data[:_DIGEST_AT])
    if computed != own:
        raise Damaged(path=path, place="the header", expected=own.hex(), found=computed.hex())
    if found_kind != kind:
        found = _KIND_NAMES.get(found_kind, f"file of kind {found_kind!r}")
        raise Malformed(
            path=path, place="the header", reason=f"it is another kind of file: {found} instead of {_KIND_NAMES[kind]}"
        )
    _check_features(features, kind, path)
    if any(reserved):
        raise Malformed(path=path, place="the header", reason="reserved bytes are not zero")
    if not 0 < size <= MANIFEST_LIMIT_BYTES or not 0 < stored <= MANIFEST_LIMIT_BYTES:
        raise Malformed(
            path=path,
            place="the header",
            reason=f"a manifest of {size} bytes, {stored} stored: both must be from 1 to {MANIFEST_LIMIT_BYTES}",
        )
    return Header(kind, features, stored, size, manifest_digest, stored_digest, key, signature)


def _check_features(features: int, kind: bytes, path: str) -> None:
    if kind == OVERLAY and features & DISK_APART:
        raise Malformed(path=path, place="the header", reason="feature disk apart is one of base files")
    unknown = [f"feature {bit}" for bit in range(64) if features >> bit & 1 and 1 << bit not in _FEATURE_NAMES]
    if unknown:
        raise UnknownFeature(path=path, features=", ".join(unknown))
