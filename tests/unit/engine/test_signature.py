# SPDX-License-Identifier: Apache-2.0
"""Signatures: keys as openssl makes them, keyrings, and everything that must not pass."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cloudlet_ext.engine.errors import (
    BadKey,
    BadSignature,
    FileMissing,
    FormatError,
    UnknownSigner,
    Unsigned,
    WrongMagic,
)
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.header import OVERLAY, Header, decode_header
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.signature import (
    load_keyring,
    load_private_key,
    sign_overlay,
    verify_header,
    verify_signature,
)


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


def make_key(folder: Path, name: str, algorithm: str = "ed25519") -> tuple[Path, Path]:
    private, public = folder / f"{name}.key", folder / f"{name}.pem"
    openssl("genpkey", "-algorithm", algorithm, "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the key pairs ann, bob."""
    folder: Path = tmp_path_factory.mktemp("keys")
    make_key(folder, "ann")
    make_key(folder, "bob")
    return folder


@pytest.fixture
def overlay(sample, tmp_path: Path) -> Path:
    sample.write(tmp_path / "overlay", level=3)
    return tmp_path / "overlay"


def check(sample, overlay: Path, keyring: Path) -> str:
    return verify_signature(sample.open(overlay).container, keyring)


def test_a_signed_overlay_is_recognised(sample, overlay: Path, keys: Path, tmp_path: Path) -> None:
    before = overlay.read_bytes()
    overlay_id = sample.open(overlay).overlay_id
    sign_overlay(overlay, load_private_key(keys / "ann.key"))
    after = overlay.read_bytes()
    assert after[256:] == before[256:]
    assert after[:72] == before[:72]
    assert sample.open(overlay).overlay_id == overlay_id
    sample.open(overlay).verify(sample.base)
    both = tmp_path / "both.pem"
    both.write_bytes((keys / "bob.pem").read_bytes() + (keys / "ann.pem").read_bytes())
    raw = load_keyring(keys / "ann.pem")
    for keyring in (keys / "ann.pem", keys, both):
        assert bytes.fromhex(check(sample, overlay, keyring)) in raw


def test_a_second_signature_replaces_the_first(sample, overlay: Path, keys: Path) -> None:
    for name in ("ann", "bob"):
        sign_overlay(overlay, load_private_key(keys / f"{name}.key"))
    check(sample, overlay, keys / "bob.pem")
    with pytest.raises(UnknownSigner):
        check(sample, overlay, keys / "ann.pem")


def test_openssl_can_check_the_signature(overlay: Path, keys: Path, tmp_path: Path) -> None:
    sign_overlay(overlay, load_private_key(keys / "ann.key"))
    header = overlay.read_bytes()[:256]
    (tmp_path / "message").write_bytes(b"cloudlet overlay v1\0" + header[40:72])
    (tmp_path / "signature").write_bytes(header[104:168])
    command = ["pkeyutl", "-verify", "-pubin", "-inkey", keys / "ann.pem", "-rawin"]
    openssl(*command, "-in", tmp_path / "message", "-sigfile", tmp_path / "signature")


def test_an_unsigned_overlay(sample, overlay: Path, keys: Path) -> None:
    with pytest.raises(Unsigned, match="is not signed"):
        check(sample, overlay, keys)


def test_a_stranger(sample, overlay: Path, keys: Path) -> None:
    sign_overlay(overlay, load_private_key(keys / "bob.key"))
    with pytest.raises(UnknownSigner) as caught:
        check(sample, overlay, keys / "ann.pem")
    assert caught.value.signer == next(iter(load_keyring(keys / "bob.pem"))).hex()


def test_a_signature_of_something_else(sample, overlay: Path, keys: Path) -> None:
    key = load_private_key(keys / "ann.key")
    sign_overlay(overlay, key)
    data = overlay.read_bytes()
    header = decode_header(data, "overlay", OVERLAY)
    others = [key.sign(bytes(32)), key.sign(header.manifest_digest), bytes(64), header.signature[:-1] + b"\0"]
    for signature in others:
        overlay.write_bytes(replace(header, signature=signature).encode() + data[256:])
        with pytest.raises(BadSignature):
            check(sample, overlay, keys)


