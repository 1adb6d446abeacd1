# SPDX-License-Identifier: Apache-2.0
"""A TCP relay that behaves like an access link: limited rate, delay, a small queue.

All connections through one shaper share the link, each direction has its own rate. Use it as
``python -m benchmarks.shaper --listen 127.0.0.1:8081 --to 127.0.0.1:8080 --rate 38 --rtt 50``, or
from code: ``with Shaper("127.0.0.1:8080", rate_mbit=38, rtt_ms=50) as shaper: connect to
shaper.address``.

The rate counts payload bytes. A direction's link is busy until some moment; a packet that is
admitted makes it busy for longer, and arrives half a round trip after its last bit went out. What
is not admitted stays with its sender, whose TCP window then fills. Connecting costs a round trip:
the first bytes of a connection are held back by one, since the kernel here has long accepted it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from types import TracebackType

QUEUE_S = 0.02
"""Length of the link's queue, as time. Admission stops when the link is busy for longer than this,
so it also bridges late wake-ups of this process without losing capacity."""

CREDIT_S = 0.001
"""Depth of the token bucket: an idle link may catch up this much."""

PACKET_S = 0.003
PACKET_LEAST = 1460
PACKET_MOST = 64 * 1024
"""Bytes admitted at a time: what the link carries in PACKET_S, within limits. Larger is coarser,
smaller costs more of a core."""

Address = tuple[str, int]


class Link:
    """One direction, shared by all connections: when it is free, and what is on its way."""

    def __init__(self, rate_bytes_per_s: float, delay_s: float) -> None:
        self.rate = rate_bytes_per_s
        self.delay_s = delay_s
        self.packet_bytes = int(min(max(self.rate * PACKET_S, PACKET_LEAST), PACKET_MOST))
        self.free_s = 0.0
        self.on_way: deque[tuple[float, End, bytes]] = deque()

    def has_room(self, now: float) -> bool:
        """Whether a packet may be admitted."""
        return self.free_s - now <= QUEUE_S

    def admit(self, now: float, target: End, packet: bytes) -> None:
        """Put a packet (empty: end of stream) on its way to ``target``."""
        self.free_s = max(self.free_s, now - CREDIT_S) + len(packet) / self.rate
        self.on_way.append((max(self.free_s, now) + self.delay_s, target, packet))
        target.expected += 1


class End:
    """One end of a relayed connection: a socket, and what is to be written to it."""

    def __init__(self, sock: socket.socket, link: Link, not_before_s: float) -> None:
        self.sock = sock
        self.link = link  # That carries what is read here.
        self.not_before_s = not_before_s
        self.peer: End = self
        self.backlog: deque[bytes] = deque()
        self.expected = 0
        self.read_ended = False
        self.write_ended = False
        self.is_connected = True

    def may_read(self) -> bool:
        """Whether its data may enter the link: nothing is admitted that the far end does not
        take."""
        return not self.read_ended and not self.peer.backlog and self.peer.is_connected

    def is_over(self) -> bool:
        """Whether both directions are finished."""
        return self.write_ended and self.peer.write_ended


class Relay:
    """All sockets in one thread; select() is used because its timeout is exact to microseconds."""

    def __init__(self, listen: Address, to: Address, rate_mbit: float, rtt_ms: float) -> None:
        rate = rate_mbit * 1e6 / 8
        self._to = to
        self._rtt_s = rtt_ms / 1000
        self._links = (Link(rate, self._rtt_s / 2), Link(rate, self._rtt_s / 2))
        self._listener = socket.create_server(listen, backlog=128)
        self._listener.setblocking(False)
        self._ends: dict[socket.socket, End] = {}
        self.address: Address = self._listener.getsockname()[:2]

    def run(self, stop_fd: int | None) -> None:
        """Relay until ``stop_fd`` becomes readable."""
        always: list[socket.socket | int] = [self._listener]
        if stop_fd is not None:
            always.append(stop_fd)
        while True:
            now = time.monotonic()
            readers, writers, wake_s = self._interests(now)
            timeout = None if wake_s is None else max(0.0, wake_s - now)
            readable, writable, _ = select.select(always + readers, writers, [], timeout)
            if stop_fd in readable:
                return
            self._deliver(time.monotonic())
            for sock in writable:
                self._flush(self._ends.get(sock))
            if self._listener in readable:
                self._accept()
            self._admit([sock for sock in readable if sock in self._ends])

    def _interests(self, now: float) -> tuple[list[socket.socket | int], list[socket.socket], float | None]:
        """Sockets to be read and written, and when to look again anyway."""
        wakes = [link.on_way[0][0] for link in self._links if link.on_way]
        readers: list[socket.socket | int] = []
        writers = []
        for end in self._ends.values():
            if end.may_read():
                if end.not_before_s > now:
                    wakes.append(end.not_before_s)
                elif end.link.has_room(now):
                    readers.append(end.sock)
                else:
                    wakes.append(end.link.free_s - QUEUE_S)
            if end.backlog or not end.is_connected:
                writers.append(end.sock)
        return readers, writers, min(wakes, default=None)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            server = socket.socket()
            for sock in (client, server):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server.connect_ex(self._to)
            up, down = self._links
            near = End(client, up, time.monotonic() + self._rtt_s)
            far = End(server, down, 0.0)
            near.peer, far.peer, far.is_connected = far, near, False
            self._ends |= {client: near, server: far}

    def _admit(self, readable: list[socket.socket]) -> None:
        """One packet of each connection in turn, as long as the link has room."""
        while readable:
            again = []
            for sock in readable:
                end = self._ends.get(sock)
                now = time.monotonic()
                if end is None or not end.may_read() or not end.link.has_room(now):
                    continue
                try:
                    packet = sock.recv(end.link.packet_bytes)
                except BlockingIOError:
                    continue
                except OSError:
                    self._drop(end)
                    continue
                end.read_ended = not packet
                end.link.admit(now, end.peer, packet)
                again.append(sock)
            # The one served first waits for its next turn, so that no connection is favoured.
            readable = again[1:] + again[:1]

    def _deliver(self, now: float) -> None:
        for link in self._links:
            while link.on_way and link.on_way[0][0] <= now:
                _, end, packet = link.on_way.popleft()
                end.expected -= 1
                if end.sock in self._ends:
                    end.backlog.append(packet)
                    self._flush(end)

    def _flush(self, end: End | None) -> None:
        if end is None:
            return
        try:
            if not end.is_connected:
                code = end.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code:
                    raise OSError(code, "connect")
                end.is_connected = True
            while end.backlog:
                packet = end.backlog[0]
                if not packet:
                    end.sock.shutdown(socket.SHUT_WR)
                    end.write_ended = True
                elif (sent := end.sock.send(packet)) < len(packet):
                    end.backlog[0] = packet[sent:]
                    return
                end.backlog.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._drop(end)
            return
        if end.is_over():
            self._close(end)
            self._close(end.peer)

    def _drop(self, end: End) -> None:
        """A connection was reset: so is its other half, by closing without the usual goodbye."""
        for half in (end, end.peer):
            with contextlib.suppress(OSError):
                half.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._close(half)

    def _close(self, end: End) -> None:
        self._ends.pop(end.sock, None)
        end.sock.close()


class Shaper:
    """A shaper in a process of its own, ended on leaving the ``with`` block or when this process
    ends."""

    def __init__(self, to: str, *, rate_mbit: float, rtt_ms: float, listen: str = "127.0.0.1:0") -> None:
        self._arguments = ["--to", to, "--listen", listen]
        self._arguments += ["--rate", str(rate_mbit), "--rtt", str(rtt_ms)]
        self._process: subprocess.Popen[str] | None = None
        self.address = ""

    def __enter__(self) -> Shaper:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *self._arguments, "--until-eof"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        if not self.address:
            raise RuntimeError(f"the shaper did not start: exit code {self._process.wait()}")
        return self

    @property
    def cpu_s(self) -> float:
        """Processor time that it has used, seconds."""
        assert self._process is not None
        with open(f"/proc/{self._process.pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process is not None:
            code = self._process.poll()
            self._process.communicate()
            if code is not None and kind is None:
                raise RuntimeError(f"the shaper ended too early: exit code {code}")


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host or "127.0.0.1", int(port)


def main() -> None:
    """Run a shaper until it is interrupted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--listen", type=_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--to", type=_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--rate", type=float, required=True, help="Mbit/s, each direction")
    parser.add_argument("--rtt", type=float, required=True, help="round trip, ms")
    parser.add_argument("--until-eof", action="store_true", help="end with standard input")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # It stands for hardware: what it serves must not slow it down. Without the right to it (root has
    # it) the rate falls short by some percent on a busy machine.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    relay = Relay(arguments.listen, arguments.to, arguments.rate, arguments.rtt)
    print("{}:{}".format(*relay.address), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        relay.run(sys.stdin.fileno() if arguments.until_eof else None)


if __name__ == "__main__":
    main()
