# SPDX-License-Identifier: Apache-2.0
"""``cloudlet overlay show``: what an overlay holds, in words or as a picture."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloudlet_ext.cmd.call import Call, Outcome

if TYPE_CHECKING:
    from cloudlet_ext.engine.base import Base
    from cloudlet_ext.engine.overlay import OverlayFile

SUMMARY = "show what an overlay holds, in words or as a picture"
DESCRIPTION = """
Shows what OVERLAY (a path or an http(s) URL) was made for and what it holds. With --map, draws its disk and
memory as one picture: where the content of every chunk comes from, what is in the working set, and how the
guest's bytes become the file's. If the base is on this host, the picture tells empty chunks from unchanged
ones.
"""
EXAMPLE = """
cloudlet overlay show shop.cloudlet
cloudlet overlay show shop.cloudlet --map shop.svg
"""


def picture(words: str) -> Path:
    """Argument type: where a picture goes."""
    path = Path(words)
    if path.suffix.lower() not in (".svg", ".png"):
        raise ArgumentTypeError(f"{words!r} ends neither in .svg nor in .png")
    return path


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("overlay", metavar="OVERLAY|URL", help="overlay file")
    parser.add_argument("--map", type=picture, metavar="OUT.svg|OUT.png", help="draw this picture")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.engine.overlay import OverlayFile
    from cloudlet_ext.engine.source import open_source
    from cloudlet_ext.worker.errors import BaseMissing

    with ExitStack() as stack:
        source = open_source(call.arguments.overlay)
        stack.callback(source.close)
        overlay = OverlayFile.open(source)
        base_name, base = None, None
        try:
            base_name, base = call.home.find_base(overlay.base_id or "none", overlay.path)
            stack.enter_context(base)
        except BaseMissing:
            pass
        document = _document(overlay, base_name)
        if call.arguments.map:
            call.report.stage("map")
            _draw(overlay, base, _subtitle(document), call.arguments.map)
            document["map"] = str(call.arguments.map)
    return Outcome(document, _text(call.arguments.overlay, document))


def _document(overlay: OverlayFile, base_name: str | None) -> dict[str, Any]:
    from cloudlet_ext.engine.chunks import CHUNK_BYTES
    from cloudlet_ext.engine.statistics import count_classes

    header = overlay.container.header
    stored: dict[str, int] = {}
    for segment in overlay.segments:
        name = segment.section or segment.kind
        stored[name] = stored.get(name, 0) + segment.stored_bytes
    return {
        "overlay_id": overlay.overlay_id,
        "base_id": overlay.base_id,
        "base": base_name,
        "machine": overlay.machine,
        "disk_bytes": overlay.layout.disk_bytes,
        "memory_bytes": overlay.layout.memory[0].chunks * CHUNK_BYTES if overlay.layout.memory else 0,
        "file_bytes": overlay.file_bytes,
        "segments": len(overlay.segments),
        "chunks": asdict(count_classes(overlay.table, overlay.layout)),
        "stored_bytes": stored,
        "working_set_chunks": len(overlay.load_order()),
        "signer": header.public_key.hex() if header.is_signed else None,
    }


def _subtitle(document: dict[str, Any]) -> str:
    from cloudlet_ext.cmd import text

    base_id = (document["base_id"] or "none")[:12]
    base = f"base {document['base']} ({base_id})" if document["base"] else f"base {base_id}"
    memory, disk = text.capacity(document["memory_bytes"]), text.capacity(document["disk_bytes"])
    return f"overlay {document['overlay_id'][:12]} of {base}, {memory} memory, {disk} disk"


def _draw(overlay: OverlayFile, base: Base | None, subtitle: str, out: Path) -> None:
    from cloudlet_ext.engine import overlay_map
    from cloudlet_ext.engine.output import atomic_output, write_all

    title = overlay.path.rpartition("/")[2].removesuffix(".cloudlet")
    facts = overlay_map.map_facts(overlay, title, subtitle, base.index.numbers if base else None)
    draw = overlay_map.draw_svg if out.suffix.lower() == ".svg" else overlay_map.draw_png
    with atomic_output(out, replace=True) as descriptor:
        write_all(descriptor, draw(facts))


def _text(name: str, document: dict[str, Any]) -> str:
    from cloudlet_ext.cmd import text
    from cloudlet_ext.engine.chunks import CHUNK_BYTES

    base = (document["base_id"] or "none")[:12]
    machine = document["machine"]
    working_set = document["working_set_chunks"] * CHUNK_BYTES
    first = document["stored_bytes"].get("working_set", 0)
    pairs = (
        ("identity", document["overlay_id"]),
        ("base", f"{document['base']} ({base})" if document["base"] else f"{base}, which is not on this host"),
        (
            "guest",
            f"{machine.get('vcpus', '?')} x {machine.get('cpu', '?')}, {text.capacity(document['memory_bytes'])}, "
            f"disk {text.capacity(document['disk_bytes'])}, {machine.get('machine_type', '?')}",
        ),
        ("size", f"{text.size(document['file_bytes'])} in {document['segments']} segments"),
        ("content", text.sources(document["chunks"])),
        ("stored", ", ".join(f"{text.size(size)} {kind}" for kind, size in document["stored_bytes"].items())),
        (
            "working set",
            f"{text.size(working_set)}, of which {text.size(first)} are at the front of the file"
            if working_set
            else "not recorded (cloudlet overlay record)",
        ),
        ("signed by", f"{document['signer']} (overlay verify checks it)" if document["signer"] else "nobody"),
        ("map", document.get("map")),
    )
    return f"overlay {name}\n{text.fields(pairs)}"
