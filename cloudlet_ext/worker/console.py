# SPDX-License-Identifier: Apache-2.0
"""Console: what a guest has written to its serial console, as far as it is kept."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import BinaryIO

from cloudlet_ext.hypervisor.log_keeper import CONSOLE_NAME, OLDER_NAME

_PIECE_BYTES = 65536


class ConsoleReader:
    """Reads the console of the server in ``folder`` as it grows, from one file to the next.

    It begins ``backlog`` bytes before the present end (None: with the oldest that is kept).
    """

    def __init__(self, folder: Path, backlog: int | None = None) -> None:
        self.folder = folder
        self._backlog = backlog
        self._files: deque[BinaryIO] = deque()

    def read(self) -> bytes:
        """What came since the last call, at most 64 KiB of it; nothing when nothing came."""
        if not self._files:
            self._begin()
        while self._files:
            first = self._files[0]
            if piece := first.read(_PIECE_BYTES):
                return piece
            if len(self._files) == 1 and not self._follow(first):
                return b""
            # It is complete since before its successor was there: what came between the two looks is read, too.
            if piece := first.read(_PIECE_BYTES):
                return piece
            self._files.popleft().close()
        return b""

    def rest(self) -> bytes:
        """All that came since the last call."""
        return b"".join(iter(self.read, b""))

    def close(self) -> None:
        """Close what is open; reading begins anew."""
        while self._files:
            self._files.popleft().close()

    def __del__(self) -> None:
        self.close()

    def _open(self, name: str) -> BinaryIO | None:
        try:
            return (self.folder / name).open("rb", buffering=0)
        except FileNotFoundError:
            return None

    def _begin(self) -> None:
        # In this order: a file that gets the older name meanwhile is opened twice, not missed.
        current, older = self._open(CONSOLE_NAME), self._open(OLDER_NAME)
        if older is not None and current is not None and os.path.sameopenfile(older.fileno(), current.fileno()):
            older.close()
            older = None
        self._files.extend(file for file in (older, current) if file is not None)
        if self._backlog is not None:
            self._skip(self._backlog)

    def _skip(self, backlog: int) -> None:
        """Go to the place ``backlog`` bytes before the end."""
        for file in reversed(self._files):
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - backlog))
            backlog = max(0, backlog - size)

    def _follow(self, last: BinaryIO) -> bool:
        """Open what follows the file ``last``; False when it is the present one."""
        current, older = self._open(CONSOLE_NAME), self._open(OLDER_NAME)
        newer: list[BinaryIO] = []
        for file in (older, current):
            if file is None:
                continue
            newer.append(file)
            # Where it is none of them, both are newer.
            if os.path.sameopenfile(file.fileno(), last.fileno()):
                for known in newer:
                    known.close()
                newer = []
        self._files.extend(newer)
        return bool(newer)
