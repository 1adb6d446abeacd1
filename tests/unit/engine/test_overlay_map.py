# SPDX-License-Identifier: Apache-2.0
"""The picture of an overlay: its cells, and that both kinds of file can be read."""

from __future__ import annotations

import io
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from cloudlet_ext.engine import overlay_map
from cloudlet_ext.engine.chunks import Numbers
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.layout import Layout, Region
from cloudlet_ext.engine.map_canvas import encode_png
from cloudlet_ext.engine.map_cells import BAND_ROWS, SHADES, CellClass, census_of, strip
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.table import ChunkTable

GOLDEN = Path(__file__).parents[2] / "golden/v1"


@pytest.fixture
def facts() -> overlay_map.MapFacts:
    source = FileSource(str(GOLDEN / "overlay"))
    facts = overlay_map.map_facts(OverlayFile.open(source), "a < b", "of & on", np.arange(10))
    source.close()
    return facts


def kinds(classes: list[CellClass], most_cells: int) -> list[tuple[CellClass, int]]:
    """Class and shade of the cells of a strip of single chunks."""
    single = np.eye(len(CellClass), dtype=np.int64)[classes]

    def census(edges: Numbers) -> Numbers:
        """Counts between the edges, by counting up."""
        return np.diff(np.concatenate((single[:1] * 0, single.cumsum(axis=0)))[edges - 7], axis=0)

    none = np.empty(0, dtype=np.int64)
    part = strip("disk", len(classes) * 4096, range(7, 7 + len(classes)), census, none, most_cells)
    return [(CellClass(cell // SHADES), cell % SHADES) for cell in part.cells.tolist()]


def test_one_chunk_to_a_cell() -> None:
    cells = kinds([CellClass.EMPTY, CellClass.UNCHANGED, CellClass.STORED], 100)
    assert cells[:3] == [(CellClass.EMPTY, 2), (CellClass.UNCHANGED, 2), (CellClass.STORED, 2)]
    # A column is always whole.
    assert cells[3:] == [(CellClass.NOTHING, 2)] * (BAND_ROWS - 3)


def test_of_several_chunks_what_differs_is_shown() -> None:
    chunks = [CellClass.UNCHANGED] * 7 + [CellClass.ZERO]
    assert kinds(chunks * BAND_ROWS, BAND_ROWS) == [(CellClass.ZERO, 0)] * BAND_ROWS
    chunks = [CellClass.STORED] * 3 + [CellClass.BASE_DISK] * 5
    assert kinds(chunks * BAND_ROWS, BAND_ROWS) == [(CellClass.BASE_DISK, 2)] * BAND_ROWS
    chunks = [CellClass.STORED] * 4 + [CellClass.BASE_DISK] * 4
    assert kinds(chunks * BAND_ROWS, BAND_ROWS) == [(CellClass.STORED, 1)] * BAND_ROWS
    chunks = [CellClass.EMPTY] * 7 + [CellClass.UNCHANGED]
    assert kinds(chunks * BAND_ROWS, BAND_ROWS) == [(CellClass.UNCHANGED, 0)] * BAND_ROWS


@pytest.mark.parametrize("chunks", [1, 7, 1000, 123_457])
def test_a_strip_has_room_for_all_and_not_more(chunks: int) -> None:
    empty = ChunkTable.from_arrays(*(np.empty(0, dtype=np.int64) for _ in range(3)))
    layout = Layout((Region("disk", "disk", 9), Region("ram", "memory", chunks)))
    everything = np.arange(9, 9 + chunks)
    part = strip("memory", chunks * 4096, range(9, 9 + chunks), census_of(empty, layout, None), everything, 800)
    assert len(part.cells) % BAND_ROWS == 0
    assert len(part.cells) <= 800 + BAND_ROWS
    assert len(part.cells) * part.chunks_per_cell >= chunks
    assert len(part.marks) * BAND_ROWS == len(part.cells)
    assert sum(band.size for band in part.bands(30)) == len(part.cells)
    assert part.marks[0] == pytest.approx(min(1, chunks / (part.chunks_per_cell * BAND_ROWS)))


def test_facts_count_every_chunk_and_every_byte(facts: overlay_map.MapFacts) -> None:
    assert sum(facts.chunks.values()) == 32 + 48 + 4
    assert facts.file_bytes == (GOLDEN / "overlay").stat().st_size
    assert facts.chunks[CellClass.EMPTY] > 0
    assert facts.has_working_set
    assert [part.name for part in facts.strips] == ["memory", "disk"]


def test_svg(facts: overlay_map.MapFacts) -> None:
    root = ET.fromstring(overlay_map.draw_svg(facts))
    words = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b" in words and "of & on" in words
    assert {"memory", "disk", "stored", "working set"} <= set(words)
    inside = 0
    for element in root:
        x, width = float(element.get("x", 0)), float(element.get("width", 0))
        assert x >= 0 and x + width <= float(root.get("width", 0)) + 0.01
        inside += 1
    assert inside > 20


def test_png(facts: overlay_map.MapFacts) -> None:
    image = Image.open(io.BytesIO(overlay_map.draw_png(facts)))
    image.load()
    assert image.width == 3200
    colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or []}
    assert overlay_map.COLOURS[CellClass.STORED] in colours
    assert overlay_map.INK in colours


def test_small_png_encoder() -> None:
    palette = [(0, 0, 0), (255, 0, 0), (1, 2, 3)]
    pixels = np.array([[0, 1, 2, 2], [2, 1, 0, 1]], dtype=np.uint8)
    image = Image.open(io.BytesIO(encode_png(pixels, palette))).convert("RGB")
    assert np.array_equal(np.asarray(image), np.array(palette, dtype=np.uint8)[pixels])
