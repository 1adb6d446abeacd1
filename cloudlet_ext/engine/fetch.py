# SPDX-License-Identifier: Apache-2.0
"""Fetcher: brings segments from a source into a store, in file order, wanted ones first."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cloudlet_ext.engine.digest import digest
from cloudlet_ext.engine.errors import (
    Damaged,
    EngineError,
    FetchClosed,
    Malformed,
    ShortRead,
    SourceClosed,
    SourceInterrupted,
)
from cloudlet_ext.engine.fetch_plan import HELD_LIMIT_BYTES, FetchPlan, Span
from cloudlet_ext.engine.link_window import LinkWindow, Window
from cloudlet_ext.engine.manifest import SegmentInfo
from cloudlet_ext.engine.outage import Outage
from cloudlet_ext.engine.patience import USUAL, Patience
from cloudlet_ext.engine.slot_store import SlotStore
from cloudlet_ext.engine.source import Source

LOG = logging.getLogger(__name__)

CONNECTIONS = 6
"""Four requests fill the link, two are kept free for wanted segments; it is also what web servers
are used to from browsers."""

WANTED_CONNECTIONS = 2

Stored = bytes | bytearray | memoryview
Unpack = Callable[[SegmentInfo, Any], bytes]
"""Content of a segment from its stored bytes, which are given as bytes, bytearray or memoryview."""


@dataclass(frozen=True)
class Transfer:
    """One request: its span, and what the link was like when it was made."""

    span: Span
    window: Window
    in_flight_before: int


class Fetcher:
    """Threads that read spans of segments (by several connections) and threads that unpack them.

    Callbacks come from these threads, one at a time: ``on_arrival(number)`` after a segment is in
    the store, ``on_stall(error, attempt)`` when nothing comes any more, ``on_recover()`` when it
    does again. A callback must not call close().
    """

    def __init__(
        self,
        source: Source,
        segments: Sequence[SegmentInfo],
        store: SlotStore,
        unpack: Unpack,
        *,
        connections: int = CONNECTIONS,
        patience: Patience = USUAL,
        on_arrival: Callable[[int], None] = lambda number: None,
        on_stall: Callable[[Exception, int], None] = lambda error, attempt: None,
        on_recover: Callable[[], None] = lambda: None,
    ) -> None:
        """``segments`` of kind "chunks", none reaching into another. ``unpack(segment, stored)``
        gives the content; the digest is checked before. Malformed if the segments do not fit the
        source."""
        self._source = source
        self._segments = sorted(segments, key=lambda segment: segment.offset)
        self._check_places()
        self._index = {segment.number: index for index, segment in enumerate(self._segments)}
        self._store = store
        self._unpack = unpack
        self._on_arrival = on_arrival
        self._wanted_only = min(WANTED_CONNECTIONS, connections - 1)
        self._plan = FetchPlan(self._segments, connections - self._wanted_only)
        self._link = LinkWindow(source.latency_s)
        self._window = self._link.now(source.rate_bytes_per_s)
        self._patience = patience
        self._callback = threading.Lock()
        self._outage = Outage(patience, self._callback, on_stall, on_recover)
        self._change = threading.Condition()
        self._whole: queue.SimpleQueue[tuple[int, Stored] | None] = queue.SimpleQueue()
        self._buffers: dict[int, bytearray] = {}
        self._refetched: set[int] = set()
        self._closing = False
        self._failed: Exception | None = None
        self._bytes_fetched = 0
        self._segments_done = 0
        self._threads = [
            threading.Thread(target=self._run, args=(self._fetch_all,), name=f"fetch-{i}", daemon=True)
            for i in range(connections)
        ]
        self._unpackers = [
            threading.Thread(target=self._run, args=(self._unpack_all,), name=f"unpack-{i}", daemon=True)
            for i in range(min(4, len(os.sched_getaffinity(0))))
        ]

    def start(self) -> None:
        """Begin to fetch."""
        self._source.warm(self._wanted_only)
        for thread in self._threads + self._unpackers:
            thread.start()

    def want(self, numbers: Iterable[int]) -> None:
        """Put the segments ``numbers`` before all others, in the order given. Does not wait."""
        with self._change:
            for number in numbers:
                self._plan.want(self._index[number])
            self._change.notify_all()

    def wait(self, numbers: Iterable[int], timeout_s: float | None = None) -> bool:
        """Wait until the segments ``numbers`` are in the store; False after ``timeout_s``.

        Raises ``failed`` if they will not come, FetchClosed after close().
        """
        return self._store.wait(numbers, timeout_s)

    def wait_all(self, timeout_s: float | None = None) -> bool:
        """Wait until all segments are in the store; as wait()."""
        return self._store.wait(list(self._index), timeout_s)

    @property
    def failed(self) -> Exception | None:
        """Why fetching ended before all was here, or None."""
        return self._failed

    @property
    def is_stalled(self) -> bool:
        """Whether the source has broken off and has not come back yet."""
        return self._outage.is_on

    @property
    def is_complete(self) -> bool:
        """Whether all segments are in the store."""
        return self._segments_done == len(self._segments)

    @property
    def bytes_fetched(self) -> int:
        """Stored bytes that have come so far."""
        return self._bytes_fetched

    @property
    def segments_done(self) -> int:
        """Segments in the store."""
        return self._segments_done

    def close(self) -> None:
        """End all threads and close the source. Whoever waits for a segment gets FetchClosed."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._store.fail(FetchClosed(source=self._source.describe()))
        self._source.close()
        for _ in self._unpackers:
            self._whole.put(None)
        for thread in self._threads + self._unpackers:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join()
        self._buffers.clear()

    def __enter__(self) -> Fetcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_places(self) -> None:
        end, source = 0, self._source
        for segment in self._segments:
            if segment.offset < end or not 0 < segment.stored_bytes <= HELD_LIMIT_BYTES:
                raise Malformed(
                    path=source.describe(),
                    place=segment.place,
                    reason=f"{segment.stored_bytes} bytes at {segment.offset} are out of bounds",
                )
            end = segment.offset + segment.stored_bytes
        if source.size_bytes is not None and end > source.size_bytes:
            raise ShortRead(source=source.describe(), offset=0, length=end, size=source.size_bytes)

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except SourceClosed as error:
            if not self._closing:
                self._fail(error)
        except EngineError as error:
            self._fail(error)
        except Exception as error:  # The border of a thread: whoever waits must be told.
            LOG.exception("Fetching from %s ended by an unexpected error", self._source.describe())
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        with self._change:
            self._failed = self._failed or error
            self._change.notify_all()
        self._store.fail(self._failed)

    @property
    def _over(self) -> bool:
        return self._closing or self._failed is not None

    # Threads that fetch

    def _fetch_all(self) -> None:
        failures = 0
        while (transfer := self._next_transfer()) is not None:
            if self._fetch(transfer):
                failures = 0
                continue
            # Others go on while this connection fails: do not trouble the server at once again.
            failures += 1
            with self._change:
                self._change.wait_for(lambda: self._over, self._patience.delay_s(failures))

    def _next_transfer(self) -> Transfer | None:
        with self._change:
            while not (self._over or self.is_complete):
                delay = self._outage.delay_s(self._plan.in_flight_bytes)
                if delay == 0:
                    before = self._plan.in_flight_bytes
                    self._window = self._link.now(self._source.rate_bytes_per_s)
                    was_idle = self._plan.is_idle(self._window)
                    span = self._plan.take(self._window)
                    if span is not None:
                        if was_idle and not span.is_wanted:
                            self._link.was_idle()
                        return Transfer(span, self._window, before)
                    delay = None
                self._change.wait(delay)
        return None

    def _fetch(self, transfer: Transfer) -> bool:
        """Make one request. False if it failed and that is no outage."""
        span, start, came = transfer.span, time.monotonic(), 0
        try:
            for piece in self._source.attempt(span.offset, span.length):
                if not came:
                    self._first_byte(transfer, time.monotonic() - start)
                self._take_in(span.offset + came, piece)
                came += len(piece)
                if self._over:
                    break
        except SourceInterrupted as error:
            self._ended(span, came)
            return self._outage.failed(error, start)
        self._ended(span, came)
        return True

    def _ended(self, span: Span, came: int) -> None:
        with self._change:
            self._plan.ended(span, came)
            self._change.notify_all()

    def _first_byte(self, transfer: Transfer, latency_s: float) -> None:
        with self._change:
            self._link.sample(latency_s, transfer.in_flight_before, transfer.window)

    def _take_in(self, offset: int, piece: bytes) -> None:
        recovered = self._outage.came(len(piece))
        view = memoryview(piece)
        for part in self._plan.slices(offset, len(view)):
            data, view = view[: part.length], view[part.length :]
            if part.length < self._segments[part.index].stored_bytes:
                self._buffer(part.index)[part.start : part.start + part.length] = data
            with self._change:
                self._bytes_fetched += part.length
                if self._plan.came(part):
                    self._whole.put((part.index, self._buffers.pop(part.index, data)))
                if recovered:
                    self._change.notify_all()
                elif self._plan.has_room(self._window):
                    self._change.notify()

    def _buffer(self, index: int) -> bytearray:
        with self._change:
            buffer = self._buffers.get(index)
            if buffer is None:
                buffer = bytearray(self._segments[index].stored_bytes)
                self._buffers[index] = buffer
            return buffer

    # Threads that unpack

    def _unpack_all(self) -> None:
        while (whole := self._whole.get()) is not None:
            if not self._over:
                self._put(*whole)

    def _put(self, index: int, stored: Stored) -> None:
        segment = self._segments[index]
        found = digest(stored)
        if found != segment.digest:
            self._refetch(index, found)
            return
        content = self._unpack(segment, stored)
        if len(content) != segment.bytes:
            raise Malformed(
                path=self._source.describe(),
                place=segment.place,
                reason=f"it unpacks to {len(content)} bytes, not the {segment.bytes} it declares",
            )
        self._store.put(segment.number, content)
        with self._change:
            self._plan.stored(index)
            self._segments_done += 1
            self._change.notify_all()
        with self._callback:
            self._on_arrival(segment.number)

    def _refetch(self, index: int, found: bytes) -> None:
        """Ask once more for a segment that was damaged, maybe on its way; Damaged the second
        time."""
        segment = self._segments[index]
        if index in self._refetched:
            raise Damaged(
                path=self._source.describe(),
                place=segment.place,
                expected=segment.digest.hex(),
                found=found.hex(),
            )
        with self._change:
            self._refetched.add(index)
            self._plan.refetch(index)
            self._change.notify_all()
