# SPDX-License-Identifier: Apache-2.0
"""HttpSource: a file on a web server, read by Range requests over kept-alive connections."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import ssl
import threading
import time
from collections.abc import Iterator
from functools import cached_property
from urllib.parse import urljoin

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.util import Url, parse_url
from urllib3.util.ssl_match_hostname import CertificateError

from cloudlet_ext.engine.errors import (
    SourceClosed,
    SourceError,
    SourceInterrupted,
    SourceRefused,
    SourceTooSlow,
    SourceUntrusted,
)
from cloudlet_ext.engine.http_answer import Answer, Request, Version, check_answer
from cloudlet_ext.engine.http_connection import Connection, Scissors, new_connection
from cloudlet_ext.engine.link_meter import LinkMeter
from cloudlet_ext.engine.patience import resumed
from cloudlet_ext.engine.source_policy import SourcePolicy

MAX_REDIRECTS = 5
REDIRECTS = (301, 302, 303, 307, 308)

PIECE_BYTES = 256 * 1024
"""Most bytes per read call."""

CRUMB_BYTES = 8 * 1024
CRUMB_PAUSE_S = 0.002
"""A read that gave less than a crumb is followed by a pause, so that a thin link does not wake the
process for every packet."""

AHEAD_BYTES = 64 * 1024
"""Least that a read fetches: the header, manifest and tables of a file are read one after the
other, and each request costs a round trip."""

FIRST_ATTEMPTS = 3
"""Attempts as long as the source has never answered: it is more likely mistyped than
interrupted."""


class HttpSource:
    """A file at a URL. Its ETag or date and its size are pinned by the first answer."""

    def __init__(self, url: str, policy: SourcePolicy | None = None) -> None:
        """Does not contact the server. SourceRefused if ``policy`` forbids ``url``."""
        self._policy = policy or SourcePolicy()
        self._url = self._target = _checked(self._policy, url)
        self._name = _shown(self._url)
        self._version: Version | None = None
        self.size_bytes: int | None = None
        """Size of the file; None before the first answer."""
        self._meter = LinkMeter()
        self._scissors = Scissors()
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._ahead: tuple[int, bytes] = (0, b"")

    @property
    def rate_bytes_per_s(self) -> float | None:
        """Measured rate of the link without round trips; None before about 64 KiB were read."""
        return self._meter.rate_bytes_per_s

    @property
    def latency_s(self) -> float:
        """Shortest time seen from a request to its first byte, seconds."""
        return self._meter.latency_s

    @cached_property
    def _context(self) -> ssl.SSLContext:
        # Made when needed: it reads all certificates of the system, 20 ms and more.
        return ssl.create_default_context(cafile=self._policy.ca_file)

    def describe(self) -> str:
        """The URL without its query, which may hold secrets."""
        return self._name

    def read(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes at ``offset``, resumed if broken off. ShortRead, SourceError.

        A small read fetches some bytes more, for a read that goes on from there.
        """
        with self._lock:
            start, ahead = self._ahead
        skip = offset - start
        known = ahead[skip : skip + length] if 0 <= skip <= len(ahead) else b""
        missing = length - len(known)
        if not missing:
            return known
        data = b"".join(self._resumed(offset + len(known), max(missing, AHEAD_BYTES), least=missing))
        if len(data) > missing:
            with self._lock:
                self._ahead = (offset + length, data[missing:])
        return known + data[:missing]

    def stream(self, offset: int, length: int) -> Iterator[bytes]:
        """The same in pieces as they come."""
        return self._resumed(offset, length, least=length)

    def attempt(self, offset: int, length: int) -> Iterator[bytes]:
        """The same without trying again: SourceInterrupted when the transfer breaks off."""
        return self._attempt(Request(self._name, offset, length, length))

    def warm(self, connections: int) -> None:
        """Open connections in the background until ``connections`` are idle. A failure is not told:
        the next request meets it."""
        with self._lock:
            missing = connections - len(self._idle)
        for number in range(missing):
            threading.Thread(target=self._open_idle, name=f"warm-{number}", daemon=True).start()

    def _open_idle(self) -> None:
        connection = self._new_connection(self._target)
        try:
            with (
                self._translated(0),
                self._scissors.deadline(connection.key, self._policy.timeout_s),
            ):
                connection.connect()
        except SourceError:
            connection.discard()
        else:
            self._keep(connection)

    def close(self) -> None:
        """Cut every transfer and close every connection."""
        self._scissors.close()
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.discard()

    def __enter__(self) -> HttpSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _resumed(self, offset: int, length: int, least: int) -> Iterator[bytes]:
        patience = self._policy.patience
        if self._version is None:
            attempts = min(FIRST_ATTEMPTS, patience.attempts)
            patience = dataclasses.replace(patience, attempts=attempts)

        def attempt(at: int, rest: int) -> Iterator[bytes]:
            return self._attempt(Request(self._name, at, rest, least - (at - offset)))

        return resumed(attempt, offset, length, patience, self._scissors.closed)

    def _attempt(self, request: Request) -> Iterator[bytes]:
        if self.size_bytes is not None and request.offset + request.length > self.size_bytes:
            length = self.size_bytes - request.offset
            if length < request.least:
                raise request.too_short(self.size_bytes)
            request = dataclasses.replace(request, length=length)
        if request.length <= 0:
            return
        connection, response, answer = self._ask(request)
        reusable = False
        try:
            yield from self._body(request, answer, response)
            reusable = response.closed
        finally:
            if reusable:
                self._keep(connection)
            else:
                connection.discard()

    def _body(self, request: Request, answer: Answer, response: BaseHTTPResponse) -> Iterator[bytes]:
        got, pace = 0, Pace(self._policy)
        try:
            while got < answer.length:
                rest = answer.length - got
                with self._translated(request.offset + got), pace:
                    piece = response.read1(min(rest, PIECE_BYTES))
                if not piece:
                    raise self._interrupted(request.offset + got, "the body ended too early")
                if got:
                    self._meter.count(len(piece))
                else:
                    self._meter.begin()
                got += len(piece)
                if pace.too_slow(len(piece)):
                    raise self._too_slow(request.offset + got)
                yield piece
                if len(piece) < CRUMB_BYTES < rest - len(piece):
                    time.sleep(CRUMB_PAUSE_S)
        finally:
            if got:
                self._meter.end()

    def _too_slow(self, offset: int) -> SourceTooSlow:
        least = self._policy.min_rate_bytes_per_s
        return SourceTooSlow(source=self._name, offset=offset, reason=f"less than {least} bytes per second came")

    def _ask(self, request: Request) -> tuple[Connection, BaseHTTPResponse, Answer]:
        """Send a request; the answer with its header checked. Where the URL redirected to may be
        good for a while only, so when that does not answer as it should, the URL is asked again."""
        if self._target != self._url:
            with contextlib.suppress(SourceError):
                return self._follow(self._target, request)
        return self._follow(self._url, request)

    def _follow(self, url: Url, request: Request) -> tuple[Connection, BaseHTTPResponse, Answer]:
        for _ in range(MAX_REDIRECTS + 1):
            connection, response = self._exchange(url, request)
            try:
                if response.status not in REDIRECTS:
                    answer = check_answer(request, response.status, response.headers, self._version)
                    self._pin(answer.version, url)
                    return connection, response, answer
                url = self._redirected(url, response.headers.get("Location", ""))
            except SourceError:
                connection.discard()
                raise
            connection.discard()
        raise SourceRefused(source=self._name, reason=f"it redirects more than {MAX_REDIRECTS} times")

    def _pin(self, version: Version, url: Url) -> None:
        with self._lock:
            self._target = url
            if self._version is None:
                self._version = version
                self.size_bytes = version.size

    def _redirected(self, url: Url, location: str) -> Url:
        target = _checked(self._policy, urljoin(url.url, location))
        if url.scheme == "https" and target.scheme != "https":
            raise SourceRefused(source=self._name, reason=f"it redirects from https to {_shown(target)}")
        return target

    def _exchange(self, url: Url, request: Request) -> tuple[Connection, BaseHTTPResponse]:
        """One request and its answer's header. A kept connection that the server has given up
        meanwhile is replaced once."""
        while True:
            connection = self._connection(url)
            kept = connection.is_connected
            start = time.monotonic()
            try:
                with (
                    self._translated(request.offset),
                    self._scissors.deadline(connection.key, self._policy.timeout_s),
                ):
                    return connection, self._send(connection, url, request)
            except SourceInterrupted:
                connection.discard()
                if not kept or time.monotonic() - start >= self._policy.timeout_s:
                    raise
            except BaseException:
                connection.discard()
                raise

    def _send(self, connection: Connection, url: Url, request: Request) -> BaseHTTPResponse:
        if not connection.is_connected:
            connection.connect()
        last = request.offset + request.length - 1
        headers = {
            "Range": f"bytes={request.offset}-{last}",
            "Accept-Encoding": "identity",
            "User-Agent": "cloudlet-ext",
        }
        if self._version is not None:
            headers |= self._version.condition
        if _origin(url) == _origin(self._url):
            headers |= dict(self._policy.headers)
        start = time.monotonic()
        connection.request("GET", url.request_uri, headers=headers, preload_content=False, decode_content=False)
        response = connection.getresponse()
        self._meter.answered(time.monotonic() - start)
        return response

    def _connection(self, url: Url) -> Connection:
        origin = _origin(url)
        with self._lock:
            for connection in reversed(self._idle):
                if connection.origin == origin:
                    self._idle.remove(connection)
                    if connection.is_connected:
                        return connection
                    connection.discard()
        return self._new_connection(url)

    def _keep(self, connection: Connection) -> None:
        with self._lock:
            is_open = not self._scissors.closed.is_set()
            if is_open:
                self._idle.append(connection)
        if not is_open:
            connection.discard()

    def _new_connection(self, url: Url) -> Connection:
        return new_connection(
            _origin(url),
            name=self._name,
            scissors=self._scissors,
            policy=self._policy,
            context=self._context if url.scheme == "https" else None,
        )

    @contextlib.contextmanager
    def _translated(self, offset: int) -> Iterator[None]:
        """Errors of the library, as ours."""
        try:
            yield
        except (ssl.SSLCertVerificationError, CertificateError) as error:
            raise SourceUntrusted(source=self._name, reason=error) from error
        except (HTTPError, http.client.HTTPException, OSError) as error:
            raise self._interrupted(offset, str(error) or type(error).__name__) from error

    def _interrupted(self, offset: int, reason: str) -> SourceError:
        if self._scissors.closed.is_set():
            return SourceClosed(source=self._name)
        return SourceInterrupted(source=self._name, offset=offset, reason=reason)


