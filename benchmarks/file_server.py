# SPDX-License-Identifier: Apache-2.0
"""An HTTP/1.1 server for the files of one folder: Range, keep-alive, ETag. For loopback and networks of tests.

Use it as ``python -m benchmarks.file_server --listen 127.0.0.1:8080 FOLDER``, or from code:
``with FileServer(folder) as server: read server.url("name")``. It runs in a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from email.utils import formatdate
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import quote, unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d+)-(\d*)", re.ASCII)


class FileHandler(BaseHTTPRequestHandler):
    """Answers GET and HEAD for regular files directly in ``folder``."""

    protocol_version = "HTTP/1.1"
    wbufsize = 64 * 1024
    disable_nagle_algorithm = True

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.folder = folder
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Send a file or a range of it."""
        self.answer(with_body=True)

    def do_HEAD(self) -> None:
        """Send what GET would, without the body."""
        self.answer(with_body=False)

    def answer(self, with_body: bool) -> None:
        """Send the header, and the body if asked for."""
        path = self.folder / unquote(urlsplit(self.path).path).lstrip("/")
        if path.parent != self.folder or not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        asked = self.asked_range(path, size)
        first, last = asked or (0, size - 1)
        if first >= size > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_head(path, 206 if asked else 200, first, last, size)
        self.wfile.flush()
        if with_body:
            self.send_body(path, first, last - first + 1)

    def asked_range(self, path: Path, size: int) -> tuple[int, int] | None:
        """First and last byte asked for, or None for the whole file."""
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match is None or self.headers.get("If-Range", self.etag(path)) != self.etag(path):
            return None
        last = int(match[2]) if match[2] else size - 1
        return int(match[1]), min(last, size - 1)

    def send_head(self, path: Path, status: int, first: int, last: int, size: int) -> None:
        """Send status and header."""
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("ETag", self.etag(path))
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        self.end_headers()

    def send_body(self, path: Path, first: int, length: int) -> None:
        """Send bytes of the file."""
        with path.open("rb") as file:
            self.connection.sendfile(file, first, length)

    def etag(self, path: Path) -> str:
        """Tells this state of the file from others."""
        status = path.stat()
        return f'"{status.st_mtime_ns:x}-{status.st_size:x}"'

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """A thread per connection; a client that goes away is no error."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Only report what is not a lost connection."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def new_server(folder: Path, host: str = "127.0.0.1", port: int = 0) -> Server:
    """A server for ``folder`` that listens and does not serve yet."""
    handler: Callable[..., FileHandler] = partial(FileHandler, folder.resolve())
    return Server((host, port), handler)


class FileServer:
    """A server in a process of its own, ended on leaving the ``with`` block or with this
    process."""

    def __init__(self, folder: Path, listen: str = "127.0.0.1:0", within: Sequence[str] = ()) -> None:
        """``within``: a command that runs another one, where ``listen`` is an address (in a network namespace)."""
        self._command = [*within, sys.executable, __file__, str(folder), "--listen", listen, "--until-eof"]
        self._process: subprocess.Popen[str] | None = None
        self.address = ""

    def url(self, name: str, address: str | None = None) -> str:
        """URL of the file ``name``, through ``address`` (a shaper's) if given."""
        return f"http://{address or self.address}/{quote(name)}"

    def __enter__(self) -> FileServer:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        if not self.address:
            raise RuntimeError(f"the server did not start: exit code {self._process.wait()}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.communicate()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--listen", required=True, metavar="HOST:PORT")
    parser.add_argument("--until-eof", action="store_true", help="end with standard input")
    arguments = parser.parse_args()
    with contextlib.suppress(OSError):
        os.nice(-10)  # It stands for another machine, which does not share this one's processors.
    host, _, port = arguments.listen.rpartition(":")
    server = new_server(arguments.folder, host or "127.0.0.1", int(port))
    print("{}:{}".format(*server.server_address[:2]), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        if arguments.until_eof:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            sys.stdin.read()
        else:
            server.serve_forever()


if __name__ == "__main__":
    main()
