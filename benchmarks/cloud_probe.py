# SPDX-License-Identifier: Apache-2.0
"""When does an app answer correctly? Asked from the tenants' network, by one process for the whole run.

To start a process for every question would cost more than what is measured. Questions and answers are lines of JSON;
the clock is the monotonic one, which all network namespaces of a machine share.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import IO

from benchmarks.measure import ProcessFailed, end

CONNECT_S = 0.2
"""A guest that is not there yet does not hear the first packet; TCP itself would send the next after a second."""

READ_S = 10.0
EVERY_S = 0.02


@dataclass(frozen=True)
class Question:
    """``digest``: SHA-256 of the only correct answer."""

    address: str
    path: str
    digest: str
    limit_s: float
    port: int = 80


def digest_of(content: bytes) -> str:
    """As a question has it."""
    return hashlib.sha256(content).hexdigest()


def ask(question: Question) -> bytes:
    """One attempt; OSError or HTTPException when there is no answer."""
    with socket.create_connection((question.address, question.port), CONNECT_S) as connected:
        connected.settimeout(READ_S)
        connection = http.client.HTTPConnection(question.address, question.port)
        connection.sock = connected
        connection.request("GET", question.path, headers={"Connection": "close"})
        answer = connection.getresponse()
        content = answer.read()
    if answer.status != 200:
        raise OSError(f"HTTP status {answer.status}")
    return content


def first_reply(question: Question) -> tuple[float, str]:
    """When the app had answered, and what was wrong with that ("" if nothing).

    An answer counts when it is the first: another content than the expected one is an error, not to be asked again.
    """
    deadline = time.monotonic() + question.limit_s
    problem = "nobody was asked"
    while time.monotonic() < deadline:
        try:
            content = ask(question)
        except (OSError, http.client.HTTPException) as failure:
            problem = f"no answer within {question.limit_s:.0f} s; last: {type(failure).__name__}: {failure}"
            time.sleep(EVERY_S)
            continue
        at = time.monotonic()
        if digest_of(content) == question.digest:
            return at, ""
        return at, f"{len(content)} bytes that are not the expected ones: {content[:40]!r}"
    return time.monotonic(), problem


class Prober:
    """The process, started by ``command`` (which puts it into the tenants' network), and what it is asked."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = [*command, "-m", "benchmarks.cloud_probe"]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prober:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        if self._pipe(self._process.stdout).readline() != b"ready\n":
            end(self._process)
            raise ProcessFailed("no process could be started in the tenants' network")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            end(self._process)

    def restart(self) -> None:
        """Forget a question that is open."""
        self.__exit__(None, None, None)
        self.__enter__()

    def _pipe(self, pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None:
            raise ProcessFailed("the process in the tenants' network was not started")
        return pipe

    def begin(self, question: Question) -> None:
        """Have it asked until there is an answer. One question at a time."""
        assert self._process is not None
        pipe = self._pipe(self._process.stdin)
        pipe.write(json.dumps(asdict(question)).encode() + b"\n")
        pipe.flush()

    def answered(self) -> float:
        """The moment (monotonic) of the correct answer; :class:`ProcessFailed` when there was none."""
        assert self._process is not None
        line = self._pipe(self._process.stdout).readline()
        if not line:
            raise ProcessFailed("the process in the tenants' network has ended")
        at, problem = json.loads(line)
        if problem:
            raise ProcessFailed(f"the app: {problem}")
        return float(at)

    def ask(self, question: Question) -> float:
        """Both."""
        self.begin(question)
        return self.answered()


def forget(address: str) -> None:
    """Whose MAC this was: addresses are soon given to other servers, and the kernel takes five seconds to see that."""
    subprocess.run(["ip", "neighbour", "flush", "to", address], capture_output=True, check=False)


def main() -> None:
    """Answer what standard input asks."""
    print("ready", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        for line in sys.stdin:
            question = Question(**json.loads(line))
            forget(question.address)
            print(json.dumps(first_reply(question)), flush=True)


if __name__ == "__main__":
    main()
