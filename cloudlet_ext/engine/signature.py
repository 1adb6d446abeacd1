# SPDX-License-Identifier: Apache-2.0
"""Signatures: Ed25519 over the digest of an overlay's manifest, in its header."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_pem_public_key,
)

from cloudlet_ext.engine.container import Container
from cloudlet_ext.engine.errors import BadKey, BadSignature, FileMissing, UnknownSigner, Unsigned
from cloudlet_ext.engine.header import HEADER_BYTES, OVERLAY, Header, decode_header
from cloudlet_ext.engine.output import write_all

_CONTEXT = b"cloudlet overlay v1\0"
_KEY_LIMIT_BYTES = 64 << 10
"""Of one PEM file: about 580 public keys. A folder may have any number of files."""


def signed_message(header: Header) -> bytes:
    """The bytes that are signed."""
    return _CONTEXT + header.manifest_digest


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read a PEM file as of `openssl genpkey -algorithm ed25519`; FileMissing, BadKey."""
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadKey(path=str(path), reason=str(error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(path=str(path), reason="it is of another algorithm")
    return key


def load_keyring(path: Path) -> dict[bytes, Ed25519PublicKey]:
    """Public keys by their 32 bytes, of a PEM file of one key or many, or of a folder of *.pem.

    Raises FileMissing; BadKey, also of a file of more than 64 KiB.
    """
    files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
    keys: dict[bytes, Ed25519PublicKey] = {}
    for file in files:
        found = _public_keys(file)
        keys.update({key.public_bytes_raw(): key for key in found})
    if not keys:
        raise BadKey(path=str(path), reason="there is no public key in it")
    return keys


def sign_overlay(path: Path, key: Ed25519PrivateKey) -> None:
    """Sign the overlay ``path`` in place: only its 256 bytes of header are written again."""
    if not path.is_file():
        raise FileMissing(path=str(path))
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        header = decode_header(os.pread(fd, HEADER_BYTES, 0), str(path), OVERLAY)
        signed = replace(
            header,
            public_key=key.public_key().public_bytes_raw(),
            signature=key.sign(signed_message(header)),
        )
        os.lseek(fd, 0, os.SEEK_SET)
        write_all(fd, signed.encode())
        os.fsync(fd)
    finally:
        os.close(fd)


def verify_signature(container: Container, keyring: Path) -> str:
    """Check that a key of ``keyring`` (file or folder) signed ``container``; gives it in hex.

    Raises Unsigned, UnknownSigner, BadSignature, BadKey, FileMissing. Opening the container has
    already checked that header and manifest fit the digest that is signed, and segments are checked
    by the manifest.
    """
    return verify_header(container.header, container.path, keyring)


def verify_header(header: Header, path: str, keyring: Path) -> str:
    """The same of a header, before its manifest is unpacked: a stranger's manifest need not be looked at."""
    keys = load_keyring(keyring)
    if not header.is_signed:
        raise Unsigned(path=path)
    signer = header.public_key.hex()
    key = keys.get(header.public_key)
    if key is None:
        raise UnknownSigner(path=path, signer=signer, keyring=str(keyring))
    try:
        key.verify(header.signature, signed_message(header))
    except InvalidSignature as error:
        raise BadSignature(path=path, signer=signer) from error
    return signer


def _public_keys(path: Path) -> list[Ed25519PublicKey]:
    keys = []
    begin, end = b"-----BEGIN PUBLIC KEY-----", b"-----END PUBLIC KEY-----"
    *texts, rest = _read(path).split(end)
    if begin in rest:
        raise BadKey(path=str(path), reason=f"key {len(texts)} in it has no end")
    for text in texts:
        try:
            key = load_pem_public_key(text + end + b"\n")
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BadKey(path=str(path), reason=str(error)) from error
        if not isinstance(key, Ed25519PublicKey):
            raise BadKey(path=str(path), reason="it is of another algorithm")
        keys.append(key)
    if not keys:
        raise BadKey(path=str(path), reason="there is no public key in it")
    return keys


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise FileMissing(path=str(path))
    with path.open("rb") as file:
        data = file.read(_KEY_LIMIT_BYTES + 1)
    if len(data) > _KEY_LIMIT_BYTES:
        # Not cut: the keys behind the cut would silently not be trusted.
        size = max(path.stat().st_size, len(data))
        raise BadKey(path=str(path), reason=f"it has {size} bytes, at most {_KEY_LIMIT_BYTES} are read")
    return data
