# SPDX-License-Identifier: Apache-2.0
"""Probes of a real guest: what counts as its answer, and what does not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from cloudlet_ext.worker import errors, probe
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.server import Server
from tests.functional import guest as tools
from tests.functional.conftest import Start

SHORT_S = 3.0


@pytest.fixture
def somebody() -> Iterator[int]:
    """The port of somebody on this host who takes every connection and holds it."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            try:
                while True:
                    held.append(listener.accept()[0])
            except OSError:
                pass

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in held:
        connection.close()


def wait(guest: Server, text: str, timeout_s: float) -> None:
    asked = probe.parse(text)
    try:
        asked.prepare(guest)
        probe.wait(asked, guest, timeout_s)
    finally:
        guest.close()


def listen(guest: Server, port: int) -> None:
    """Have somebody in the guest take one connection to a port, and wait until it can be made."""
    listens = f"grep -qs ':{port:04X} 0*:0000 0A' /proc/net/tcp /proc/net/tcp6"
    tools.run(guest, f"nc -l -p {port} >/dev/null & until {listens}; do sleep 0.1; done")


def test_what_the_guest_opens_is_no_answer(home: Home, busybox: str, start: Start, somebody: int) -> None:
    """It is connected to that port of somebody else, and serves nothing there itself until it does."""
    guest = start(busybox, "client")
    tools.run(guest, f"(sleep 1000 | nc 10.0.2.2 {somebody}) & true")

    def is_connected() -> bool:
        rows = [line.split() for line in guest.monitor.human("info usernet").splitlines()]
        return [(row[0], row[4]) for row in rows if row[5:6] == [str(somebody)]] == [("TCP[ESTABLISHED]", "10.0.2.2")]

    tools.wait_until("the guest is connected", is_connected)
    guest.close()
    with pytest.raises(errors.ProbeTimedOut):
        wait(guest, f"tcp:{somebody}", SHORT_S)
    tools.run(guest, f"httpd -p {somebody} -h /www")
    wait(guest, f"tcp:{somebody}", tools.WAIT_S)


def test_what_was_accepted_before_is_no_answer(home: Home, busybox: str, start: Start) -> None:
    """A connection by the same forward goes on when nobody listens any more."""
    guest = start(busybox, "closed")
    listen(guest, 81)
    port = guest.forward(81)
    with socket.create_connection(("127.0.0.1", port)):
        tools.wait_until("it is accepted", lambda: probe.accepted(guest.monitor.human("info usernet"), port, 81))
        with pytest.raises(errors.ProbeTimedOut):
            wait(guest, "tcp:81", SHORT_S)
        listen(guest, 81)
        wait(guest, "tcp:81", tools.WAIT_S)


def test_one_that_hangs_up_at_once_has_accepted(home: Home, busybox: str, start: Start) -> None:
    guest = start(busybox, "brief")
    tools.run(guest, "(while :; do nc -l -p 82 -e true; done) >/dev/null 2>&1 & true")
    wait(guest, "tcp:82", tools.WAIT_S)


def test_a_text_on_the_console(home: Home, busybox: str, start: Start) -> None:
    """Also one that comes in pieces, and one that was there before; none that is not there."""
    guest = start(busybox, "says")
    asked = probe.parse("console:one-word")
    with pytest.raises(errors.ProbeTimedOut, match="last: the console"):
        probe.wait(asked, guest, 1.0)
    tools.type_line(guest, "printf one-; sleep 1; echo word")
    probe.wait(asked, guest, tools.WAIT_S)
    wait(guest, "console:one-word", tools.WAIT_S)
