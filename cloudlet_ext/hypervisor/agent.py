# SPDX-License-Identifier: Apache-2.0
"""The guest agent of a server, where the guest runs one."""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudlet_ext.hypervisor import errors

_DELIMITER = b"\xff"
_RECEIVE_BYTES = 65536
_ANSWER_LIMIT_BYTES = 64 << 20


@dataclass(frozen=True)
class Exit:
    """How a command in the guest ended."""

    status: int
    output: bytes
    error: bytes


class GuestAgent:
    """One connection to the agent's socket; :class:`errors.AgentSilent` when nothing answers in time."""

    def __init__(self, socket_path: Path, timeout_s: float = 5.0) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        directory = os.open(socket_path.parent, os.O_PATH | os.O_DIRECTORY)
        try:
            self._socket.connect(f"/proc/self/fd/{directory}/{socket_path.name}")
            self._synchronise()
        except OSError as failure:
            self._socket.close()
            raise errors.AgentSilent(reason=str(failure)) from failure
        except errors.HypervisorError:
            self._socket.close()
            raise
        finally:
            os.close(directory)

    def _synchronise(self) -> None:
        """Throw away what an earlier connection left half read."""
        token = secrets.randbelow(1 << 31)
        request = {"execute": "guest-sync-delimited", "arguments": {"id": token}}
        self._socket.sendall(_DELIMITER + json.dumps(request).encode() + b"\n")
        while True:
            line = self._line()
            _, found, rest = line.rpartition(_DELIMITER)
            if found and json.loads(rest).get("return") == token:
                return

    def _line(self) -> bytes:
        while b"\n" not in self._received:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise errors.AgentSilent(reason="no answer in time")
            self._socket.settimeout(left)
            try:
                piece = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError as failure:
                raise errors.AgentSilent(reason="no answer in time") from failure
            if not piece or len(self._received) > _ANSWER_LIMIT_BYTES:
                raise errors.AgentSilent(reason="QEMU closed the connection")
            self._received += piece
        line, _, self._received = self._received.partition(b"\n")
        return line

    def execute(self, command: str, timeout_s: float = 10.0, **arguments: Any) -> Any:
        """Run one agent command; :class:`errors.AgentRefused` holds the agent's words when it fails."""
        self._deadline = time.monotonic() + timeout_s
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._socket.sendall(json.dumps({"execute": command, "arguments": named}).encode() + b"\n")
        answer = json.loads(self._line())
        if "error" in answer:
            raise errors.AgentRefused(command=command, reason=answer["error"].get("desc", "no reason given"))
        return answer["return"]

    def run(self, arguments: list[str], timeout_s: float = 60.0, stdin: bytes = b"") -> Exit:
        """Run a program in the guest and wait for its end."""
        until = time.monotonic() + timeout_s
        request: dict[str, Any] = {"path": arguments[0], "arg": arguments[1:], "capture_output": True}
        if stdin:
            request["input_data"] = base64.b64encode(stdin).decode()
        pid = self.execute("guest-exec", **request)["pid"]
        pause = 0.01
        while True:
            state = self.execute("guest-exec-status", pid=pid)
            if state["exited"]:
                return Exit(
                    int(state.get("exitcode", 128 + int(state.get("signal", 0)))),
                    base64.b64decode(state.get("out-data", "")),
                    base64.b64decode(state.get("err-data", "")),
                )
            if time.monotonic() > until:
                raise errors.AgentSilent(reason=f"{arguments[0]} did not end within {timeout_s:.0f} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.25)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> GuestAgent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
