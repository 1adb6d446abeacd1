# SPDX-License-Identifier: Apache-2.0
"""In the guest: an HTTP service that computes over its data and answers with the result and a nonce kept in memory."""

import sqlite3
import sys
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


def fetch(url: str, kind: str, columns: int) -> Any:
    """The data as an array, read straight into its place."""
    import numpy as np

    with urllib.request.urlopen(url) as answer:
        size = int(answer.headers["Content-Length"])
        array = np.empty(size // np.dtype(kind).itemsize, kind)
        into = memoryview(array).cast("B")
        while into:
            into = into[answer.readinto(into) :]
    return array.reshape(-1, columns)


def array(url: str) -> Callable[[], str]:
    """Averages over an eighth of a table of readings."""
    table = fetch(url, "float64", 1024)
    part = len(table) // 8
    return lambda: f"{table[3 * part : 4 * part].mean():.6f}"


def features(url: str) -> Callable[[], str]:
    """The nearest neighbour of a vector, by comparing it with all of them."""
    vectors = fetch(url, "float32", 128)
    norms = (vectors * vectors).sum(axis=1)
    wanted = vectors[len(vectors) // 3] + 1
    return lambda: str((norms - 2 * (vectors @ wanted)).argmin())


def database(url: str) -> Callable[[], str]:
    """A query that reads all of a table on disk."""
    connection = sqlite3.connect("file:/opt/app/data?mode=ro", uri=True)
    return lambda: str(connection.execute("SELECT count(*), sum(length(text)) FROM pages").fetchone())


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"{nonce} {compute()}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


mode, url, nonce = sys.argv[1:]
compute = {"array": array, "features": features, "database": database}[mode](url)
HTTPServer(("", 8000), Answer).serve_forever()
