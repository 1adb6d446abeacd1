# SPDX-License-Identifier: Apache-2.0
"""What becomes of clock and addresses with guests whose agents do much, little, nothing, or nonsense."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import pytest

from cloudlet_ext.hypervisor.errors import AgentRefused, AgentSilent, CardsKept
from cloudlet_ext.job import cards as network_cards
from cloudlet_ext.job import errors, personal
from cloudlet_ext.job.cards import Card
from cloudlet_ext.job.personal import Personal, personalise

OLD, MAC, ADDRESS = "fa:16:3e:00:00:01", "fa:16:3e:00:00:02", "192.168.111.7"
PORT = {"mac": MAC.upper(), "mtu": 1442, "addresses": []}


def cards(*, handed_out: bool = True) -> list[Card]:
    address = {"address": f"{ADDRESS}/24", "gateway": "192.168.111.1", "handed_out": handed_out}
    return network_cards.of_job([OLD], [MAC], [{**PORT, "addresses": [address]}])


def interfaces(mac: str, *addresses: str) -> list[dict[str, Any]]:
    told = [{"ip-address": one, "prefix": 24, "ip-address-type": "ipv4"} for one in addresses]
    return [{"name": "lo"}, {"name": "eth0", "hardware-address": mac, "ip-addresses": told}]


class FakeGuest:
    """Answers of an agent by command; a command without one is refused. ``after``: what is answered to
    guest-network-get-interfaces when the cards were replaced."""

    def __init__(self, after: Any = None, **answers: Any) -> None:
        self.answers = {name.replace("_", "-"): answer for name, answer in answers.items()}
        self.after, self.asked, self.replaced = after, list[str](), 0
        self.resident_at = 0.0

    def ask(self, command: str, **arguments: Any) -> Any:
        self.asked.append(command)
        if command not in self.answers:
            raise AgentRefused(command=command, reason="it is disabled")
        answer = self.answers[command]
        return answer() if callable(answer) else answer

    def memory_arrives(self) -> bool:
        return time.monotonic() < self.resident_at

    def replace_cards(self) -> None:
        self.replaced += 1
        if self.after is not None:
            self.answers["guest-network-get-interfaces"] = self.after


class StuckGuest(FakeGuest):
    """Keeps its cards."""

    def replace_cards(self) -> None:
        raise CardsKept(reason="it is busy")


def ended(code: int, said: str = "") -> dict[str, Any]:
    return {"exited": True, "exitcode": code, "err-data": base64.b64encode(said.encode()).decode()}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_CONNECT_S", "_SCRIPT_TIMEOUT_S", "_SETTLE_S", "_LEASE_S"):
        monkeypatch.setattr(personal, name, 0.2)


THERE = interfaces(MAC, ADDRESS)
NOT_THERE = interfaces(MAC, "192.168.111.9")


def test_all_is_set() -> None:
    guest = FakeGuest(guest_exec={"pid": 1}, guest_exec_status=ended(0), guest_network_get_interfaces=THERE)
    assert personalise(guest, cards(), has_agent=True) == Personal(True, True)
    assert guest.replaced == 0


def test_an_address_may_come_a_little_later() -> None:
    begun = time.monotonic()

    def told() -> Any:
        return THERE if time.monotonic() - begun > 0.15 else NOT_THERE

    guest = FakeGuest(guest_exec={"pid": 1}, guest_exec_status=ended(0), guest_network_get_interfaces=told)
    assert personalise(guest, cards(), has_agent=True) == Personal(True, True)
    assert guest.replaced == 0


def test_success_is_not_believed() -> None:
    guest = FakeGuest(guest_exec={"pid": 1}, guest_exec_status=ended(0), guest_network_get_interfaces=NOT_THERE)
    result = personalise(guest, cards(), has_agent=True)
    assert (result.clock, result.address, guest.replaced) == (True, False, 1)
    assert result.reason.endswith(f"its network cards were replaced; the guest still has not {ADDRESS}")


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"guest_exec_status": ended(2, "no such card")}, "status 2: no such card"),
        ({"guest_exec_status": ended(127, "no shell")}, "status 127: no shell"),
        ({"guest_exec_status": {"exited": False}}, "did not end within"),
        ({"guest_exec_status": {"exited": True, "signal": 9}}, "ended with status 3"),
        ({"guest_exec_status": "nonsense"}, "makes no sense"),
        ({"guest_exec_status": {"exited": True, "exitcode": "x"}}, "makes no sense"),
        ({"guest_exec": []}, "makes no sense"),
        ({}, "refused guest-exec-status"),
    ],
)
def test_where_the_program_fails_the_cards_are_replaced(answers: dict[str, Any], reason: str) -> None:
    known = {"guest_exec": {"pid": 1}, "guest_network_get_interfaces": NOT_THERE, **answers}
    guest = FakeGuest(after=THERE, **known)
    result = personalise(guest, cards(), has_agent=True)
    assert (result.address, guest.replaced) == (True, 1)
    assert reason in result.reason and "its network cards were replaced" in result.reason


def test_where_the_program_fails_and_the_address_is_there_nothing_is_replaced() -> None:
    guest = FakeGuest(
        guest_exec={"pid": 1},
        guest_exec_status={"exited": False},
        guest_network_get_interfaces=THERE,
        guest_get_time=time.time_ns,
    )
    result = personalise(guest, cards(), has_agent=True)
    assert (result.clock, result.address, guest.replaced) == (True, True, 0)


def test_an_agent_that_runs_no_programs_sets_the_clock() -> None:
    guest = FakeGuest(after=THERE, guest_set_time={}, guest_network_get_interfaces=interfaces(OLD, "192.168.111.9"))
    result = personalise(guest, cards(), has_agent=True)
    assert (result.clock, result.address) == (True, True)
    assert result.reason == ("The guest agent refused guest-exec: it is disabled; its network cards were replaced")
    assert guest.asked[:2] == ["guest-exec", "guest-set-time"]


@pytest.mark.parametrize(("answer", "is_right"), [(time.time_ns, True), (5, False), ("soon", False), (None, False)])
def test_a_clock_that_was_set_without_a_hardware_clock(answer: Callable[[], int] | Any, is_right: bool) -> None:
    """guest-set-time ends with an error then."""
    guest = FakeGuest(guest_network_get_interfaces=THERE, guest_get_time=answer)
    assert personalise(guest, cards(), has_agent=True).clock is is_right


def test_an_agent_that_does_not_tell_addresses() -> None:
    guest = FakeGuest(guest_exec={"pid": 1}, guest_exec_status=ended(0))
    assert personalise(guest, cards(), has_agent=True) == Personal(True, True), "the script has looked"
    for handed_out, address in ((True, None), (False, False)):
        result = personalise(FakeGuest(), cards(handed_out=handed_out), has_agent=True)
        assert result.address is address
        assert "does not tell its addresses" in result.reason


@pytest.mark.parametrize("told", [None, 5, "x", [1], [{"ip-addresses": 3}], [{"ip-addresses": [{"ip-address": 4}]}]])
def test_an_agent_may_tell_anything(told: Any) -> None:
    guest = FakeGuest(guest_exec={"pid": 1}, guest_exec_status=ended(0), guest_network_get_interfaces=lambda: told)
    result = personalise(guest, cards(), has_agent=True)
    assert result.address is False
    assert f"still has not {MAC}, {ADDRESS}" in result.reason


def test_an_agent_that_does_not_answer_is_not_asked_much() -> None:
    def silent() -> None:
        raise AgentSilent(reason="no answer in time")

    guest = FakeGuest(guest_exec=silent, guest_network_get_interfaces=silent, guest_set_time={})
    result = personalise(guest, cards(), has_agent=True)
    assert (result.clock, result.address, guest.replaced) == (False, None, 1)
    assert guest.asked[-2:] == ["guest-network-get-interfaces", "guest-network-get-interfaces"]
    assert set(guest.asked[:-2]) == {"guest-exec"}
    assert "The guest agent does not answer: no answer in time" in result.reason


def test_an_agent_is_connected_a_little_after_the_guest_runs() -> None:
    begun = time.monotonic()

    def connected() -> dict[str, int]:
        if time.monotonic() - begun < 0.15:
            raise AgentSilent(reason="QEMU guest agent is not connected")
        return {"pid": 1}

    guest = FakeGuest(guest_exec=connected, guest_exec_status=ended(0), guest_network_get_interfaces=THERE)
    assert personalise(guest, cards(), has_agent=True) == Personal(True, True)
    assert guest.replaced == 0


def test_a_guest_whose_memory_arrives_is_waited_for() -> None:
    """Its agent, its script and its lease all take longer than they may otherwise."""
    resident_at = time.monotonic() + 1.0

    def late(answer: Any, after_s: float) -> Callable[[], Any]:
        def told() -> Any:
            if time.monotonic() > resident_at + after_s:
                return answer
            if answer == {"pid": 1}:
                raise AgentSilent(reason="no answer in time")
            return {"exited": False}

        return told

    guest = FakeGuest(
        guest_exec=late({"pid": 1}, -0.6), guest_exec_status=late(ended(0), 0.1), guest_network_get_interfaces=THERE
    )
    guest.resident_at = resident_at
    assert personalise(guest, cards(), has_agent=True) == Personal(True, True)
    assert guest.replaced == 0

    started = {"guest_exec": {"pid": 1}, "guest_exec_status": ended(2)}
    guest = FakeGuest(guest_network_get_interfaces=lambda: NOT_THERE if guest.memory_arrives() else THERE, **started)
    guest.resident_at = time.monotonic() + 1.0
    result = personalise(guest, cards(), has_agent=True)
    assert (result.address, guest.replaced) == (True, 1), "its cards are replaced before its memory is here"


@pytest.mark.parametrize("obeys", [True, False])
def test_a_clock_that_was_set_late_is_set_again(*, obeys: bool) -> None:
    """The script sets the time at which it was asked for, when the guest comes to it."""
    late_ns = [9_000_000_000]

    def set_time() -> None:
        if obeys:
            late_ns[0] = 0

    guest = FakeGuest(
        guest_exec={"pid": 1},
        guest_exec_status=ended(0),
        guest_network_get_interfaces=THERE,
        guest_get_time=lambda: time.time_ns() - late_ns[0],
        guest_set_time=set_time,
    )
    if not obeys:
        del guest.answers["guest-set-time"]
    result = personalise(guest, cards(), has_agent=True)
    assert result.clock is obeys
    assert result.reason == ("" if obeys else "its clock was set late, and could not be set again")
    assert "guest-set-time" in guest.asked


def test_no_agent() -> None:
    guest = FakeGuest()
    result = personalise(guest, cards(), has_agent=False)
    assert (result.clock, result.address, guest.asked, guest.replaced) == (False, None, [], 1)
    result = personalise(FakeGuest(), cards(handed_out=False), has_agent=False)
    assert result.address is False
    assert f"does not learn its address {ADDRESS}, which is in a subnet without DHCP" in result.reason


@pytest.mark.parametrize("has_agent", [True, False])
def test_cards_that_cannot_be_replaced(*, has_agent: bool) -> None:
    result = personalise(StuckGuest(), cards(), has_agent=has_agent)
    assert result.address is False
    assert "could not be replaced: it is busy" in result.reason


def test_a_server_without_cards() -> None:
    guest = FakeGuest(guest_exec={"pid": 1}, guest_exec_status=ended(0), guest_network_get_interfaces=[])
    assert personalise(guest, [], has_agent=True) == Personal(True, True)


def test_ports_that_make_no_sense() -> None:
    for address in ({"address": "here", "handed_out": True}, {"address": f"{ADDRESS}/24"}, 5):
        with pytest.raises(errors.BadJob, match="ports"):
            network_cards.of_job([OLD], [MAC], [{**PORT, "addresses": [address]}])
