# SPDX-License-Identifier: Apache-2.0
"""Arriving chunks: the target's content, for whoever reads its disk before all of it is here."""

from __future__ import annotations

import threading

from cloudlet_ext.engine.chunks import Chunks, Numbers
from cloudlet_ext.engine.fetch import Fetcher
from cloudlet_ext.engine.view import TargetView


class ArrivingChunks:
    """A read waits for what is not here."""

    def __init__(self) -> None:
        self._known = threading.Event()
        self._view: TargetView | None = None
        self._fetcher: Fetcher | None = None

    def show(self, view: TargetView, fetcher: Fetcher) -> None:
        """From now on it is known what the chunks hold."""
        self._view, self._fetcher = view, fetcher
        self._known.set()

    def read(self, numbers: Numbers) -> Chunks:
        """Chunks by their numbers; those that are not here are fetched before all others."""
        self._known.wait()
        if self._view is None or self._fetcher is None:
            raise OSError("the disk was closed before it was known")
        missing = self._view.segments(numbers[~self._view.ready(numbers)])
        if missing:
            self._fetcher.want(missing)
            self._fetcher.wait(missing)
        return self._view.read(numbers)

    def close(self) -> None:
        """Reads that wait to know what the chunks hold fail."""
        self._known.set()
