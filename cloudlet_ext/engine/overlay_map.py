# SPDX-License-Identifier: Apache-2.0
"""Overlay map: one picture of what an overlay holds, and of what it need not hold.

Disk and memory are drawn as bands of cells, coloured by where the content of their chunks comes from, with the working
set marked below them; three bars then show how the guest's bytes become the file's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloudlet_ext.engine.chunks import CHUNK_BYTES, Numbers
from cloudlet_ext.engine.manifest import CHUNKS, DISK, MEMORY, WORKING_SET
from cloudlet_ext.engine.map_canvas import Canvas, Colour, PngCanvas, SvgCanvas, text_width
from cloudlet_ext.engine.map_cells import BAND_ROWS, SHADES, CellClass, Strip, census_of, strip
from cloudlet_ext.engine.overlay import OverlayFile

INK: Colour = (31, 41, 51)
FAINT: Colour = (110, 122, 135)
WHITE: Colour = (255, 255, 255)
WEDGE: Colour = (240, 242, 245)

COLOURS: dict[CellClass, Colour] = {
    CellClass.EMPTY: (238, 240, 243),
    CellClass.UNCHANGED: (190, 199, 209),
    CellClass.ZERO: (240, 214, 110),
    CellClass.BASE_MEMORY: (58, 139, 209),
    CellClass.BASE_DISK: (28, 165, 132),
    CellClass.SAME_OVERLAY: (190, 120, 190),
    CellClass.STORED: (214, 74, 30),
    CellClass.NOTHING: WHITE,
}
"""After Okabe and Ito, so that they can be told apart by everybody."""

NAMES: dict[CellClass, str] = {
    CellClass.EMPTY: "empty",
    CellClass.UNCHANGED: "as in the base",
    CellClass.ZERO: "zero now",
    CellClass.BASE_MEMORY: "in base memory",
    CellClass.BASE_DISK: "on base disk",
    CellClass.SAME_OVERLAY: "repeated",
    CellClass.STORED: "stored",
}

_STORED_COLOURS: dict[str, Colour] = {
    WORKING_SET: (150, 32, 12),
    MEMORY: (214, 74, 30),
    DISK: (236, 130, 60),
    "other": (90, 98, 110),
    "saved": (250, 226, 214),
}
_STORED_NAMES = {WORKING_SET: "working set", MEMORY: "memory", DISK: "disk", "other": "table, device state"}

_WIDTH, _MARGIN = 1600, 56
_INNER = _WIDTH - 2 * _MARGIN
_CELL = 4
_COLUMNS = _INNER // _CELL
_MOST_BANDS = {"memory": 8, "disk": 5}
_TRACK, _GAP = 5, 9
_BAR, _WEDGE = 40, 34


@dataclass(frozen=True)
class MapFacts:
    """What is drawn. ``chunks``: number of chunks by class; ``stored``: bytes in the file by section."""

    title: str
    subtitle: str
    strips: tuple[Strip, ...]
    chunks: dict[CellClass, int]
    stored: dict[str, int]
    working_set_bytes: int

    @property
    def has_working_set(self) -> bool:
        """Whether one was recorded."""
        return self.working_set_bytes > 0

    @property
    def file_bytes(self) -> int:
        """Size of the overlay."""
        return sum(self.stored.values())


def map_facts(overlay: OverlayFile, title: str, subtitle: str, base_numbers: Numbers | None) -> MapFacts:
    """Look at an overlay. ``base_numbers``: chunks of its base that are not zero, None when the base is not at hand."""
    layout = overlay.layout
    census = census_of(overlay.table, layout, base_numbers)
    order = overlay.load_order()
    memory = range(layout.disk_chunks, layout.total_chunks)
    strips = tuple(
        strip(name, size, part, census, order, _MOST_BANDS[name] * _COLUMNS * BAND_ROWS)
        for name, size, part in (
            # The ROM blocks, which are drawn behind the main one, are not counted.
            ("memory", layout.memory[0].chunks * CHUNK_BYTES if layout.memory else 0, memory),
            ("disk", layout.disk_bytes, range(layout.disk_chunks)),
        )
        if size
    )
    counts = census(np.array([0, layout.total_chunks]))[0].tolist()
    return MapFacts(
        title=title,
        subtitle=subtitle,
        strips=strips,
        chunks={kind: counts[kind] for kind in CellClass if kind != CellClass.NOTHING},
        stored=_stored(overlay),
        working_set_bytes=len(order) * CHUNK_BYTES,
    )


def _stored(overlay: OverlayFile) -> dict[str, int]:
    stored = dict.fromkeys((WORKING_SET, MEMORY, DISK), 0)
    for segment in overlay.segments:
        if segment.kind == CHUNKS:
            stored[segment.section] += segment.stored_bytes
    stored["other"] = overlay.file_bytes - sum(stored.values())
    return stored


def draw_svg(facts: MapFacts) -> bytes:
    """The picture as SVG."""
    return _draw(facts, SvgCanvas(_WIDTH, _height(facts)))


def draw_png(facts: MapFacts) -> bytes:
    """The picture as PNG."""
    return _draw(facts, PngCanvas(_WIDTH, _height(facts)))


_HEAD, _LEGEND, _STRIP_HEAD, _STRIP_FOOT, _FOOT = 132, 76, 38, 18, 40
_BARS = 3 * (_BAR + 28) + 2 * _WEDGE + 20


def _band_step(facts: MapFacts) -> int:
    return BAND_ROWS * _CELL + (_TRACK + 1 if facts.has_working_set else 0) + _GAP


def _height(facts: MapFacts) -> int:
    bands = sum(len(part.bands(_COLUMNS)) for part in facts.strips)
    return _HEAD + _LEGEND + len(facts.strips) * (_STRIP_HEAD + _STRIP_FOOT) + bands * _band_step(facts) + _BARS + _FOOT


def _draw(facts: MapFacts, canvas: Canvas) -> bytes:
    canvas.box(0, 0, canvas.width, canvas.height, WHITE)
    _draw_head(facts, canvas)
    _draw_legend(facts, canvas, _HEAD)
    y: float = _HEAD + _LEGEND
    for part in facts.strips:
        y = _draw_strip(facts, canvas, part, y)
    _draw_bars(facts, canvas, y + 20)
    return canvas.encode()


def _draw_head(facts: MapFacts, canvas: Canvas) -> None:
    canvas.text((_MARGIN, 70), facts.title, 38, INK, bold=True)
    canvas.text((_MARGIN, 102), facts.subtitle, 18, FAINT)
    right = _WIDTH - _MARGIN
    canvas.text((right, 70), _size(facts.file_bytes), 44, COLOURS[CellClass.STORED], anchor="end", bold=True)
    whole = _size(sum(facts.chunks.values()) * CHUNK_BYTES)
    canvas.text((right, 102), f"carry a guest of {whole}", 18, FAINT, anchor="end")


def _draw_legend(facts: MapFacts, canvas: Canvas, y: float) -> None:
    shown = [kind for kind in NAMES if facts.chunks[kind] or kind in (CellClass.UNCHANGED, CellClass.STORED)]
    entries = [(COLOURS[kind], NAMES[kind], _size(facts.chunks[kind] * CHUNK_BYTES)) for kind in shown]
    if facts.has_working_set:
        entries.append((INK, "working set", _size(facts.working_set_bytes)))
    step = _INNER / 8
    for place, (colour, name, amount) in enumerate(entries):
        x = _MARGIN + place * step
        height = 5 if name == "working set" else 18
        canvas.box(x, y + 16 - height, 18, height, colour, radius=2)
        canvas.text((x + 26, y + 14), name, 16, INK)
        canvas.text((x + 26, y + 36), amount, 16, FAINT)


def _draw_strip(facts: MapFacts, canvas: Canvas, part: Strip, y: float) -> float:
    cell = part.chunks_per_cell * CHUNK_BYTES
    canvas.text((_MARGIN, y + 22), part.name, 20, INK, bold=True)
    canvas.text((_MARGIN + 100, y + 22), _capacity(part.bytes), 18, FAINT)
    canvas.text((_WIDTH - _MARGIN, y + 22), f"one cell is {_capacity(cell)}", 16, FAINT, anchor="end")
    y += _STRIP_HEAD
    for number, band in enumerate(part.bands(_COLUMNS)):
        canvas.raster(_MARGIN, y, _CELL, band, _PALETTE)
        if facts.has_working_set:
            _draw_marks(canvas, part.marks[number * _COLUMNS :][: band.shape[1]], y + BAND_ROWS * _CELL + 1)
        y += _band_step(facts)
    return y + _STRIP_FOOT


def _draw_marks(canvas: Canvas, shares: NDArray[np.float64], y: float) -> None:
    """A line below a band: dark where its chunks are in the working set."""
    shade = np.where(shares > 0, 1 + (shares > 0.1) + (shares > 0.5), 0).astype(np.uint8)
    edges = np.concatenate(([0], np.flatnonzero(np.diff(shade)) + 1, [len(shade)]))
    for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if shade[first]:
            colour = _mixed(INK, WHITE, (0, 0.45, 0.7, 1.0)[int(shade[first])])
            canvas.box(_MARGIN + first * _CELL, y, (end - first) * _CELL, _TRACK, colour)


@dataclass(frozen=True)
class _Piece:
    """A part of a bar: ``words`` stand in it as far as they fit."""

    count: float
    colour: Colour
    words: str
    ink: Colour = WHITE


def _draw_bars(facts: MapFacts, canvas: Canvas, y: float) -> None:
    """Three bars, each a part of the one above, enlarged."""
    size = {kind: count * CHUNK_BYTES for kind, count in facts.chunks.items()}
    changed = [kind for kind in NAMES if kind not in (CellClass.EMPTY, CellClass.UNCHANGED)]
    total, differing = sum(size.values()), sum(size[kind] for kind in changed)
    stored = size[CellClass.STORED]

    def piece(kind: CellClass) -> _Piece:
        dark = kind in (CellClass.EMPTY, CellClass.UNCHANGED, CellClass.ZERO)
        return _Piece(size[kind], COLOURS[kind], f"{NAMES[kind]}  {_size(size[kind])}", INK if dark else WHITE)

    kinds = [CellClass.EMPTY, CellClass.UNCHANGED, *changed]
    words = f"the guest: {_size(total)} of disk and memory"
    y = _draw_bar(canvas, y, words, [piece(kind) for kind in kinds])
    y = _draw_wedge(canvas, y, (total - differing) / max(total, 1), 1.0)
    words = f"what differs from the base: {_size(differing)}"
    y = _draw_bar(canvas, y, words, [piece(kind) for kind in changed])
    y = _draw_wedge(canvas, y, (differing - stored) / max(differing, 1), 1.0)
    pieces = [
        _Piece(facts.stored[name], _STORED_COLOURS[name], f"{_STORED_NAMES[name]}  {_size(facts.stored[name])}")
        for name in (WORKING_SET, DISK, MEMORY, "other")
    ]
    saved = max(0, stored - facts.file_bytes)
    pieces.append(_Piece(saved, _STORED_COLOURS["saved"], f"saved by compression  {_size(saved)}", INK))
    words = f"what is stored: {_size(stored)}, as a file {_size(facts.file_bytes)}"
    _draw_bar(canvas, y, words, pieces)


def _draw_bar(canvas: Canvas, y: float, words: str, pieces: Sequence[_Piece]) -> float:
    canvas.text((_MARGIN, y + 16), words, 17, INK)
    y += 28
    total = sum(piece.count for piece in pieces) or 1
    x = float(_MARGIN)
    for piece in pieces:
        width = piece.count / total * _INNER
        if piece.count:
            canvas.box(x, y, width, _BAR, piece.colour)
        name, _, amount = piece.words.partition("  ")
        fitting = [text for text in (piece.words, amount, name) if text_width(text, 15) + 12 < width]
        if fitting:
            canvas.text((x + width / 2, y + _BAR / 2 + 5), fitting[0], 15, piece.ink, anchor="middle")
        x += width
    return y + _BAR


def _draw_wedge(canvas: Canvas, y: float, first: float, end: float) -> float:
    """From a part of the bar above (shares of its width) to all of the bar below."""
    left, right = _MARGIN + first * _INNER, _MARGIN + end * _INNER
    canvas.polygon([(left, y), (right, y), (_MARGIN + _INNER, y + _WEDGE + 28), (_MARGIN, y + _WEDGE + 28)], WEDGE)
    return y + _WEDGE


def _mixed(colour: Colour, ground: Colour, share: float) -> Colour:
    red, green, blue = (round(a * share + b * (1 - share)) for a, b in zip(colour, ground, strict=True))
    return red, green, blue


_PALETTE = tuple(
    _mixed(COLOURS[kind], COLOURS[CellClass.EMPTY], share) for kind in CellClass for share in (0.5, 0.75, 1.0)
)
assert len(_PALETTE) == len(CellClass) * SHADES


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"


def _capacity(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1023.5 or unit == "TiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if count >= 99.95 or count == round(count) else f"{count:.1f} {unit}"
