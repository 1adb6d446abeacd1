# SPDX-License-Identifier: Apache-2.0
"""What the API filter costs a request that is none of its own.

The same request is given to an application that does nothing, with and without the filter before it; the difference is
the filter's. A body that must not be read ends the program when it is. Server actions are Nova's or ours by what
their body says, so that theirs is read, and put back. To know whether the image of ``POST /servers`` is a base, Glance
is asked once in five minutes by each process of nova-api; what is measured are the others. The one costs a request to
Glance, some milliseconds, which Nova makes once more itself.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.rows import OURS, Rows, Target

LIMIT_US = 50.0
FIGURE = "api overhead"
_IMAGE = "0f0c9a52-1f0e-4b0b-9a55-0f6f2b4e7d10"
_SERVER = "/servers/6f1b1d9c-8f3e-4d0e-9c46-1a9c2b7f1a55"


@dataclass(frozen=True)
class Sample:
    """A request. ``body`` None: it has one that must not be read."""

    method: str
    path: str
    body: bytes | None = None

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


SAMPLES = [
    Sample("GET", "/servers/detail"),
    Sample("GET", _SERVER),
    Sample("GET", "/1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a/servers/detail"),
    Sample("PUT", _SERVER),
    Sample("DELETE", _SERVER),
    Sample("POST", f"{_SERVER}/os-volume_attachments"),
    Sample("GET", "/flavors"),
    Sample("GET", f"{_SERVER}/os-instance-actions"),
    Sample("POST", f"{_SERVER}/action", b'{"reboot": {"type": "SOFT"}}'),
    Sample("POST", "/servers", b'{"server": {"name": "n", "imageRef": "' + _IMAGE.encode() + b'", "flavorRef": "1"}}'),
    Sample("POST", f"{_SERVER}/action", b'{"createImage": {"name": "n", "metadata": {"k": "' + b"v" * 4096 + b'"}}}'),
]


class Unread(io.RawIOBase):
    """A body that nobody may look at."""

    def read(self, size: int = -1) -> bytes:
        raise SystemExit("a body was read that is none of ours")

    readline = read  # type: ignore[assignment]


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Does nothing."""
    return []


def environment(sample: Sample) -> dict[str, Any]:
    """What a web server hands over."""
    size = 100 if sample.body is None else len(sample.body)
    return {
        "REQUEST_METHOD": sample.method,
        "SCRIPT_NAME": "/v2.1",
        "PATH_INFO": sample.path,
        "QUERY_STRING": "",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(size),
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8774",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.url_scheme": "http",
        "wsgi.input": Unread() if sample.body is None else io.BytesIO(sample.body),
        "nova.context": None,
    }


def microseconds(called: Callable[..., Any], sample: Sample, calls: int) -> float:
    """Time of one call, each with an environment of its own."""
    environments = [environment(sample) for _ in range(calls)]
    began = time.perf_counter()
    for environ in environments:
        called(environ, None)
    return (time.perf_counter() - began) / calls * 1e6


def measure(rows: Rows, rounds: int, calls: int) -> None:
    """Rounds with and without the filter by turns, so that what else the machine does meets both."""
    from cloudlet_ext.nova.filter import CloudletFilter
    from cloudlet_ext.nova.other_images import OtherImages

    known = OtherImages()
    known.note(_IMAGE)
    # All other services are for what is ours.
    filtered = CloudletFilter(application, SimpleNamespace(other_images=known))  # type: ignore[arg-type]
    for sample in SAMPLES:
        microseconds(filtered, sample, calls // 10)
        costs = []
        for _ in range(rounds):
            without = microseconds(application, sample, calls)
            costs.append(microseconds(filtered, sample, calls) - without)
        what = sample.name if sample.body is None else f"{sample.name}, {len(sample.body)} bytes"
        value = rows.add(what, OURS, FIGURE, costs, "us")
        rows.target(Target(FIGURE, what, "added to a request that is none of ours", value, LIMIT_US, "us"))


def table(rows: Rows) -> str:
    """For a person."""
    head = ("request", "body", "us (lowest .. highest)", f"<= {LIMIT_US:.0f} us")
    lines = [head]
    for sample, row, target in zip(SAMPLES, rows.rows, rows.targets, strict=True):
        value = f"{row.value:6.2f} ({row.low:.2f} .. {row.high:.2f})"
        body = "unread" if sample.body is None else f"{len(sample.body)} bytes read"
        lines.append((sample.name, body, value, "met" if target.is_met else f"missed by {target.miss:.0%}"))
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    rule = "  ".join("=" * width for width in widths)
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([rule, text[0], rule, *text[1:], rule])


def main(arguments: list[str] | None = None) -> int:
    """0 when all targets are met."""
    parser = argparse.ArgumentParser(prog="benchmarks/api_overhead", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows to this file as well")
    options = parser.parse_args(arguments)
    rows = Rows()
    measure(rows, rounds=5 if options.quick else 9, calls=2000 if options.quick else 20000)
    print(table(rows))
    if options.json:
        facts = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "processor": f"{platform.machine()}, {os.cpu_count()} cores",
            "load": round(os.getloadavg()[0], 2),
            "python": platform.python_version(),
        }
        rows.write(options.json, facts)
    return 0 if all(target.is_met for target in rows.targets) else 1


if __name__ == "__main__":
    sys.exit(main())
