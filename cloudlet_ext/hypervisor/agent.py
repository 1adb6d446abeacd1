# SPDX-License-Identifier: Apache-2.0
"""The guest agent of a server, where the guest runs one."""

from __future__ import annotations

import base64
import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudlet_ext.hypervisor import errors, unix_socket

_DELIMITER = b"\xff"
_RECEIVE_BYTES = 65536
_ANSWER_LIMIT_BYTES = 64 << 20
_LAST_LOOK_S = 1.0


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
        self._received = bytearray()
        try:
            self._socket = unix_socket.connect(socket_path, timeout_s)
        except OSError as failure:
            raise errors.AgentSilent(reason=str(failure)) from failure
        try:
            self._synchronise()
        except BaseException:
            self._socket.close()
            raise

    def _synchronise(self) -> None:
        """Throw away what an earlier connection left half read."""
        token = secrets.randbelow(1 << 31)
        request = {"execute": "guest-sync-delimited", "arguments": {"id": token}}
        self._send(_DELIMITER, request)
        while True:
            _, found, rest = self._line().rpartition(_DELIMITER)
            if found and _answer(rest).get("return") == token:
                return

    def _send(self, before: bytes, request: dict[str, Any]) -> None:
        try:
            self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
            self._socket.sendall(before + json.dumps(request).encode() + b"\n")
        except OSError as failure:
            raise errors.AgentSilent(reason=str(failure)) from failure

    def _line(self) -> bytes:
        searched = 0
        while (end := self._received.find(b"\n", searched)) < 0:
            searched = len(self._received)
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise errors.AgentSilent(reason="no answer in time")
            self._socket.settimeout(left)
            try:
                piece = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError as failure:
                raise errors.AgentSilent(reason="no answer in time") from failure
            except OSError as failure:
                raise errors.AgentSilent(reason=str(failure)) from failure
            if not piece:
                raise errors.AgentSilent(reason="QEMU closed the connection")
            self._received += piece
            if len(self._received) > _ANSWER_LIMIT_BYTES:
                raise errors.AgentSilent(reason=f"an answer of more than {_ANSWER_LIMIT_BYTES} bytes")
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def execute(self, command: str, timeout_s: float = 10.0, **arguments: Any) -> Any:
        """Run one agent command; :class:`errors.AgentRefused` holds the agent's words when it fails."""
        self._deadline = time.monotonic() + timeout_s
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._send(b"", {"execute": command, "arguments": named})
        answer = _answer(self._line())
        if "error" in answer:
            error = answer["error"]
            reason = error.get("desc") if isinstance(error, dict) else error
            raise errors.AgentRefused(command=command, reason=reason or "no reason given")
        return answer.get("return")

    def run(self, arguments: list[str], timeout_s: float = 60.0, stdin: bytes = b"") -> Exit:
        """Run a program in the guest and wait for its end."""
        until = time.monotonic() + timeout_s
        request: dict[str, Any] = {"path": arguments[0], "arg": arguments[1:], "capture_output": True}
        if stdin:
            request["input_data"] = base64.b64encode(stdin).decode()
        started = self.execute("guest-exec", timeout_s, **request)
        pause = 0.01
        while True:
            try:
                left = max(_LAST_LOOK_S, until - time.monotonic())
                state = self.execute("guest-exec-status", left, pid=started["pid"])
                if state["exited"]:
                    return _exit(state)
            except (KeyError, TypeError, ValueError) as failure:
                raise errors.AgentSilent(reason=f"the answer of guest-exec makes no sense: {failure!r}") from failure
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


def _answer(line: bytes) -> dict[str, Any]:
    """What the guest says; it may be anything."""
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise errors.AgentSilent(reason=f"{line[:80]!r} is no answer of an agent")
    return answer


def _exit(state: dict[str, Any]) -> Exit:
    return Exit(
        int(state.get("exitcode", 128 + int(state.get("signal", 0)))),
        base64.b64decode(state.get("out-data", "")),
        base64.b64decode(state.get("err-data", "")),
    )
