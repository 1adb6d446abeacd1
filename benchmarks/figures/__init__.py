# SPDX-License-Identifier: Apache-2.0
"""The figures: one module for each row of the table of targets."""

from __future__ import annotations

from benchmarks.figures.creation import Creation
from benchmarks.figures.density import Density
from benchmarks.figures.exactness import Exactness
from benchmarks.figures.figure import Figure
from benchmarks.figures.first_reply import FirstReply
from benchmarks.figures.growth import Growth
from benchmarks.figures.image import Image
from benchmarks.figures.resident import Resident
from benchmarks.figures.server_start import ServerStart
from benchmarks.figures.size import Size

FIGURES: dict[str, type[Figure]] = {
    figure.name: figure
    for figure in (Size, Creation, FirstReply, Resident, Image, Growth, ServerStart, Density, Exactness)
}

__all__ = ["FIGURES", "Figure"]
