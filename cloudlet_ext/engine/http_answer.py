# SPDX-License-Identifier: Apache-2.0
"""The header of a web server's answer to a Range request, checked before a byte of the body is
used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cloudlet_ext.engine.errors import (
    ShortRead,
    SourceChanged,
    SourceInterrupted,
    SourceNotFound,
    UnexpectedAnswer,
    WrongRange,
)

NOT_FOUND = (404, 410)
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)

_FRAMING = {"content-range", "content-length", "transfer-encoding"}


@dataclass(frozen=True)
class Version:
    """Which state of the file an answer was made from."""

    etag: str | None
    modified: str | None
    size: int | None

    def check_same(self, source: str, other: Version) -> None:
        """SourceChanged if ``other`` is known to be another state."""
        for what, mine, theirs in (
            ("its size", self.size, other.size),
            ("its ETag", self.etag, other.etag),
            ("its date", None if self.etag else self.modified, other.modified),
        ):
            if mine is not None and theirs is not None and mine != theirs:
                raise SourceChanged(source=source, what=what, expected=mine, found=theirs)

    @property
    def condition(self) -> dict[str, str]:
        """Header that makes the server send the whole file, not a range, when it has changed."""
        if self.etag is not None and not self.etag.startswith("W/"):
            return {"If-Range": self.etag}
        return {}


@dataclass(frozen=True)
class Request:
    """Bytes [offset, offset + length) of ``source``; ``least`` of them must exist."""

    source: str
    offset: int
    length: int
    least: int

    def too_short(self, size: int | None) -> ShortRead:
        """The error for a file of ``size`` bytes."""
        return ShortRead(source=self.source, offset=self.offset, length=self.least, size=size)


@dataclass(frozen=True)
class Answer:
    """``length``: bytes to take from the body (the body of a whole file may be longer)."""

    length: int
    version: Version


def check_answer(request: Request, status: int, headers: Mapping[str, str], known: Version | None) -> Answer:
    """What an answer will bring.

    Raises SourceNotFound, SourceInterrupted (the server is busy or ill), UnexpectedAnswer,
    WrongRange, ShortRead, and SourceChanged if it is not from the state ``known``.
    """
    if status in NOT_FOUND:
        raise SourceNotFound(source=request.source, reason=f"HTTP status {status}")
    if status in TEMPORARY:
        raise SourceInterrupted(source=request.source, offset=request.offset, reason=f"HTTP status {status}")
    if status == 206 and not _FRAMING & {name.lower() for name in headers}:
        # The library takes the end of a connection for the end of a header.
        raise SourceInterrupted(source=request.source, offset=request.offset, reason="the header ended too early")
    if status == 416:
        raise request.too_short(_size_of_unsatisfied(headers))
    if status not in (200, 206):
        raise UnexpectedAnswer(source=request.source, found=f"HTTP status {status}", expected="206 (Partial Content)")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise UnexpectedAnswer(
            source=request.source,
            found=f"Content-Encoding {headers['Content-Encoding']}",
            expected="the file as it is",
        )
    answer = _whole(request, headers) if status == 200 else _range(request, headers)
    if known is not None:
        known.check_same(request.source, answer.version)
    if status == 200 and request.offset:
        raise _wrong_range(request, "the whole file")
    if answer.length < request.least:
        raise request.too_short(answer.version.size)
    return answer


def _whole(request: Request, headers: Mapping[str, str]) -> Answer:
    size = _content_length(request, headers)
    length = request.length if size is None else min(request.length, size)
    return Answer(length, _version(headers, size))


def _range(request: Request, headers: Mapping[str, str]) -> Answer:
    text = headers.get("Content-Range", "no Content-Range")
    match = _CONTENT_RANGE.fullmatch(text.strip())
    if match is None:
        raise _wrong_range(request, text)
    first, last = int(match[1]), int(match[2])
    size = None if match[3] == "*" else int(match[3])
    asked_last = request.offset + request.length - 1
    right_last = asked_last if size is None else min(asked_last, size - 1)
    if first != request.offset or last != right_last:
        raise _wrong_range(request, text)
    length = last - first + 1
    body = _content_length(request, headers)
    if body is not None and body != length:
        raise _wrong_range(request, f"a body of {body} bytes for {text}")
    return Answer(length, _version(headers, size))


def _version(headers: Mapping[str, str], size: int | None) -> Version:
    return Version(headers.get("ETag"), headers.get("Last-Modified"), size)


def _content_length(request: Request, headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length")
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise UnexpectedAnswer(source=request.source, found=f"Content-Length {text!r}", expected="a number")
    return int(text)


def _size_of_unsatisfied(headers: Mapping[str, str]) -> int | None:
    match = re.fullmatch(r"bytes \*/(\d{1,18})", headers.get("Content-Range", ""), re.ASCII)
    return int(match[1]) if match else None


def _wrong_range(request: Request, found: str) -> WrongRange:
    last = request.offset + request.length - 1
    return WrongRange(source=request.source, found=found, expected=f"bytes {request.offset}-{last}")
