# SPDX-License-Identifier: Apache-2.0
"""The guest agent's client against an agent that answers as it is told."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudlet_ext.hypervisor import unix_socket
from cloudlet_ext.hypervisor.agent import GuestAgent
from cloudlet_ext.hypervisor.errors import AgentRefused, AgentSilent

WAIT_S = 30.0
Answer = Callable[[dict[str, Any]], bytes]


def said(value: Any) -> bytes:
    return json.dumps({"return": value}).encode() + b"\n"


class FakeAgent(threading.Thread):
    """Answers a synchronisation as QEMU's agent does, everything else by ``answer``; what is left is said first."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="fake-agent", daemon=True)
        self._listener = unix_socket.listen(path, 1)
        self._listener.settimeout(WAIT_S)
        self.left = b""
        self.answer: Answer = lambda request: said({})
        self.synchronises = True
        self.requests: list[dict[str, Any]] = []

    def run(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as lines:
            connection.sendall(self.left)
            try:
                for line in lines:
                    request = json.loads(line.lstrip(b"\xff"))
                    if request["execute"] == "guest-sync-delimited":
                        if self.synchronises:
                            connection.sendall(b"\xff" + said(request["arguments"]["id"]))
                        continue
                    self.requests.append(request)
                    answer = self.answer(request)
                    if not answer:
                        return
                    connection.sendall(answer)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.close()
        self.join(WAIT_S)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    agent = FakeAgent(tmp_path / "agent.sock")
    agent.start()
    yield agent
    agent.close()


def test_commands(agent: FakeAgent, tmp_path: Path) -> None:
    agent.answer = lambda request: said([request["execute"], request["arguments"]])
    with GuestAgent(tmp_path / "agent.sock", WAIT_S) as client:
        assert client.execute("guest-set-time", time=5) == ["guest-set-time", {"time": 5}]
        assert client.execute("guest-file-open", file_path="/x") == ["guest-file-open", {"file-path": "/x"}]


def test_what_an_earlier_client_left_is_thrown_away(agent: FakeAgent, tmp_path: Path) -> None:
    agent.left = b'{"return": 12345}\n\xff{"return": 77}\n{"return": {"half": '
    with GuestAgent(tmp_path / "agent.sock", WAIT_S) as client:
        assert client.execute("guest-ping") == {}


def test_a_command_in_the_guest(agent: FakeAgent, tmp_path: Path) -> None:
    states = iter([{"exited": False}, {"exited": False}, {"exited": True, "exitcode": 3, "out-data": "b3V0"}])

    def answer(request: dict[str, Any]) -> bytes:
        return said({"pid": 9} if request["execute"] == "guest-exec" else next(states))

    agent.answer = answer
    with GuestAgent(tmp_path / "agent.sock", WAIT_S) as client:
        done = client.run(["/bin/sh", "-c", "cat"], stdin=b"in")
    assert (done.status, done.output, done.error) == (3, b"out", b"")
    expected = {"path": "/bin/sh", "arg": ["-c", "cat"], "capture-output": True, "input-data": "aW4="}
    assert agent.requests[0]["arguments"] == expected
    assert [request["arguments"] for request in agent.requests[1:]] == [{"pid": 9}] * 3


def test_a_command_that_a_signal_ended(agent: FakeAgent, tmp_path: Path) -> None:
    agent.answer = lambda request: said({"pid": 9, "exited": True, "signal": 9})
    with GuestAgent(tmp_path / "agent.sock", WAIT_S) as client:
        assert client.run(["/bin/true"]).status == 137


def test_a_long_answer(agent: FakeAgent, tmp_path: Path) -> None:
    output = bytes(12 << 20)
    agent.answer = lambda request: said({"pid": 9, "exited": True, "out-data": base64.b64encode(output).decode()})
    with GuestAgent(tmp_path / "agent.sock", WAIT_S) as client:
        assert client.run(["/bin/cat"]).output == output


def test_a_command_that_does_not_end(agent: FakeAgent, tmp_path: Path) -> None:
    agent.answer = lambda request: said({"pid": 9, "exited": False})
    with (
        GuestAgent(tmp_path / "agent.sock", WAIT_S) as client,
        pytest.raises(AgentSilent, match=r"/bin/cat did not end within 0 s"),
    ):
        client.run(["/bin/cat"], timeout_s=0.1)


def test_refusal_holds_the_words_of_the_agent(agent: FakeAgent, tmp_path: Path) -> None:
    agent.answer = lambda request: b'{"error": {"class": "GenericError", "desc": "no such thing"}}\n'
    with GuestAgent(tmp_path / "agent.sock", WAIT_S) as client:
        with pytest.raises(AgentRefused, match="refused guest-exec: no such thing"):
            client.run(["/nothing"])
        agent.answer = lambda request: b'{"error": {}}\n'
        with pytest.raises(AgentRefused, match="no reason given"):
            client.execute("guest-ping")
        agent.answer = lambda request: b'{"error": "worse"}\n'
        with pytest.raises(AgentRefused, match="worse"):
            client.execute("guest-ping")


@pytest.mark.parametrize(
    "answer",
    [
        b"\n",
        b"hello\n",
        b"[]\n",
        b"\xfe\xff\n",
        said([]),
        said({}),
        said({"pid": 9}),
        said({"pid": 9, "exited": 1})[:9],
    ],
)
def test_a_guest_may_answer_anything(agent: FakeAgent, tmp_path: Path, answer: bytes) -> None:
    agent.answer = lambda request: answer
    with GuestAgent(tmp_path / "agent.sock", 0.5) as client, pytest.raises(AgentSilent):
        client.execute("guest-exec", 0.5)
        client.run(["/bin/true"], 0.5)


@pytest.mark.parametrize(
    "state", [{"out-data": 5}, {"out-data": "a"}, {"exitcode": "a"}, {"exitcode": None}, {"signal": []}]
)
def test_a_guest_may_tell_of_any_end(agent: FakeAgent, tmp_path: Path, state: dict[str, Any]) -> None:
    agent.answer = lambda request: said({"pid": 9, "exited": True, **state})
    with GuestAgent(tmp_path / "agent.sock", WAIT_S) as client, pytest.raises(AgentSilent, match="makes no sense"):
        client.run(["/bin/true"])


def test_no_answer(agent: FakeAgent, tmp_path: Path) -> None:
    agent.synchronises = False
    begun = time.monotonic()
    with pytest.raises(AgentSilent, match="no answer in time"):
        GuestAgent(tmp_path / "agent.sock", 0.2)
    assert time.monotonic() - begun < WAIT_S / 2


def test_an_agent_that_leaves(agent: FakeAgent, tmp_path: Path) -> None:
    agent.answer = lambda request: b""
    with GuestAgent(tmp_path / "agent.sock", WAIT_S) as client:
        with pytest.raises(AgentSilent, match="QEMU closed the connection"):
            client.execute("guest-ping")
        with pytest.raises(AgentSilent):
            for _ in range(3):
                client.execute("guest-ping")


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(AgentSilent, match="No such file"):
        GuestAgent(tmp_path / "agent.sock")
    unix_socket.listen(tmp_path / "agent.sock", 1).close()
    with pytest.raises(AgentSilent, match="refused"):
        GuestAgent(tmp_path / "agent.sock")


def test_a_queue_of_clients_does_not_hang(tmp_path: Path) -> None:
    """QEMU takes one client at a time; when its queue is full not even connecting ends."""
    with (
        unix_socket.listen(tmp_path / "agent.sock", 0),
        unix_socket.connect(tmp_path / "agent.sock", WAIT_S),
        pytest.raises(AgentSilent, match=r"timed out|again|unavailable"),
    ):
        GuestAgent(tmp_path / "agent.sock", 0.2)
