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
from cloudlet_ext.hypervisor.errors import HypervisorError
from cloudlet_ext.worker.server import Server

_SET_ADDRESS = """
for device in /sys/class/net/*; do
    if [ "$(cat "$device/address")" = {old} ]; then exec ip link set dev "${{device##*/}}" address {new}; fi
done
exit 1
"""


_AGENT_TIMEOUT_S = 2.0


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


def personalise(server: Server, timeout_s: float = 5.0) -> CloneResult:
    """Set clock and network address in the guest of ``server``; never fails, tells what could not be done."""
    clock = address = False
    if not server.machine.agent:
        return CloneResult(False, False, "the captured guest ran no guest agent")
    captured_mac = server.machine.mac
    try:
        with GuestAgent(server.agent_path, timeout_s) as agent:
            agent.execute("guest-set-time", time=time.time_ns())
            clock = True
            script = _SET_ADDRESS.format(old=captured_mac, new=server.record.mac)
            done = agent.run(["/bin/sh", "-c", script], timeout_s)
            address = done.status == 0
            reason = "" if address else f"setting the address ended with status {done.status}"
    except HypervisorError as failure:
        reason = str(failure)
    return CloneResult(clock, address, reason)
