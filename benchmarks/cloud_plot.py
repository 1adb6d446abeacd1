# SPDX-License-Identifier: Apache-2.0
"""A plot of the cloud's starts, by hand: the environment that holds the SDK has no matplotlib."""

from __future__ import annotations

from html import escape

from benchmarks.cloud_judge import starts
from benchmarks.rows import Rows

_WIDTH, _LEFT, _RIGHT, _LINE, _TOP = 720, 210, 60, 34, 44
_BAR, _RANGE = "#0072b2", "#000000"
_FONT = 'font-family="sans-serif" font-size="13"'


def draw(rows: Rows) -> str | None:
    """SVG: bars of the median first reply, with lowest and highest; None when nothing was started."""
    found = starts(rows)
    if not found:
        return None
    longest = max(row.high or row.value for _, row in found)
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    height = _TOP + _LINE * len(found) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" {_FONT}>',
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
        '<text x="10" y="24">Seconds from the request to the first correct reply, in a cloud</text>',
    ]
    for number, (tool, row) in enumerate(found):
        middle = _TOP + _LINE * number + _LINE / 2
        end = _LEFT + row.value * scale
        parts.append(f'<text x="{_LEFT - 8}" y="{middle + 4:.0f}" text-anchor="end">{escape(tool)}</text>')
        parts.append(f'<rect x="{_LEFT}" y="{middle - 10:.0f}" width="{end - _LEFT:.1f}" height="20" fill="{_BAR}"/>')
        last = end
        if row.low is not None and row.high is not None:
            last = _LEFT + row.high * scale
            path = f"M{_LEFT + row.low * scale:.1f},{middle:.1f}H{last:.1f}"
            parts.append(f'<path d="{path}" stroke="{_RANGE}" stroke-width="1.5"/>')
        parts.append(f'<text x="{last + 6:.1f}" y="{middle + 4:.0f}">{row.value:.2f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
