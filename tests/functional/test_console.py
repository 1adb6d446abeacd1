# SPDX-License-Identifier: Apache-2.0
"""The serial console of a server: on a terminal, without one, and when the other side goes away."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from cloudlet_ext.cmd import server_console
from cloudlet_ext.hypervisor import log_keeper
from cloudlet_ext.worker.console import ConsoleReader
from cloudlet_ext.worker.home import Home
from tests.functional import guest as tools
from tests.functional.conftest import Start
from tests.functional.test_cli import CommandLine

pytestmark = pytest.mark.timeout(120)


@dataclass
class Screen:
    """``cloudlet server console`` on a terminal of its own."""

    child: int
    terminal: int
    shown: bytes = b""

    def wait(self, text: bytes) -> None:
        while text not in self.shown:
            self.shown += os.read(self.terminal, 4096)

    def type(self, keys: bytes) -> None:
        while keys:
            keys = keys[os.write(self.terminal, keys[:512]) :]

    def ended(self) -> int:
        """The exit code, once it has ended."""
        with contextlib.suppress(OSError):
            while piece := os.read(self.terminal, 4096):
                self.shown += piece
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])


Open = Callable[[str], Screen]


@pytest.fixture
def console(home: Home) -> Iterator[Open]:
    screens: list[Screen] = []

    def open_screen(name: str) -> Screen:
        words = CommandLine(home.path.parent).command("server", "console", name)
        child, terminal = pty.fork()
        if not child:
            os.execv(words[0], words)
        screens.append(Screen(child, terminal))
        screens[-1].wait(b"Ctrl-] leaves")
        return screens[-1]

    yield open_screen
    for screen in screens:
        os.close(screen.terminal)


def test_the_guest_does_not_read(tiny: str, start: Start, console: Open) -> None:
    """However much was typed, the key that leaves is seen."""
    guest = start(tiny, "deaf")
    screen = console("deaf")
    os.kill(guest.process.pid, signal.SIGSTOP)
    try:
        screen.type(b"x" * 200_000)
        screen.type(server_console.LEAVE)
        assert screen.ended() == 0
        assert b"left the console of deaf" in screen.shown
    finally:
        os.kill(guest.process.pid, signal.SIGCONT)
    assert tools.is_ticking(guest)


def test_what_is_typed_reaches_the_guest(busybox: str, start: Start, console: Open) -> None:
    """What it does not read at once comes later."""
    guest = start(busybox, "reads")
    screen = console("reads")
    screen.type(b"\r")
    screen.wait(b"# ")
    os.kill(guest.process.pid, signal.SIGSTOP)
    screen.type(b"echo $((6 * 7))\r")
    os.kill(guest.process.pid, signal.SIGCONT)
    screen.wait(b"\n42")
    screen.type(server_console.LEAVE)
    assert screen.ended() == 0


def test_the_guest_goes_away(tiny: str, start: Start, console: Open) -> None:
    guest = start(tiny, "leaves")
    screen = console("leaves")
    guest.process.kill()
    assert screen.ended() == 0
    assert b"server leaves has ended" in screen.shown


def test_the_guest_went_away_before_it_was_talked_to(tiny: str, start: Start) -> None:
    """Between the look whether it runs and the opening of its console."""
    guest = start(tiny, "left")
    guest.process.kill()
    keys, _ = pipe = os.pipe()
    try:
        with open(os.devnull, "wb") as screen:
            assert server_console._talk(guest, keys, screen.fileno()) is False
    finally:
        for descriptor in pipe:
            os.close(descriptor)


def test_the_terminal_goes_away(tiny: str, start: Start, home: Home) -> None:
    guest = start(tiny, "alone")
    words = CommandLine(home.path.parent).command("server", "console", "alone")
    child, terminal = pty.fork()
    if not child:
        os.execv(words[0], words)
    Screen(child, terminal).wait(b"Ctrl-] leaves")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGHUP
    assert tools.is_ticking(guest)


@pytest.mark.parametrize("redirection", ["<&-", "</dev/null", "<&- 2>&-", ">/dev/full <&-"])
def test_without_a_terminal(tiny: str, start: Start, home: Home, redirection: str) -> None:
    guest = start(tiny, "printed")
    tools.wait_until("it has said something", lambda: "...." in tools.console_text(guest))
    words = CommandLine(home.path.parent).command("server", "console", "printed")
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *words], capture_output=True, check=False, timeout=60
    )
    assert b"Traceback" not in done.stderr
    if "full" in redirection:
        assert done.returncode == 8 and b"No space left" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert b"...." in done.stdout
    assert guest.process.alive


def test_a_long_console(home: Home, busybox: str, start: Start) -> None:
    """It goes on in a second file; who reads it in one go or as it comes misses nothing."""
    guest = start(busybox, "talks")
    last = 160_000
    follower, said = ConsoleReader(guest.folder), bytearray()

    def is_over() -> bool:
        said.extend(follower.rest())
        return f"\n{last}\r\nover\r\n".encode() in said[-100:]

    tools.type_line(guest, f"seq {last}; echo over")
    tools.wait_until("all was said", is_over)
    follower.close()
    assert (guest.folder / log_keeper.OLDER_NAME).stat().st_size >= log_keeper.CONSOLE_BYTES
    numbers = [int(line) for line in bytes(said).split(b"\r\n") if line.isdigit()]
    assert numbers == list(range(1, last + 1))
    shown = CommandLine(home.path.parent)("server", "console", "talks")["console"]
    assert shown.startswith(said.decode())
    assert tools.run(guest, "echo lives") == "lives"
