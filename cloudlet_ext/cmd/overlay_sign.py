# SPDX-License-Identifier: Apache-2.0
"""``cloudlet overlay sign``: sign an overlay."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "sign an overlay with an Ed25519 key"
DESCRIPTION = """
Signs OVERLAY in place: only its header is written again. A signature that it has is replaced. Whoever
synthesises it with --require-signature needs the public part of the key. Refused (exit status 9) while
OVERLAY is recorded or replaced: the signature would be lost.
"""
EXAMPLE = """
openssl genpkey -algorithm ed25519 -out key.pem
openssl pkey -in key.pem -pubout -out trusted.pem
cloudlet overlay sign shop.cloudlet --key key.pem
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("overlay", metavar="OVERLAY", type=Path, help="overlay file")
    parser.add_argument(
        "--key", required=True, type=Path, metavar="FILE", help="private key, a PEM file without a passphrase"
    )


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.worker import overlay_care

    given = call.arguments
    overlay_id, signer = overlay_care.sign(given.overlay, given.key)
    document = {"overlay": str(given.overlay), "overlay_id": overlay_id, "signer": signer}
    return Outcome(document, f"overlay {given.overlay} ({overlay_id[:12]}) is signed by {signer}")
