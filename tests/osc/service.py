# SPDX-License-Identifier: Apache-2.0
"""An HTTP service in this process: a table of routes, and a record of what was asked."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """What came. ``body`` is shorter than ``length`` when the client broke off."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    length: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """``body``: what becomes JSON, or bytes as they are; ``cut``: so many bytes of them are really sent."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


def fault(status: int, message: str) -> Answer:
    """An error in Nova's form."""
    return Answer(status, {"fault": {"code": status, "message": message}})


Route = Callable[..., Answer]


class _Server(ThreadingHTTPServer):
    def handle_error(self, *arguments: Any) -> None:
        """A client that breaks off is none."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*arguments)


class Service:
    """Routes are ``METHOD PATTERN`` -> a function of the request and the pattern's groups."""

    def __init__(self) -> None:
        self.routes: list[tuple[str, re.Pattern[str], Route]] = []
        self.requests: list[Request] = []
        self.watch: Callable[[Request], None] = lambda request: None
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, method: str, pattern: str, route: Route) -> None:
        """Later routes go before earlier ones."""
        self.routes.insert(0, (method, re.compile(pattern), route))

    def refuse(self, method: str, pattern: str, status: int, message: str) -> None:
        """From now on, answer these with an error."""
        self.add(method, pattern, lambda request, *groups: fault(status, message))

    def asked(self, method: str, pattern: str) -> list[Request]:
        """Requests that came."""
        return [each for each in self.requests if each.method == method and re.fullmatch(pattern, each.path)]

    def answer(self, request: Request) -> Answer:
        self.requests.append(request)
        self.watch(request)
        for method, pattern, route in self.routes:
            found = pattern.fullmatch(request.path)
            if method == request.method and found:
                with self._lock:
                    return route(request, *found.groups())
        # As Nova's map of URLs.
        return Answer(
            404, {"message": "The resource could not be found.", "code": "404 Not Found", "title": "Not Found"}
        )

    def __enter__(self) -> Service:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _serve(self) -> None:
                split = urlsplit(self.path)
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                query = {key: values[-1] for key, values in parse_qs(split.query).items()}
                path = unquote(split.path)
                request = Request(self.command, path, query, dict(self.headers), length, body)
                self._send(service.answer(request))

            def _send(self, answer: Answer) -> None:
                is_raw = isinstance(answer.body, bytes)
                body = answer.body if is_raw else b"" if answer.body is None else json.dumps(answer.body).encode()
                headers = dict(answer.headers)
                if not is_raw and answer.body is not None:
                    headers.setdefault("Content-Type", "application/json")
                self.send_response(answer.status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if answer.status != 204:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: answer.cut])
                self.close_connection = answer.cut is not None

            def log_message(self, *args: object) -> None:
                """Silent."""

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{method}", Handler._serve)
        return Handler
