# SPDX-License-Identifier: Apache-2.0
"""The monitor of a QEMU process."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from qemu.qmp import ExecuteError, QMPClient, QMPError, Runstate

from cloudlet_ext.hypervisor import errors, unix_socket

LOG = logging.getLogger(__name__)

_CONNECT = "connect"
_CLOSE_LIMIT_S = 5.0


class Pending:
    """A command that was sent. QEMU answers in order, and not before it can: not while it waits for a page itself."""

    def __init__(self, command: str, answer: concurrent.futures.Future[Any]) -> None:
        self._command, self._answer = command, answer

    def done(self, within_s: float) -> bool:
        """Whether it has an answer now or shortly."""
        return bool(concurrent.futures.wait([self._answer], within_s).done)

    def result(self, timeout_s: float) -> Any:
        """The answer; :class:`errors.MonitorFailed` holds QEMU's own words when it refuses."""
        try:
            return self._answer.result(timeout_s)
        except ExecuteError as failure:
            raise errors.MonitorRefused(command=self._command, reason=str(failure)) from failure
        except TimeoutError as failure:
            reason = f"no answer within {timeout_s:.0f} s"
            if self._command == _CONNECT:
                reason += "; another process may have it, it serves one at a time"
            raise errors.MonitorFailed(command=self._command, reason=reason) from failure
        except (QMPError, OSError, EOFError, AssertionError, concurrent.futures.CancelledError) as failure:
            # The client asserts its own state, which changes at any time when QEMU ends.
            reason = str(failure) or type(failure).__name__
            raise errors.MonitorFailed(command=self._command, reason=reason) from failure
        finally:
            self._answer.cancel()


class Monitor:
    """One QMP connection; commands may come from several threads.

    The client's event loop has a thread of its own: a signal that interrupts whoever waits for an answer leaves the
    connection whole, so that what was begun can still be undone through it.
    """

    def __init__(
        self,
        socket_path: Path,
        timeout_s: float = 10.0,
        alive: Callable[[], bool] | None = None,
        *,
        start_timeout_s: float | None = None,
    ) -> None:
        """Connect; waits for the socket to be there for as long as ``alive`` says so.

        ``timeout_s`` limits every command, ``start_timeout_s`` (the same if it is not given) what comes before the
        first one.
        """
        self._timeout_s = max(1.0, timeout_s)
        start_s = timeout_s if start_timeout_s is None else start_timeout_s
        connection = _connect(socket_path, start_s, alive or (lambda: True))
        self._loop = asyncio.new_event_loop()
        # What ended the connection is told to whoever waits for an answer; the loop would tell it once more.
        self._loop.set_exception_handler(lambda loop, context: LOG.debug("monitor: %s", context.get("message")))
        self._thread = threading.Thread(target=self._loop.run_forever, name="monitor", daemon=True)
        self._thread.start()
        self._client: QMPClient | None = QMPClient()
        try:
            connecting = asyncio.wait_for(self._client.connect(connection), max(1.0, start_s))
            self._begin(_CONNECT, connecting).result(max(1.0, start_s) + 1)
        except BaseException:
            self.close()
            connection.close()
            raise

    def _begin(self, command: str, doing: Coroutine[Any, Any, Any]) -> Pending:
        return Pending(command, asyncio.run_coroutine_threadsafe(doing, self._loop))

    def submit(self, command: str, **arguments: Any) -> Pending:
        """Send a command and do not wait; nobody need look at what comes of it."""
        arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
        if self._client is None:
            raise errors.MonitorFailed(command=command, reason="the monitor is closed")
        return self._begin(command, self._client.execute(command, arguments))

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run one command; :class:`errors.MonitorFailed` holds QEMU's own words when it refuses."""
        return self.submit(command, **arguments).result(self._timeout_s)

    def human(self, line: str) -> str:
        """Run a command of the human monitor, for what QMP does not offer."""
        answer = self.execute("human-monitor-command", command_line=line)
        return str(answer)

    def status(self) -> str:
        """QEMU's run state, for instance ``running``, ``paused``, ``inmigrate``, ``postmigrate``."""
        return str(self.execute("query-status")["status"])

    def wait_status(self, wanted: set[str], timeout_s: float) -> str:
        """Poll until the run state is one of ``wanted``."""
        deadline = time.monotonic() + timeout_s
        pause = 0.001
        while True:
            status = self.status()
            if status in wanted:
                return status
            if time.monotonic() > deadline:
                raise errors.MonitorFailed(
                    command="query-status",
                    reason=f"state {status} after {timeout_s:.0f} s, expected {' or '.join(sorted(wanted))}",
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def close(self) -> None:
        """Close the connection; QEMU goes on."""
        client, self._client = self._client, None
        if client is None:
            return
        with contextlib.suppress(errors.MonitorFailed):
            self._begin("disconnect", _leave(client)).result(_CLOSE_LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _leave(client: QMPClient) -> None:
    # What ended the connection before is raised by disconnect(), and is of no interest any more.
    with contextlib.suppress(Exception):
        if client.runstate is not Runstate.IDLE:
            await client.disconnect()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _connect(path: Path, timeout_s: float, alive: Callable[[], bool]) -> socket.socket:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return unix_socket.connect(path, timeout_s)
        except OSError as failure:
            if not alive() or time.monotonic() > deadline:
                raise errors.MonitorFailed(command=_CONNECT, reason=str(failure)) from failure
        time.sleep(0.005)
