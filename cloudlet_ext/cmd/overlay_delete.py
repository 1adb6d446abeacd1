# SPDX-License-Identifier: Apache-2.0
"""``cloudlet overlay delete``: delete overlay files, and only those."""

from __future__ import annotations

import contextlib
from argparse import ArgumentParser
from pathlib import Path

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "delete overlay files, and only those"
DESCRIPTION = """
Deletes overlay files. A file that is no overlay is left alone (exit status 3), and so is one that another
command changes (exit status 9); the others are then left alone, too. Servers that were synthesised from an
overlay do not need it any more.
"""
EXAMPLE = "cloudlet overlay delete shop.cloudlet"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("overlays", nargs="+", metavar="OVERLAY", type=Path, help="overlay files")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd import text
    from cloudlet_ext.engine.errors import FileMissing
    from cloudlet_ext.engine.header import HEADER_BYTES, OVERLAY, decode_header
    from cloudlet_ext.worker import overlay_care

    paths: list[Path] = list(dict.fromkeys(call.arguments.overlays))
    for path in paths:
        if not path.is_file():
            raise FileMissing(path=str(path))
        with path.open("rb") as file:
            # The header is enough: an overlay whose rest is damaged should be deletable.
            decode_header(file.read(HEADER_BYTES), str(path), OVERLAY)
    with contextlib.ExitStack() as alone:
        for path in paths:
            alone.enter_context(overlay_care.changing(path))
        freed = sum(path.stat().st_size for path in paths)
        try:
            for path in paths:
                path.unlink()
        except BaseException:
            gone = [str(path) for path in paths if not path.exists()]
            if gone:
                call.report.leaves(f"Deleted: {', '.join(gone)}.")
            raise
    names = ", ".join(map(str, paths))
    return Outcome(
        {"deleted": [str(path) for path in paths], "freed_bytes": freed},
        f"deleted: {names}, {text.size(freed)} are free again",
    )
