# SPDX-License-Identifier: Apache-2.0
"""A guest that was resumed is a clone: it gets the network addresses that Nova reports for its server, and the clock.

The guest agent sets both and tells whether they are there. Without an agent, or where the agent may not run a program
or was not successful, every network card is taken out and put in again: the guest's kernel then meets a card with the
right MAC, and whatever configures its network asks for a lease.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from cloudlet_ext.hypervisor.errors import AgentRefused, AgentSilent, HypervisorError
from cloudlet_ext.job import cards as network_cards
from cloudlet_ext.job import guest_script
from cloudlet_ext.job.cards import Card
from cloudlet_ext.job.patience import Patience

_CONNECT_S = 5.0
_SCRIPT_TIMEOUT_S = 45.0
_SETTLE_S = 5.0
_LEASE_S = 20.0
"""What a guest may take to configure a card that it has just met, by DHCP."""
_POLL_S = 0.1
_CLOCK_OFF_NS = 2_000_000_000
_REPLACED = "its network cards were replaced"


class Guest(Protocol):
    """A guest that runs, as far as it is needed here."""

    def ask(self, command: str, **arguments: Any) -> Any:
        """The guest agent's answer; :class:`HypervisorError` when it refuses or says nothing."""
        ...

    def memory_arrives(self) -> bool:
        """Whether it may have to wait for memory that is on its way; :class:`HypervisorError`."""
        ...

    def replace_cards(self) -> None:
        """Take every network card out and put it in again; :class:`HypervisorError`."""
        ...


@dataclass(frozen=True)
class Personal:
    """What was set, and why the rest was not (empty when all was). ``address``: None where nobody can look."""

    clock: bool
    address: bool | None
    reason: str = ""


def personalise(guest: Guest, cards: list[Card], *, has_agent: bool) -> Personal:
    """Set clock and addresses; never fails, tells what could not be done."""
    if not has_agent:
        return _without_agent(guest, cards)
    clock, was_set, reason = _run_script(guest, cards)
    if clock and not _keeps_time(guest):
        clock, reason = False, _told(reason, "its clock was set late, and could not be set again")
    missing = _missing(guest, cards, lambda: False, _SETTLE_S)
    if missing == [] or (missing is None and was_set):
        return Personal(clock, True, reason)
    replaced = _replace(guest)
    missing = _missing(guest, cards, guest.memory_arrives, _LEASE_S if replaced == _REPLACED else 0.0)
    said = _told(reason, replaced)
    if missing == []:
        return Personal(clock, True, said)
    if missing is None:
        return Personal(clock, _guess(cards, replaced), f"{said}; the guest does not tell its addresses")
    return Personal(clock, False, f"{said}; the guest still has not {', '.join(missing)}")


def _told(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _without_agent(guest: Guest, cards: list[Card]) -> Personal:
    replaced = _replace(guest)
    address = _guess(cards, replaced)
    said = f"the captured guest ran no guest agent: {replaced}, its clock was not set"
    fixed = [str(one.interface.ip) for card in cards for one in card.fixed]
    if fixed:
        said += f"; it does not learn its address {', '.join(fixed)}, which is in a subnet without DHCP"
    return Personal(False, address, said)


def _guess(cards: list[Card], replaced: str) -> bool | None:
    """Whether a guest that nobody can look into has its addresses: it may, if it only has to ask for them."""
    return None if replaced == _REPLACED and not any(card.fixed for card in cards) else False


def _replace(guest: Guest) -> str:
    """Replace its cards; what to tell of it."""
    try:
        guest.replace_cards()
    except HypervisorError as failure:
        return str(failure).rstrip(".")
    return _REPLACED


def _run_script(guest: Guest, cards: list[Card]) -> tuple[bool, bool, str]:
    """Clock and addresses by a program in the guest: whether each was set, and why not."""
    try:
        started = _start_script(guest, cards)
    except AgentRefused as refusal:
        return _set_clock(guest), False, str(refusal).rstrip(".")
    except HypervisorError as failure:
        return False, False, str(failure).rstrip(".")
    try:
        patience = Patience(guest.memory_arrives, _SCRIPT_TIMEOUT_S)
        while not (status := guest.ask("guest-exec-status", pid=started["pid"]))["exited"]:
            if patience.is_over():
                late = f"setting clock and address did not end within {_SCRIPT_TIMEOUT_S:.0f} s"
                return _has_clock(guest), False, late
            time.sleep(_POLL_S)
        code = int(status.get("exitcode", guest_script.CLOCK_FAILED | guest_script.ADDRESS_FAILED))
        said = base64.b64decode(status.get("err-data", "")).decode(errors="replace").strip()
    except HypervisorError as failure:
        return False, False, str(failure).rstrip(".")
    except (AttributeError, KeyError, TypeError, ValueError) as failure:
        return False, False, f"the guest agent's answer makes no sense: {failure!r}"
    if code & ~(guest_script.CLOCK_FAILED | guest_script.ADDRESS_FAILED):
        return _has_clock(guest), False, f"setting clock and address ended with status {code}: {said[-200:]}"
    reason = f"setting clock and address ended with status {code}: {said[-200:]}" if code else ""
    return not code & guest_script.CLOCK_FAILED, not code & guest_script.ADDRESS_FAILED, reason


def _start_script(guest: Guest, cards: list[Card]) -> Any:
    """The agent's answer. libvirt says that the agent is not connected until the guest has run for a moment."""
    patience = Patience(guest.memory_arrives, _CONNECT_S)
    while True:
        path, *arguments = guest_script.command(time.time(), cards)
        try:
            return guest.ask("guest-exec", path=path, arg=arguments, **{"capture-output": True})
        except AgentSilent:
            if patience.is_over():
                raise
            time.sleep(_POLL_S)


def _set_clock(guest: Guest) -> bool:
    """Set the clock where no program may be run; a guest without hwclock refuses although it has set it."""
    try:
        guest.ask("guest-set-time", time=time.time_ns())
    except HypervisorError:
        return _has_clock(guest)
    return True


def _keeps_time(guest: Guest) -> bool:
    """Whether a clock that the script has set is right: a guest that waits for memory sets it long after it was told.

    It is set again, then. A guest that does not tell its time is believed.
    """
    try:
        return _is_now(guest.ask("guest-get-time")) or _set_clock(guest)
    except HypervisorError:
        return True


def _has_clock(guest: Guest) -> bool:
    try:
        return _is_now(guest.ask("guest-get-time"))
    except HypervisorError:
        return False


def _is_now(theirs: Any) -> bool:
    return isinstance(theirs, int) and abs(theirs - time.time_ns()) < _CLOCK_OFF_NS


def _missing(guest: Guest, cards: list[Card], memory_arrives: Callable[[], bool], within_s: float) -> list[str] | None:
    """What the guest has not of its cards' addresses, when they are there or time is up; None when it does not tell."""
    try:
        patience = Patience(memory_arrives, within_s)
        while missing := network_cards.missing(cards, guest.ask("guest-network-get-interfaces")):
            if patience.is_over():
                break
            time.sleep(_POLL_S)
    except HypervisorError:
        return None
    return missing
