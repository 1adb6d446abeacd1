# SPDX-License-Identifier: Apache-2.0
"""A web server on loopback that misbehaves on demand."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.file_server import FileHandler, Server


@dataclass(frozen=True)
class Seen:
    """A request that came: its path, its first byte, its header, and which connection it came on."""

    path: str
    first: int
    header: dict[str, str]
    connection: int


class FaultyHandler(FileHandler):
    """Sends files as its server's ``behaviour`` wants."""

    server: FaultyServer

    def answer(self, with_body: bool) -> None:
        match = re.match(r"bytes=(\d+)", self.headers.get("Range", ""))
        header = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.path, int(match[1]) if match else 0, header, self.client_address[1])
        self.server.seen.append(seen)
        if not self.server.behaviour(self):
            super().answer(with_body)

    @property
    def whole(self) -> bytes:
        """The file that was asked for."""
        return (self.folder / self.path.lstrip("/").partition("?")[0]).read_bytes()

    def header_lines(self, status: str, *lines: str) -> None:
        """Send a header, and nothing else that the library would add."""
        self.wfile.write(f"HTTP/1.1 {status}\r\n{''.join(line + chr(13) + chr(10) for line in lines)}\r\n".encode())
        self.wfile.flush()

    def part_header(self, **changed: str | None) -> bytes:
        """Send the right header of a part, but for what is ``changed`` (None: left out); the part."""
        whole = self.whole
        first, last = self.asked_range(Path(), len(whole)) or (0, len(whole) - 1)
        lines = {
            "Content-Range": f"bytes {first}-{last}/{len(whole)}",
            "Content-Length": str(last - first + 1),
            "ETag": self.etag(Path()),
        } | {name.replace("_", "-"): text for name, text in changed.items()}
        self.header_lines("206 Partial Content", *(f"{name}: {text}" for name, text in lines.items() if text))
        return whole[first : last + 1]

    def asked_range(self, path: Path, size: int) -> tuple[int, int] | None:
        return super().asked_range(path, size)

    def etag(self, path: Path) -> str:
        return self.server.etag

    def reset(self) -> None:
        """End the connection with an RST."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.hang_up()

    def hang_up(self) -> None:
        """End the connection."""
        self.close_connection = True
        self.connection.close()


Behaviour = Callable[[FaultyHandler], bool]


def well(handler: FaultyHandler) -> bool:
    """Behave."""
    return False


class FaultyServer(Server):
    """Serves ``folder`` while the ``with`` block runs; ``behaviour`` may be changed at any time.

    A behaviour gives True if it has answered, False to have the request answered well.
    """

    def __init__(self, folder: Path, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), partial(FaultyHandler, folder))
        self.behaviour: Behaviour = well
        self.seen: list[Seen] = []
        self.etag = '"first"'
        self.ending = threading.Event()
        self._context = context
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def url(self, name: str) -> str:
        """URL of a file in the folder."""
        scheme = "https" if self._context else "http"
        return f"{scheme}://127.0.0.1:{self.server_address[1]}/{name}"

    def finish_request(self, request: socket.socket, client_address: object) -> None:
        if self._context:
            with contextlib.suppress(OSError):
                request = self._context.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


# Behaviours


def status(number: int, *lines: str) -> Behaviour:
    """Answer with a status and no content."""

    def behave(handler: FaultyHandler) -> bool:
        handler.header_lines(f"{number} Status", "Content-Length: 0", *lines)
        return True

    return behave


def redirect(target: str) -> Behaviour:
    """Redirect to ``target`` whatever is not asked for there."""

    def behave(handler: FaultyHandler) -> bool:
        if target.endswith(handler.path):
            return False
        return status(302, f"Location: {target}")(handler)

    return behave


def times(count: int, behaviour: Behaviour) -> Behaviour:
    """Behave like that ``count`` times, then well."""
    left = [count]

    def behave(handler: FaultyHandler) -> bool:
        left[0] -= 1
        return left[0] >= 0 and behaviour(handler)

    return behave


def after(first: int, behaviour: Behaviour) -> Behaviour:
    """Behave well for requests that begin before byte ``first``."""

    def behave(handler: FaultyHandler) -> bool:
        match = re.match(r"bytes=(\d+)", handler.headers.get("Range", ""))
        return bool(match) and int(match[1]) >= first and behaviour(handler)  # type: ignore[index]

    return behave


def cut(sent: int, *, with_reset: bool = False) -> Behaviour:
    """Send only the first ``sent`` bytes of the body."""

    def behave(handler: FaultyHandler) -> bool:
        handler.wfile.write(handler.part_header()[:sent])
        handler.wfile.flush()
        if with_reset:
            time.sleep(0.05)  # Or the reset would throw away what was sent.
            handler.reset()
        else:
            handler.hang_up()
        return True

    return behave


def changed(**lines: str | None) -> Behaviour:
    """Send the right body under a wrong header."""

    def behave(handler: FaultyHandler) -> bool:
        handler.wfile.write(handler.part_header(**lines))
        return True

    return behave


def longer(handler: FaultyHandler) -> bool:
    """Send more than was declared."""
    handler.wfile.write(handler.part_header() + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    return True


def ignore_range(handler: FaultyHandler) -> bool:
    """Send the whole file to every request."""
    whole = handler.whole
    handler.header_lines("200 OK", f"Content-Length: {len(whole)}", f"ETag: {handler.server.etag}")
    with contextlib.suppress(OSError):
        handler.wfile.write(whole)
    return True


def chunked(handler: FaultyHandler) -> bool:
    """Send the part in chunked encoding, without Content-Length."""
    body = handler.part_header(Content_Length=None, Transfer_Encoding="chunked")
    for start in range(0, len(body), 5000):
        piece = body[start : start + 5000]
        handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    handler.wfile.write(b"0\r\n\r\n")
    return True


def drip_header(handler: FaultyHandler) -> bool:
    """Send a header that never ends, one byte at a time, quicker than any timeout for silence."""
    handler.wfile.write(b"HTTP/1.1 206 Partial Content\r\nX-Long: ")
    return _drip(handler)


def cut_header(handler: FaultyHandler) -> bool:
    """End the connection in the middle of the header."""
    handler.wfile.write(b"HTTP/1.1 206 Partial Content\r\nAccept-Ra")
    handler.wfile.flush()
    handler.hang_up()
    return True


def drip_body(handler: FaultyHandler) -> bool:
    """Send a body one byte at a time."""
    handler.part_header()
    return _drip(handler)


def _drip(handler: FaultyHandler) -> bool:
    with contextlib.suppress(OSError):
        while not handler.server.ending.wait(0.02):
            handler.wfile.write(b"x")
            handler.wfile.flush()
    handler.close_connection = True
    return True


def silent(handler: FaultyHandler) -> bool:
    """Say nothing at all."""
    handler.server.ending.wait(30)
    handler.close_connection = True
    return True


def silent_body(handler: FaultyHandler) -> bool:
    """Stop after a few bytes of the body."""
    handler.wfile.write(handler.part_header()[:1000])
    handler.wfile.flush()
    return silent(handler)


def make_file(path: Path, size: int) -> bytes:
    """Write a file of random bytes."""
    content = os.urandom(size)
    path.write_bytes(content)
    return content
