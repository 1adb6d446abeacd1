# SPDX-License-Identifier: Apache-2.0
"""What tests do with guests: type into them, read what they serve, look at their memory and disk."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cloudlet_ext.hypervisor.agent import GuestAgent
from cloudlet_ext.hypervisor.process import QemuProcess, running_in
from cloudlet_ext.worker import probe, server
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report
from cloudlet_ext.worker.server import Server

WAIT_S = 120.0
"""For what takes a second or two where nothing else runs."""

_numbers = itertools.count(100)


def wait_until(what: str, done: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    """Look until ``done`` is true."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def loaded(home: Home, name: str) -> Iterator[Server]:
    """A server for a block, and its end."""
    guest = server.load(home, name)
    try:
        yield guest
    finally:
        guest.destroy()


def in_guest(guest: Server, line: str) -> str:
    """Run a line by the guest agent's hand; what it said."""
    with GuestAgent(guest.agent_path, WAIT_S) as agent:
        done = agent.run(["/bin/sh", "-c", line], WAIT_S)
    assert done.status == 0, done.error.decode()
    return done.output.decode().strip()


def console_text(guest: Server) -> str:
    return guest.console_path.read_text(errors="replace") if guest.console_path.exists() else ""


def type_line(guest: Server, line: str) -> None:
    with (guest.folder / "console.in").open("wb", buffering=0) as keys:
        keys.write(f"{line}\n".encode())


def run(guest: Server, line: str) -> str:
    """Run a line in the shell on the busybox guest's console; what it said."""
    number = next(_numbers)
    begin = len(console_text(guest))
    # The line as it is echoed does not contain the marks.
    type_line(guest, f"echo @$(({number}+0)); {line}; echo [$?-$(({number}+0))]")
    marked = re.compile(rf"@{number}\s(.*)\[(\d+)-{number}\]", re.DOTALL)
    wait_until(f"the end of {line!r}", lambda: marked.search(console_text(guest)[begin:]))
    found = marked.search(console_text(guest)[begin:])
    assert found is not None and found[2] == "0", console_text(guest)[begin:]
    return found[1].strip()


def fetch(guest: Server, path: str = "/nonce", timeout_s: float = WAIT_S) -> bytes:
    """What the busybox guest serves."""
    asked = probe.parse(f"http://:80{path}")
    try:
        asked.prepare(guest)
        return probe.wait(asked, guest, timeout_s).content
    finally:
        guest.close()


def is_ticking(guest: Server, within_s: float = 30.0) -> bool:
    """Whether a tiny guest's dots become more."""
    begin = len(console_text(guest))
    with contextlib.suppress(AssertionError):
        wait_until("a dot", lambda: len(console_text(guest)) > begin, within_s)
        return True
    return False


def qemu_of(home: Home) -> list[QemuProcess]:
    """QEMU processes of all servers of a home."""
    return [found for folder in home.servers.iterdir() for found in running_in(folder)]


def ask(guest: Server, command: str, **arguments: Any) -> Any:
    """One command for the monitor, which is free for others then: it has one client at a time."""
    try:
        return guest.monitor.execute(command, **arguments)
    finally:
        guest.close()


def status(guest: Server) -> str:
    return str(ask(guest, "query-status")["status"])


def physical_memory(guest: Server, path: Path) -> np.ndarray:
    """All of the guest's memory as QEMU itself writes it to a file."""
    ask(guest, "pmemsave", val=0, size=guest.machine.memory_bytes, filename=str(path))
    return np.memmap(path, np.uint8, "r")


def layer_chain(guest: Server) -> str:
    """The disk of a server, over all that its layers name, as an image for qemu-img."""
    return json.dumps(
        {"driver": "qcow2", "file": {"driver": "file", "filename": str(guest.layers[0]), "locking": "off"}}
    )


def compare_disks(one: Server, other: Server) -> None:
    """The content of two servers' disks is the same; both must stand still."""
    images = [f"json:{layer_chain(guest)}" for guest in (one, other)]
    done = subprocess.run(["qemu-img", "compare", "-U", *images], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Act(Report):
    """Does something when a stage begins, and keeps what is told."""

    def __init__(self, stage: str | None = None, act: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._stage, self._act = stage, act
        self.notes: list[str] = []

    @property
    def names(self) -> list[str]:
        """Stages so far."""
        return [name for name, _ in self.stages]

    def stage(self, name: str) -> None:
        super().stage(name)
        if name == self._stage:
            self._act()

    def note(self, text: str) -> None:
        self.notes.append(text)
