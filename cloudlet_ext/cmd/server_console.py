# SPDX-License-Identifier: Apache-2.0
"""``cloudlet server console``: the serial console of a server."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cloudlet_ext.cmd.call import Call, Outcome

if TYPE_CHECKING:
    from cloudlet_ext.worker.server import Server

SUMMARY = "talk to the serial console of a server"
DESCRIPTION = """
Shows what the server writes to its serial console and sends it what is typed; Ctrl-] leaves, the server goes
on. Without a terminal it prints what was written so far, and ends.
"""
EXAMPLE = """
cloudlet server console shop
cloudlet server console shop | tail
"""

LEAVE = b"\x1d"
"""Ctrl-], as in telnet and virsh."""

_LOOK_EVERY_S = 0.03
_ALIVE_EVERY_S = 1.0
_BACKLOG_BYTES = 4096
_PIECE_BYTES = 65536


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("name", metavar="NAME", help="name of the server")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.worker import server

    guest = server.load(call.home, call.arguments.name)
    if call.arguments.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        with contextlib.suppress(FileNotFoundError):
            said = guest.console_path.read_bytes()
            if call.arguments.json:
                return Outcome({"name": guest.name, "console": said.decode(errors="replace")}, "")
            sys.stdout.buffer.write(said)
        return Outcome({"name": guest.name, "console": ""}, "")
    guest = server.load_running(call.home, guest.name)
    with _raw(sys.stdin.fileno()):
        # Whatever is typed once this can be read goes to the guest.
        print(f"console of {guest.name}: Ctrl-] leaves", end="\r\n", file=sys.stderr, flush=True)
        has_left = _talk(guest, sys.stdin.fileno(), sys.stdout.fileno())
    return Outcome({}, f"\nleft the console of {guest.name}" if has_left else f"\nserver {guest.name} has ended")


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    """Every key goes to the guest as it is, Ctrl-C too."""
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _talk(guest: Server, keys: int, screen: int) -> bool:
    """Copy between terminal and guest; True when the user leaves, False when the guest has ended."""
    with guest.console_path.open("rb") as said, _input(guest.folder / "console.in") as fifo:
        said.seek(max(0, guest.console_path.stat().st_size - _BACKLOG_BYTES))
        look_again = time.monotonic()
        while True:
            # A file tells nobody that it has grown.
            while piece := said.read(_PIECE_BYTES):
                _write_all(screen, piece)
            if select.select([keys], [], [], _LOOK_EVERY_S)[0]:
                typed = os.read(keys, _PIECE_BYTES)
                kept, leave, _ = typed.partition(LEAVE)
                _write_all(fifo, kept)
                if leave or not typed:
                    return True
            if time.monotonic() > look_again:
                look_again = time.monotonic() + _ALIVE_EVERY_S
                if not guest.process.alive:
                    return False


@contextlib.contextmanager
def _input(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
