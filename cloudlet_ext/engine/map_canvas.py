# SPDX-License-Identifier: Apache-2.0
"""Canvases: what a picture is drawn on, as SVG or as PNG. Lengths are pixels of the picture's nominal size."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import numpy as np

from cloudlet_ext.engine.map_cells import Pixels

if TYPE_CHECKING:
    from PIL import ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]

_LETTER_WIDTH = 0.55
"""Mean width of a letter, in sizes of the font: enough to tell whether words fit."""


def text_width(words: str, size: float) -> float:
    """About how wide words are."""
    return len(words) * size * _LETTER_WIDTH


class Canvas(ABC):
    """A picture of ``width`` x ``height``."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height

    @abstractmethod
    def box(self, x: float, y: float, width: float, height: float, colour: Colour, radius: float = 0) -> None:
        """A filled rectangle."""

    @abstractmethod
    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled polygon."""

    @abstractmethod
    def text(
        self, at: Point, words: str, size: float, colour: Colour, *, anchor: str = "start", bold: bool = False
    ) -> None:
        """Words on the base line ``at``; ``anchor``: start, middle or end."""

    @abstractmethod
    def raster(self, x: float, y: float, cell: int, pixels: Pixels, palette: Sequence[Colour]) -> None:
        """A grid of square cells of ``cell``."""

    @abstractmethod
    def encode(self) -> bytes:
        """The file."""


class SvgCanvas(Canvas):
    """SVG 1.1; grids are PNG images inside."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height)
        self._parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, colour: Colour, radius: float = 0) -> None:
        """A filled rectangle."""
        rounded = f' rx="{radius:g}"' if radius else ""
        self._parts.append(
            f'<rect x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"{rounded} fill="{_hex(colour)}"/>'
        )

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled polygon."""
        joined = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
        self._parts.append(f'<polygon points="{joined}" fill="{_hex(colour)}"/>')

    def text(
        self, at: Point, words: str, size: float, colour: Colour, *, anchor: str = "start", bold: bool = False
    ) -> None:
        """Words."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{at[0]:.2f}" y="{at[1]:.2f}" font-size="{size:g}" text-anchor="{anchor}"{weight} '
            f'fill="{_hex(colour)}">{escape(words)}</text>'
        )

    def raster(self, x: float, y: float, cell: int, pixels: Pixels, palette: Sequence[Colour]) -> None:
        """A grid, as an image in its real size: not every viewer leaves enlarged pixels sharp."""
        rows, columns = pixels.shape
        data = base64.b64encode(encode_png(np.kron(pixels, np.ones((cell, cell), np.uint8)), palette)).decode()
        self._parts.append(
            f'<image x="{x:.2f}" y="{y:.2f}" width="{columns * cell}" height="{rows * cell}" '
            f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
        )

    def encode(self) -> bytes:
        """The file."""
        fonts = "Inter, Helvetica Neue, Helvetica, Arial, sans-serif"
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" font-family="{fonts}">'
        )
        return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', head, *self._parts, "</svg>\n"]).encode()


class PngCanvas(Canvas):
    """PNG, with twice as many pixels in each direction as its nominal size."""

    _SCALE = 2

    def __init__(self, width: int, height: int) -> None:
        super().__init__(width, height)
        # Not at the top: few commands draw.
        from PIL import Image, ImageDraw

        self._image = Image.new("RGB", (width * self._SCALE, height * self._SCALE), "white")
        self._draw = ImageDraw.Draw(self._image)
        self._fonts: dict[float, Any] = {}

    def box(self, x: float, y: float, width: float, height: float, colour: Colour, radius: float = 0) -> None:
        """A filled rectangle; one that is thinner than a pixel is a pixel wide."""
        left, top = round(x * self._SCALE), round(y * self._SCALE)
        right = max(round((x + width) * self._SCALE) - 1, left)
        bottom = max(round((y + height) * self._SCALE) - 1, top)
        self._draw.rounded_rectangle((left, top, right, bottom), radius * self._SCALE, fill=colour)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled polygon."""
        self._draw.polygon([(x * self._SCALE, y * self._SCALE) for x, y in points], fill=colour)

    def text(
        self, at: Point, words: str, size: float, colour: Colour, *, anchor: str = "start", bold: bool = False
    ) -> None:
        """Words."""
        place = (at[0] * self._SCALE, at[1] * self._SCALE)
        pillow_anchor = {"start": "ls", "middle": "ms", "end": "rs"}[anchor]
        stroke = size * self._SCALE * 0.02 if bold else 0
        self._draw.text(place, words, colour, self._font(size), pillow_anchor, stroke_width=stroke, stroke_fill=colour)

    def _font(self, size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        """The font that Pillow brings along: the picture is the same on every machine."""
        from PIL import ImageFont

        if size not in self._fonts:
            self._fonts[size] = ImageFont.load_default(size * self._SCALE)
        font: ImageFont.FreeTypeFont | ImageFont.ImageFont = self._fonts[size]
        return font

    def raster(self, x: float, y: float, cell: int, pixels: Pixels, palette: Sequence[Colour]) -> None:
        """A grid of squares."""
        from PIL import Image

        side = cell * self._SCALE
        colours = np.array(palette, dtype=np.uint8)[np.kron(pixels, np.ones((side, side), np.uint8))]
        self._image.paste(Image.fromarray(colours, "RGB"), (round(x * self._SCALE), round(y * self._SCALE)))

    def encode(self) -> bytes:
        """The file."""
        file = io.BytesIO()
        self._image.save(file, "PNG", optimize=True)
        return file.getvalue()


def encode_png(pixels: Pixels, palette: Sequence[Colour]) -> bytes:
    """A PNG image with a palette (at most 256 colours), one pixel to a number."""
    rows, columns = pixels.shape
    lines = np.zeros((rows, columns + 1), dtype=np.uint8)
    lines[:, 1:] = pixels

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    colours = bytes(value for colour in palette for value in colour)
    image = part(b"IHDR", header) + part(b"PLTE", colours) + part(b"IDAT", zlib.compress(lines.tobytes(), 9))
    return b"\x89PNG\r\n\x1a\n" + image + part(b"IEND", b"")


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