class Pace:
    """Rate of one body over the time spent waiting for it; time when the reader was busy is not
    counted."""

    def __init__(self, policy: SourcePolicy) -> None:
        self._window_s = policy.timeout_s
        self._least_bytes = policy.min_rate_bytes_per_s * policy.timeout_s
        self._waited_s = 0.0
        self._bytes = 0

    def __enter__(self) -> None:
        self._waited_s -= time.monotonic()

    def __exit__(self, *exc: object) -> None:
        self._waited_s += time.monotonic()

    def too_slow(self, length: int) -> bool:
        """Count ``length`` bytes; whether a whole window of waiting brought too few."""
        self._bytes += length
        if self._waited_s < self._window_s:
            return False
        slow = self._bytes < self._least_bytes
        self._waited_s, self._bytes = 0.0, 0
        return slow


def _checked(policy: SourcePolicy, text: str) -> Url:
    """The parts of the URL ``text``; SourceRefused if ``policy`` forbids it."""
    try:
        url = parse_url(text)
    except LocationParseError as error:
        raise SourceRefused(source="the given URL", reason=f"it is malformed: {error}") from error
    shown = _shown(url)
    if url.scheme not in policy.schemes:
        allowed = " or ".join(policy.schemes)
        raise SourceRefused(source=shown, reason=f"its scheme must be {allowed}")
    if not url.host or (policy.hosts and url.host not in {host.lower() for host in policy.hosts}):
        raise SourceRefused(source=shown, reason=f"host {url.host} is not allowed")
    if url.auth:
        raise SourceRefused(source=shown, reason="a URL must not hold a user or password")
    reason = policy.refuse_url(text) if policy.refuse_url is not None else None
    if reason is not None:
        raise SourceRefused(source=shown, reason=reason)
    return url


def _origin(url: Url) -> tuple[str, str, int | None]:
    return url.scheme or "", url.host or "", url.port


def _shown(url: Url) -> str:
    return Url(url.scheme, None, url.host, url.port, url.path).url
