# SPDX-License-Identifier: Apache-2.0
"""One operation of ours in a process of its own, so that its memory can be told from the benchmark's.

Says ``ready`` when everything is imported, reads one line of JSON, ``{"operation": NAME, "home": PATH, ...}``, does it
and writes the result as one line of JSON. A service that offers synthesis has its imports done, too, when a request
comes.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cloudlet_ext.hypervisor.qmp import Monitor, Pending
from cloudlet_ext.worker import base_creation, overlay_creation, probe, recording, server, starting, synthesis
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report


class _Answered(BaseException):
    """The first reply is here and nothing else was wanted."""


class _Listener(Report):
    """Keeps notes, and ends a synthesis at its first reply when asked to."""

    def __init__(self, stop_at_reply: bool = False) -> None:
        super().__init__()
        self.notes: list[tuple[str, float]] = []
        self.first_reply_s: float | None = None
        self.reply = b""
        self.ask: Callable[[], bytes] = lambda: b""
        self._stop_at_reply = stop_at_reply

    def note(self, text: str) -> None:
        self.notes.append((text, self.elapsed_s))
        if text.startswith("first reply"):
            self.first_reply_s = self.elapsed_s
            if self._stop_at_reply:
                self.reply = self.ask()
                raise _Answered


def create_base(home: Home, report: _Listener, arguments: dict[str, Any]) -> Any:
    """``arguments``: fields of BaseRequest, paths as text."""
    for name in ("image", "kernel", "initrd"):
        if arguments.get(name):
            arguments[name] = Path(arguments[name])
    return base_creation.create_base(home, base_creation.BaseRequest(**arguments), report)


def start_server(home: Home, report: _Listener, arguments: dict[str, Any]) -> Any:
    """``base``, ``name``, ``wait_for`` (or null), ``timeout_s``."""
    return starting.start_server(
        home, arguments["base"], arguments["name"], {}, arguments["wait_for"], arguments["timeout_s"], report
    )


def start_servers(home: Home, report: _Listener, arguments: dict[str, Any]) -> Any:
    """``names`` on one ``base``, ``at_once`` of them at a time; the seconds until the last has answered."""
    answered: list[float] = []

    def start(name: str) -> Any:
        began = report.elapsed_s
        mine = Report()
        started = starting.start_server(
            home, arguments["base"], name, {}, arguments["wait_for"], arguments["timeout_s"], mine
        )
        answered.append(began + dict(mine.stages)["personalise"])
        return started

    with ThreadPoolExecutor(arguments["at_once"]) as pool:
        started = list(pool.map(start, arguments["names"]))
    return {"answered_s": max(answered), "elapsed_s": report.elapsed_s, "servers": started}


def create_overlay(home: Home, report: _Listener, arguments: dict[str, Any]) -> Any:
    """``server``, ``out``, ``keep``, ``level``."""
    return overlay_creation.create_overlay(
        home,
        arguments["server"],
        Path(arguments["out"]),
        keep=arguments["keep"],
        level=arguments["level"],
        report=report,
        overwrite=True,
    )


def record(home: Home, report: _Listener, arguments: dict[str, Any]) -> Any:
    """``overlay``, ``probe``, ``level``, ``timeout_s``."""
    return recording.record(
        home,
        Path(arguments["overlay"]),
        arguments["probe"],
        level=arguments["level"],
        timeout_s=arguments["timeout_s"],
        report=report,
    )


def synthesize(home: Home, report: _Listener, arguments: dict[str, Any]) -> Any:
    """Fields of SynthesisRequest; with ``hold`` the guest never runs, whatever the operation tells it."""
    if arguments.pop("hold", False):
        _hold_guests()
    request = synthesis.SynthesisRequest(**arguments)

    def ask() -> bytes:
        """The reply once more: the operation, which is about to be ended, keeps the first one to itself."""
        again = probe.parse(request.probe or "")
        guest = server.load(home, request.name or "")
        again.prepare(guest)
        return probe.wait(again, guest, 20.0).content

    report.ask = ask
    return synthesis.synthesize(home, request, report)


def _hold_guests() -> None:
    """Have every guest that is resumed stay paused.

    QEMU takes ``stop`` before the state has come as the wish that the guest does not run afterwards.
    """
    submit = Monitor.submit

    def held(self: Monitor, command: str, **arguments: Any) -> Pending:
        if command == "cont":
            return submit(self, "query-status")
        if command == "migrate-incoming":
            submit(self, "stop")
        return submit(self, command, **arguments)

    Monitor.submit = held  # type: ignore[method-assign]


_OPERATIONS: dict[str, Callable[[Home, _Listener, dict[str, Any]], Any]] = {
    "create_base": create_base,
    "start_server": start_server,
    "start_servers": start_servers,
    "create_overlay": create_overlay,
    "record": record,
    "synthesize": synthesize,
}


def _plain(value: Any) -> Any:
    """What json does not know."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return int(value) if hasattr(value, "__index__") else str(value)


def main() -> None:
    """Do what standard input says."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    print("ready", file=answers, flush=True)
    request = json.loads(sys.stdin.readline())
    operation = _OPERATIONS[request.pop("operation")]
    home = Home(Path(request.pop("home")))
    report = _Listener(request.pop("stop_at_reply", False))
    try:
        result = operation(home, report, request)
    except _Answered:
        result = {"reply": report.reply}
    elapsed_s = report.elapsed_s
    document = {
        "result": result,
        "stages": [*report.stages, ("end", elapsed_s)],
        "notes": report.notes,
        "first_reply_s": report.first_reply_s,
        "elapsed_s": elapsed_s,
    }
    print(json.dumps(document, default=_plain), file=answers, flush=True)


if __name__ == "__main__":
    main()
