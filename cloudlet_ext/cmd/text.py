# SPDX-License-Identifier: Apache-2.0
"""Figures and tables as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

_DECIMAL = ("B", "kB", "MB", "GB", "TB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
_REPLY_LIMIT = 60


def _scaled(count: float, step: int, units: Sequence[str]) -> str:
    unit = units[0]
    for unit in units:
        # 999.6 MB would be rounded to "1000 MB".
        if count < step - 0.5 or unit == units[-1]:
            break
        count /= step
    return f"{count:.0f} {unit}" if unit == units[0] or count >= 99.95 else f"{count:.1f} {unit}"


def size(count: float) -> str:
    """Bytes of a file or of traffic: ``14.7 MB``."""
    return _scaled(count, 1000, _DECIMAL)


def capacity(count: float) -> str:
    """Bytes of memory or of a whole disk: ``256 MiB``, ``1 GiB``."""
    return _scaled(count, 1024, _BINARY).replace(".0 ", " ")


def seconds(duration: float) -> str:
    """``0.43 s``, ``12.1 s``, ``3 min 5 s``, ``2 h 10 min``, ``3 d 4 h``."""
    if duration < 9.995:
        return f"{duration:.2f} s"
    if duration < 99.95:
        return f"{duration:.1f} s"
    whole = round(duration)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()) -> str:
    """Columns under their names; those in ``right`` (counted from 0) are aligned to the right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]

    def padded(line: Sequence[str]) -> str:
        cells = (
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join(map(padded, lines))


def fields(pairs: Iterable[tuple[str, str | None]], indent: int = 2) -> str:
    """Names and values in two columns; pairs without a value are left out."""
    known = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in known), default=0)
    return "\n".join(f"{'':{indent}}{name.ljust(width)}  {value}" for name, value in known)


def forwards(ports: Mapping[str, int]) -> str | None:
    """``127.0.0.1:8080 -> 80, ...``; None without any."""
    return ", ".join(f"127.0.0.1:{host} -> {guest}" for guest, host in ports.items()) or None


def reply(content: bytes) -> str:
    """The beginning of what a probe got, in one line."""
    line = " ".join(content[: 4 * _REPLY_LIMIT].decode(errors="replace").split())
    printable = "".join(letter if letter.isprintable() else "." for letter in line)
    return printable if len(printable) <= _REPLY_LIMIT else f"{printable[: _REPLY_LIMIT - 3]}..."


def clone(has_clock: bool, has_address: bool, reason: str) -> str | None:
    """What a resumed guest still has of the captured one, and why; None when nothing."""
    left = [name for name, is_set in (("clock", has_clock), ("network address", has_address)) if not is_set]
    return f"{' and '.join(left)} ({reason})" if left else None


def sources(chunks: Mapping[str, int]) -> str:
    """Where what differs from the base comes from, largest first: ``41.2 MB from base memory, ...``."""
    names = {
        "stored": "stored",
        "same_overlay": "repeated",
        "base_memory": "in base memory",
        "base_disk": "on base disk",
        "zero": "zero",
    }
    from cloudlet_ext.engine.chunks import CHUNK_BYTES

    found = sorted(((chunks[key], name) for key, name in names.items()), reverse=True)
    return ", ".join(f"{size(count * CHUNK_BYTES)} {name}" for count, name in found if count) or "nothing"


def working_set(chunks: int, first_reply_s: float) -> str:
    """What a recording found."""
    from cloudlet_ext.engine.chunks import CHUNK_BYTES

    return f"{size(chunks * CHUNK_BYTES)} asked for until the first reply (after {seconds(first_reply_s)})"
