# SPDX-License-Identifier: Apache-2.0
"""``cloudlet synthesize``: base + overlay -> a running server."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudlet_ext.cmd.call import Call, Outcome

if TYPE_CHECKING:
    from cloudlet_ext.worker.synthesis import SynthesisResult

SUMMARY = "make a running server of an overlay and its base"
DESCRIPTION = """
Makes a running server of OVERLAY (a path or an http(s) URL) and its base, which must be on this host.

With placement "mapped" all of the overlay is fetched first, and the guest's memory is a private map of the
base's, which it shares with other servers. With "early" the guest runs as soon as its device state is here,
and what it asks for is fetched ahead of the rest. "auto" takes what will answer sooner, and says why.

The command ends when all of the overlay is here; the server then needs neither the overlay nor this command.
While nothing arrives the guest is paused. When the overlay's source does not come back, or the command fails
or is interrupted, the server is removed.
"""
EXAMPLE = """
cloudlet synthesize shop.cloudlet --probe http://:80/
cloudlet synthesize https://example.org/shop.cloudlet --name shop --forward 8080:80 --require-signature trusted.pem
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    from cloudlet_ext.cmd.parser import add_forwards, add_timeout

    parser.add_argument("overlay", metavar="OVERLAY|URL", help="overlay file")
    parser.add_argument("--name", help="name of the server (default: the overlay's and a random part)")
    parser.add_argument(
        "--placement", choices=("auto", "mapped", "early"), default="auto", help="see above (default: auto)"
    )
    parser.add_argument("--eager", action="store_true", help="have all of the overlay here before the guest runs")
    parser.add_argument("--probe", metavar="PROBE", help="wait for the answer to this, and tell when it came")
    parser.add_argument(
        "--require-signature", type=Path, metavar="KEYRING", help="refuse unless one of these public keys signed it"
    )
    parser.add_argument("--isolated", action="store_true", help="the guest reaches no network, only forwards reach it")
    add_forwards(parser)
    add_timeout(parser, 120, "the probe")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.worker.synthesis import SynthesisRequest, synthesize

    given = call.arguments
    request = SynthesisRequest(
        overlay=given.overlay,
        name=given.name,
        placement=given.placement,
        eager=given.eager,
        probe=given.probe,
        timeout_s=given.timeout,
        keyring=given.require_signature,
        isolated=given.isolated,
        forwards=dict(given.forward),
    )
    made = synthesize(call.home, request, call.report)
    return Outcome(_document(made), _text(made))


def _document(made: SynthesisResult) -> dict[str, Any]:
    return {
        "name": made.name,
        "base": made.base,
        "overlay_id": made.overlay_id,
        "signer": made.signer,
        "placement": made.placement,
        "reason": made.reason,
        "running_s": made.running_s,
        "first_reply_s": made.first_reply_s,
        "resident_s": made.resident_s,
        "reply": made.reply.decode(errors="replace"),
        "overlay_bytes": made.total_bytes,
        "chunks": asdict(made.statistics),
        "pages_requested": made.pages_requested,
        "stalls": made.stalls,
        "forwards": made.forwards,
        "clone": {"clock": made.clone.clock, "address": made.clone.address, "reason": made.clone.reason},
    }


def _text(made: SynthesisResult) -> str:
    from cloudlet_ext.cmd import text

    first = None
    if made.first_reply_s is not None:
        first = f"{text.seconds(made.first_reply_s)}  {text.reply(made.reply)}".rstrip()
    pairs = (
        ("placement", f"{made.placement}: {made.reason}"),
        ("running after", text.seconds(made.running_s)),
        ("first reply after", first),
        ("resident after", text.seconds(made.resident_s)),
        ("fetched", text.size(made.total_bytes)),
        ("content", text.sources(asdict(made.statistics))),
        ("on demand", f"{made.pages_requested} pages" if made.pages_requested else None),
        ("stalls", f"{made.stalls} times nothing came and the guest was paused" if made.stalls else None),
        ("signed by", made.signer),
        ("forwards", text.forwards(made.forwards)),
        ("as captured", text.clone(made.clone.clock, made.clone.address, made.clone.reason)),
    )
    return f"server {made.name} runs on base {made.base}\n{text.fields(pairs)}"
