# SPDX-License-Identifier: Apache-2.0
"""``cloudlet overlay verify``: check all of an overlay, and who signed it."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "check all of an overlay, and who signed it"
DESCRIPTION = """
Reads all of OVERLAY (a path or an http(s) URL) and checks every part by its digest. If its base is on this
host, parts that need the base are unpacked too. With --key the overlay must be signed by one of these keys
(exit status 11 otherwise).
"""
EXAMPLE = "cloudlet overlay verify shop.cloudlet --key trusted.pem"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("overlay", metavar="OVERLAY|URL", help="overlay file")
    parser.add_argument("--key", type=Path, metavar="FILE", help="trusted public keys: a PEM file, or a folder of them")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd import text
    from cloudlet_ext.engine import signature
    from cloudlet_ext.engine.overlay import OverlayFile
    from cloudlet_ext.engine.source import open_source
    from cloudlet_ext.hypervisor.likeness import same_machine
    from cloudlet_ext.worker.errors import BaseMissing

    given = call.arguments
    source = open_source(given.overlay)
    try:
        overlay = OverlayFile.open(source)
        signer = signature.verify_signature(overlay.container, given.key) if given.key else None
        call.report.stage("verify")
        try:
            base_name, base = call.home.find_base(overlay.base_id or "none", overlay.path)
        except BaseMissing:
            base_name = None
            overlay.verify(None, call.report.progress)
        else:
            with base:
                overlay.check_fit(base, same_machine)
                overlay.verify(base, call.report.progress)
    finally:
        source.close()
    document = {
        "overlay": given.overlay,
        "overlay_id": overlay.overlay_id,
        "file_bytes": overlay.file_bytes,
        "is_intact": True,
        "base": base_name,
        "base_id": overlay.base_id,
        "signer": signer,
        "verify_s": call.report.elapsed_s,
    }
    missing = "not on this host: parts that need it were checked by their digests only"
    pairs = (
        ("size", text.size(overlay.file_bytes)),
        ("base", base_name or missing),
        ("signed by", signer),
    )
    return Outcome(document, f"overlay {given.overlay} ({overlay.overlay_id[:12]}) is intact\n{text.fields(pairs)}")
