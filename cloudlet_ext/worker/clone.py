# SPDX-License-Identifier: Apache-2.0
"""A resumed guest is a clone of the one that was captured: give it what is its own.

The VM generation id is a device's and changes with the process. The network address and the clock are the guest's, and
its agent sets them; without an agent they stay those of the captured guest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from cloudlet_ext.hypervisor import user_network
from cloudlet_ext.hypervisor.agent import GuestAgent
from cloudlet_ext.hypervisor.device_state import DeviceState
from cloudlet_ext.hypervisor.errors import AgentRefused, HypervisorError
from cloudlet_ext.worker.server import Server

_CLOCK_FAILED, _ADDRESS_FAILED = 1, 2
_SET_OWN = """
failed=0
now={now:.3f}
mine=$({read_clock})
case $mine in
    *[!0-9]*) ;;
    ??????????????????*)
        mine=$((mine + {ahead_ns}))
        now=$((mine / 1000000000)).$(printf %09d $((mine % 1000000000)))
        ;;
esac
date -u -s @$now >/dev/null || failed=1
for device in /sys/class/net/*; do
    read -r address <"$device/address"
    if [ "$address" = {old} ]; then
        ip link set dev "${{device##*/}}" address {new} && exit $failed
    fi
done
exit $((failed + 2))
"""
"""Clock and address in one go. The clock is set by how far it is behind, not to a time that is old when a busy guest
comes to it (measured on a busy host: up to 3 s). The agent's own ``guest-set-time`` runs hwclock, which waits for a
full second of the guest's hardware clock, busily: 0.8 s of a core under emulation."""

_READ_CLOCK, _UNKNOWN = "date +%s%N", "echo unknown"
_AGENT_TIMEOUT_S = 10.0
_PERSONALISE_TIMEOUT_S = 20.0
"""A busy host lets its guests wait for their turn."""


@dataclass(frozen=True)
class CloneResult:
    """What was set, and why the rest was not (empty when all was)."""

    clock: bool
    address: bool
    reason: str = ""


def own_state(server: Server, state: DeviceState) -> DeviceState:
    """The captured device state, with the address of ``server`` where the guest's is known outside the guest."""
    if server.record.mac == server.machine.mac:
        return state
    devices = user_network.move_lease(state.devices, server.machine.mac, server.record.mac)
    return replace(state, devices=devices)


def has_agent(server: Server) -> bool:
    """Whether an agent answers in the guest, now.

    QEMU knows whether the guest has opened the port: only one that has is given time to answer.
    """
    try:
        ports = server.monitor.execute("query-chardev")
        if not any(port["label"] == "agent" and port["frontend-open"] for port in ports):
            return False
        GuestAgent(server.agent_path, _AGENT_TIMEOUT_S).close()
    except HypervisorError:
        return False
    return True


def personalise(server: Server, timeout_s: float = _PERSONALISE_TIMEOUT_S) -> CloneResult:
    """Set clock and network address in the guest of ``server``; never fails, tells what could not be done."""
    if not server.machine.agent:
        return CloneResult(False, False, "the captured guest ran no guest agent")
    try:
        with GuestAgent(server.agent_path, timeout_s) as agent:
            script = _script(agent, timeout_s, server.machine.mac, server.record.mac)
            try:
                status = agent.run(["/bin/sh", "-c", script], timeout_s).status
            except AgentRefused as refusal:  # an agent that may not run programs
                agent.execute("guest-set-time", time=time.time_ns())
                return CloneResult(True, False, str(refusal))
    except HypervisorError as failure:
        return CloneResult(False, False, str(failure))
    clock, address = not status & _CLOCK_FAILED, not status & _ADDRESS_FAILED
    if status & ~(_CLOCK_FAILED | _ADDRESS_FAILED):
        clock = address = False
    reason = "" if clock and address else f"setting clock and address ended with status {status}"
    return CloneResult(clock, address, reason)


def _script(agent: GuestAgent, timeout_s: float, old: str, new: str) -> str:
    """What sets the clock, and the address ``new`` for ``old``, when it comes to run."""
    asked_ns = time.time_ns()
    try:
        theirs_ns = agent.execute("guest-get-time", timeout_s)
    except AgentRefused:
        theirs_ns = None
    now_ns = time.time_ns()
    # It looked at its clock between the question and the answer.
    is_known = isinstance(theirs_ns, int)
    ahead_ns = (asked_ns + now_ns) // 2 - theirs_ns if is_known else 0
    read_clock = _READ_CLOCK if is_known else _UNKNOWN
    return _SET_OWN.format(now=now_ns / 1e9, read_clock=read_clock, ahead_ns=ahead_ns, old=old, new=new)
