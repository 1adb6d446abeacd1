# SPDX-License-Identifier: Apache-2.0
"""``cloudlet server console``: the serial console of a server."""

from __future__ import annotations

import contextlib
import errno
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
on. Without a terminal it prints what was written so far, and ends. Of a long console the last mebibyte at
least is kept.
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
_PENDING_BYTES = 1 << 20


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    parser.add_argument("name", metavar="NAME", help="name of the server")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.worker import server
    from cloudlet_ext.worker.console import ConsoleReader

    guest = server.load(call.home, call.arguments.name)
    if call.arguments.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        said = ConsoleReader(guest.folder)
        if call.arguments.json:
            return Outcome({"name": guest.name, "console": said.rest().decode(errors="replace")}, "")
        while piece := said.read():
            sys.stdout.buffer.write(piece)
        return Outcome({}, "")
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
        # A terminal that was hung up has nothing to be put back.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _talk(guest: Server, keys: int, screen: int) -> bool:
    """Copy between terminal and guest; True when the user leaves, False when the guest has ended."""
    from cloudlet_ext.worker.console import ConsoleReader

    said = ConsoleReader(guest.folder, _BACKLOG_BYTES)
    look_again = time.monotonic()
    try:
        with _Input(guest.folder / "console.in") as typed:
            while True:
                # A file tells nobody that it has grown.
                while piece := said.read():
                    _write_all(screen, piece)
                wanted = [typed.pipe] if typed.pending else []
                if select.select([keys], wanted, [], _LOOK_EVERY_S)[0] and not typed.take(_read(keys)):
                    return True
                typed.send()
                if time.monotonic() > look_again:
                    look_again = time.monotonic() + _ALIVE_EVERY_S
                    if not guest.process.alive:
                        return False
    except _GuestGone:
        return False
    finally:
        said.close()


class _GuestGone(Exception):
    """Nobody reads what is typed any more."""


class _Input:
    """What is typed, on its way to the guest, which may not read it now, or never.

    ``pending``: what the pipe has not taken yet. Of more than _PENDING_BYTES the rest is lost: the key that leaves is
    to be seen however long the guest does not read.
    """

    def __init__(self, path: Path) -> None:
        try:
            # QEMU holds the other end for as long as it runs; with nobody there, to wait would be for ever.
            self.pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as failure:
            if failure.errno in (errno.ENXIO, errno.ENOENT):
                raise _GuestGone from failure
            raise
        self.pending = b""

    def take(self, typed: bytes) -> bool:
        """Note what was typed; False when the user leaves, or the terminal has."""
        kept, leave, _ = typed.partition(LEAVE)
        self.pending = (self.pending + kept)[:_PENDING_BYTES]
        return bool(typed) and not leave

    def send(self) -> None:
        """Give the guest what it takes now; :class:`_GuestGone`."""
        try:
            while self.pending:
                self.pending = self.pending[os.write(self.pipe, self.pending) :]
        except BlockingIOError:
            pass
        except BrokenPipeError as failure:
            raise _GuestGone from failure

    def __enter__(self) -> _Input:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(_GuestGone):
            self.send()
        os.close(self.pipe)


def _read(keys: int) -> bytes:
    try:
        return os.read(keys, _PIECE_BYTES)
    except OSError as failure:
        if failure.errno != errno.EIO:
            raise
        # The terminal was hung up.
        return b""


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
