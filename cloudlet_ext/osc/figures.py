# SPDX-License-Identifier: Apache-2.0
"""Figures as people read them, and columns that machines read as numbers."""

from __future__ import annotations

import json

from cliff.columns import FormattableColumn

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: float) -> str:
    """Bytes: ``14.7 MB``."""
    unit = _UNITS[0]
    for unit in _UNITS:
        # 999.6 MB would be rounded to "1000 MB".
        if count < 999.5 or unit == _UNITS[-1]:
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == _UNITS[0] or count >= 99.95 else f"{count:.1f} {unit}"


def seconds(duration: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if duration < 9.95:
        return f"{duration:.1f} s"
    whole = round(duration)
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class SizeColumn(FormattableColumn[int | None]):
    """Bytes: a size for people, a number for machines."""

    def human_readable(self) -> str:
        """``14.7 MB``; empty when not known."""
        return "" if self._value is None else size(self._value)


class RateColumn(FormattableColumn[float | None]):
    """Bytes a second."""

    def human_readable(self) -> str:
        """``41.0 MB/s``; empty when not known."""
        return "" if self._value is None else f"{size(self._value)}/s"


class SecondsColumn(FormattableColumn[float | None]):
    """A duration in seconds."""

    def human_readable(self) -> str:
        """``1.2 s``; empty when not known."""
        return "" if self._value is None else seconds(self._value)


class ShareColumn(FormattableColumn[float | None]):
    """A share of 1: a percentage for people, the number for machines."""

    def human_readable(self) -> str:
        """``45%``; empty when not known."""
        return "" if self._value is None else f"{self._value:.0%}"


class PairsColumn(FormattableColumn[dict[str, object] | None]):
    """Names and values."""

    def human_readable(self) -> str:
        """``name: value`` in lines; what is no text as JSON."""
        pairs = sorted((self._value or {}).items())
        return "\n".join(f"{key}: {each if isinstance(each, str) else json.dumps(each)}" for key, each in pairs)


class StagesColumn(FormattableColumn[list[dict[str, str]] | None]):
    """The stages of an operation."""

    def human_readable(self) -> str:
        """Name and beginning of each in a line."""
        return "\n".join(f"{each['name']} ({each['started_at']})" for each in self._value or [])
