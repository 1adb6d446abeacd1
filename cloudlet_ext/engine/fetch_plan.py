# SPDX-License-Identifier: Apache-2.0
"""FetchPlan: which bytes to ask for next. Only bookkeeping: no thread, no lock, no transfer."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from cloudlet_ext.engine.link_window import Window
from cloudlet_ext.engine.manifest import SegmentInfo

HELD_LIMIT_BYTES = 16 * 1024 * 1024
"""Most bytes of segments that are begun and not yet in the store."""


@dataclass(frozen=True)
class Span:
    """Bytes [offset, offset + length) of the file, to be had by one request."""

    offset: int
    length: int
    is_wanted: bool


@dataclass(frozen=True)
class Slice:
    """Part of a span that belongs to one segment (by its index); ``start`` is within the
    segment."""

    index: int
    start: int
    length: int


class FetchPlan:
    """What of every segment was asked for, and what has come. Segments are known by index here.

    Bulk spans go through the segments in file order. A wanted segment is asked for at once, as far
    as it is not in flight already. What a broken request did not bring becomes a hole, served
    first.
    """

    def __init__(self, segments: Sequence[SegmentInfo], bulk_requests: int) -> None:
        """``segments`` in ascending order of their offsets; at most ``bulk_requests`` at a time."""
        self._segments = segments
        self._offsets = [segment.offset for segment in segments]
        self._bulk_requests = bulk_requests
        self._asked = [0] * len(segments)  # From the start of the segment.
        self._came = [0] * len(segments)
        self._holes: dict[int, deque[tuple[int, int]]] = {}  # Index -> (start, length).
        self._wanted: dict[int, None] = {}  # Ordered set: wanted and not yet asked for in full.
        self._awaited: set[int] = set()  # Wanted and not yet here in full.
        self._next = 0
        self._whole = 0
        self._bulk_in_flight = 0
        self._is_held = True
        self.in_flight_bytes = 0
        self.held_bytes = 0

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are here."""
        return self._whole == len(self._segments)

    def want(self, index: int) -> None:
        """Put a segment before all that is not wanted."""
        if self._came[index] < self._segments[index].stored_bytes:
            self._awaited.add(index)
            self._wanted[index] = None

    def take(self, window: Window) -> Span | None:
        """The next request to make, or None if none may be made now."""
        span = self._take_wanted(window) or self._take_bulk(window)
        if self._awaited or window.bulk_bytes <= window.quantum_bytes:
            self._is_held = True
        elif self.in_flight_bytes > window.held_bytes:
            self._is_held = False
        if span is not None:
            self.in_flight_bytes += span.length
            self._bulk_in_flight += not span.is_wanted
        return span

    def is_idle(self, window: Window) -> bool:
        """Whether less is in flight than the link brings in a round trip, although nothing held
        it."""
        return (
            self.in_flight_bytes <= window.held_bytes and not self._is_held and self.held_bytes < HELD_LIMIT_BYTES // 2
        )

    def has_room(self, window: Window) -> bool:
        """Whether take() may give a request now. Cheap, and not exact."""
        return self._has_bulk_room(window) or bool(self._wanted)

    def _has_bulk_room(self, window: Window) -> bool:
        if not self.in_flight_bytes:
            return True
        if self._awaited:
            # What is asked for now comes a round trip later, when this much has come before it.
            return self.in_flight_bytes <= window.held_bytes
        return self.in_flight_bytes + window.quantum_bytes <= window.bulk_bytes

    def _take_wanted(self, window: Window) -> Span | None:
        if self.in_flight_bytes >= max(window.bulk_bytes, 2 * window.quantum_bytes):
            return None
        for index in list(self._wanted):
            span = self._rest_of(index, window.quantum_bytes, is_wanted=True)
            if self._asked[index] == self._segments[index].stored_bytes and index not in self._holes:
                self._wanted.pop(index, None)
            if span is not None:
                return span
        return None

    def _take_bulk(self, window: Window) -> Span | None:
        if self._bulk_in_flight >= self._bulk_requests or not self._has_bulk_room(window):
            return None
        for index in self._holes:
            return self._rest_of(index, window.quantum_bytes, is_wanted=False)
        while self._next < len(self._segments):
            if self._asked[self._next] < self._segments[self._next].stored_bytes:
                return self._rest_of(self._next, window.quantum_bytes, is_wanted=False)
            self._next += 1
        return None

    def _rest_of(self, index: int, quantum: int, is_wanted: bool) -> Span | None:
        """A hole of segment ``index``, or from what is not asked for about ``quantum`` bytes, which
        go on into the segments behind it."""
        segment = self._segments[index]
        if index in self._holes:
            start, length = self._holes[index].popleft()
            if not self._holes[index]:
                del self._holes[index]
            return Span(segment.offset + start, length, is_wanted)
        start, length = self._asked[index], 0
        offset = segment.offset + start
        while length < quantum and self._may_ask(index, offset + length, is_wanted):
            segment = self._segments[index]
            rest = segment.stored_bytes - self._asked[index]
            # A wanted segment is asked for whole: the request after would cost it a round trip.
            count = rest if is_wanted else min(rest, quantum - length)
            if not self._asked[index]:
                self.held_bytes += segment.stored_bytes
            self._asked[index] += count
            length += count
            index += 1
        return Span(offset, length, is_wanted) if length else None

    def _may_ask(self, index: int, offset: int, is_wanted: bool) -> bool:
        """Whether a span that has come to ``offset`` may go on with segment ``index``."""
        if index >= len(self._segments) or (is_wanted and index not in self._wanted):
            return False
        segment, asked = self._segments[index], self._asked[index]
        fits = self.held_bytes + segment.stored_bytes <= HELD_LIMIT_BYTES or not self.held_bytes
        return asked < segment.stored_bytes and segment.offset + asked == offset and (fits or asked > 0 or is_wanted)

    def slices(self, offset: int, length: int) -> list[Slice]:
        """The segments that bytes [offset, offset + length) of a span belong to."""
        found = []
        index = bisect_right(self._offsets, offset) - 1
        while length:
            segment = self._segments[index]
            start = offset - segment.offset
            count = min(length, segment.stored_bytes - start)
            if count > 0:
                found.append(Slice(index, start, count))
            offset, length, index = offset + count, length - count, index + 1
        return found

    def came(self, part: Slice) -> bool:
        """Bytes of one segment are here; whether that makes it whole."""
        self.in_flight_bytes -= part.length
        self._came[part.index] += part.length
        if self._came[part.index] < self._segments[part.index].stored_bytes:
            return False
        self._awaited.discard(part.index)
        self._wanted.pop(part.index, None)
        self._whole += 1
        return True

    def ended(self, span: Span, came_bytes: int) -> None:
        """A request is over; what it did not bring will be asked for again."""
        self._bulk_in_flight -= not span.is_wanted
        self.in_flight_bytes -= span.length - came_bytes
        for part in self.slices(span.offset + came_bytes, span.length - came_bytes):
            self._add_hole(part.index, part.start, part.length)

    def stored(self, index: int) -> None:
        """The content of a segment is in the store: its bytes are held no more."""
        self.held_bytes -= self._segments[index].stored_bytes

    def refetch(self, index: int) -> None:
        """A whole segment turned out to be wrong: ask for all of it again."""
        self._came[index] = 0
        self._whole -= 1
        self._add_hole(index, 0, self._segments[index].stored_bytes)
        self.want(index)

    def _add_hole(self, index: int, start: int, length: int) -> None:
        self._holes.setdefault(index, deque()).append((start, length))
        if index in self._awaited:
            self._wanted[index] = None
