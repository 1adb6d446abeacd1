# SPDX-License-Identifier: Apache-2.0
"""``cloudlet overlay sign``: sign an overlay."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "sign an overlay with an Ed25519 key"
DESCRIPTION = """
Signs OVERLAY in place: only its header is written again. A signature that it has is replaced. Whoever
synthesises it with --require-signature needs the public part of the key.
"""
EXAMPLE = """
openssl genpkey -algorithm ed25519 -out key.pem
openssl pkey -in key.pem -pubout -out trusted.pem
cloudlet overlay sign shop.cloudlet --key key.pem
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("overlay", metavar="OVERLAY", type=Path, help="overlay file")
    parser.add_argument("--key", required=True, type=Path, metavar="FILE", help="private key, a PEM file")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.engine import signature
    from cloudlet_ext.engine.file_source import FileSource
    from cloudlet_ext.engine.overlay import OverlayFile

    given = call.arguments
    key = signature.load_private_key(given.key)
    source = FileSource(str(given.overlay))
    try:
        overlay = OverlayFile.open(source)
    finally:
        source.close()
    signature.sign_overlay(given.overlay, key)
    signer = key.public_key().public_bytes_raw().hex()
    document = {"overlay": str(given.overlay), "overlay_id": overlay.overlay_id, "signer": signer}
    return Outcome(document, f"overlay {given.overlay} ({overlay.overlay_id[:12]}) is signed by {signer}")