def test_other_content_under_a_signature(sample, overlay: Path, keys: Path, tmp_path: Path) -> None:
    sign_overlay(overlay, load_private_key(keys / "ann.key"))
    signed = decode_header(overlay.read_bytes(), "overlay", OVERLAY)
    other = tmp_path / "other"
    sample.write(other, level=5)
    data = other.read_bytes()
    header = decode_header(data, "other", OVERLAY)
    forged = replace(header, public_key=signed.public_key, signature=signed.signature)
    other.write_bytes(forged.encode() + data[256:])
    with pytest.raises(BadSignature):
        check(sample, other, keys)


def test_keys_that_cannot_be_used(keys: Path, tmp_path: Path) -> None:
    rsa, rsa_public = make_key(tmp_path, "rsa", "rsa")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "no").mkdir()
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----\n")
    for path in (rsa, keys / "ann.pem", tmp_path / "empty", garbage):
        with pytest.raises(BadKey, match="openssl genpkey"):
            load_private_key(path)
    for path in (rsa_public, keys / "ann.key", tmp_path / "empty", tmp_path / "no", garbage):
        with pytest.raises(BadKey):
            load_keyring(path)
    for load in (load_private_key, load_keyring):
        with pytest.raises(FileMissing):
            load(tmp_path / "nothing")


def ring_of(size: int, keys: Path) -> bytes:
    """A keyring of ``size`` bytes: ann's key, a comment, bob's key at the very end."""
    ann, bob = (keys / "ann.pem").read_bytes(), (keys / "bob.pem").read_bytes()
    return ann + b"#" * (size - len(ann) - len(bob) - 1) + b"\n" + bob


def test_a_keyring_is_read_to_its_end_or_refused(sample, overlay: Path, keys: Path, tmp_path: Path) -> None:
    """A key that a reader overlooks is a signer whose overlays are refused without a reason."""
    sign_overlay(overlay, load_private_key(keys / "bob.key"))
    ring = tmp_path / "ring.pem"
    ring.write_bytes(ring_of(65536, keys))
    check(sample, overlay, ring)
    ring.write_bytes(ring_of(65537, keys))
    with pytest.raises(BadKey, match="it has 65537 bytes, at most 65536 are read"):
        check(sample, overlay, ring)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "large.pem").write_bytes(ring_of(200_000, keys))
    with pytest.raises(BadKey, match="it has 200000 bytes"):
        load_keyring(tmp_path / "folder")
    with pytest.raises(BadKey, match="it has 65537 bytes"):
        load_private_key(ring)


def test_a_keyring_that_was_cut_is_refused(keys: Path, tmp_path: Path) -> None:
    both = (keys / "ann.pem").read_bytes() + (keys / "bob.pem").read_bytes()
    for cut in (10, 60):
        (tmp_path / "cut.pem").write_bytes(both[:-cut])
        with pytest.raises(BadKey, match="key 1 in it has no end"):
            load_keyring(tmp_path / "cut.pem")


def test_only_overlays_are_signed(keys: Path, tmp_path: Path) -> None:
    key = load_private_key(keys / "ann.key")
    with pytest.raises(FileMissing):
        sign_overlay(tmp_path / "nothing", key)
    (tmp_path / "other").write_bytes(b"something else" * 100)
    with pytest.raises(WrongMagic):
        sign_overlay(tmp_path / "other", key)
    assert (tmp_path / "other").read_bytes() == b"something else" * 100


def test_a_strangers_manifest_is_not_looked_at(sample, overlay: Path, keys: Path) -> None:
    sign_overlay(overlay, load_private_key(keys / "bob.key"))
    data = bytearray(overlay.read_bytes())
    data[300] ^= 1
    overlay.write_bytes(data)
    with pytest.raises(FormatError):
        sample.open(overlay)
    source = FileSource(str(overlay))

    def only_ann(header: Header, path: str) -> None:
        verify_header(header, path, keys / "ann.pem")

    with pytest.raises(UnknownSigner):
        OverlayFile.open(source, only_ann)
    source.close()
