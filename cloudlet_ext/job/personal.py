# SPDX-License-Identifier: Apache-2.0
"""A guest that was resumed in a domain is a clone: it gets the domain's network addresses, and the clock.

The guest agent sets both. Without an agent every network card is taken out and put in again: the guest's kernel then
meets a card with the right address, and whatever configures its network asks for a lease.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass

import libvirt

from cloudlet_ext.hypervisor import domain_xml
from cloudlet_ext.hypervisor.domain_xml import DomainMachine
from cloudlet_ext.hypervisor.errors import HypervisorError
from cloudlet_ext.job.guest import DomainGuest

_TIMEOUT_S = 10
_UNPLUG_TIMEOUT_S = 20.0
_SET_OWN = """
failed=0
date -u -s @{now:.3f} >/dev/null || failed=1
set -- {pairs}
while [ $# -gt 1 ]; do
    found=
    for device in /sys/class/net/*; do
        read -r address <"$device/address"
        [ "$address" = "$1" ] || continue
        found=${{device##*/}}
        ip link set dev "$found" down
        ip link set dev "$found" address "$2" || found=
        ip addr flush dev "$found" scope global
        ip link set dev "$found" up
        break
    done
    if [ -z "$found" ]; then
        failed=$((failed | 2))
    elif command -v networkctl >/dev/null && networkctl status "$found" >/dev/null 2>&1; then
        networkctl renew "$found" || networkctl reconfigure "$found"
    elif command -v ifup >/dev/null && ifquery "$found" >/dev/null 2>&1; then
        ifdown --force "$found" >/dev/null 2>&1
        ifup "$found" >/dev/null 2>&1 &
    elif command -v dhclient >/dev/null; then
        dhclient -r "$found" >/dev/null 2>&1
        dhclient -nw "$found" >/dev/null 2>&1
    elif command -v udhcpc >/dev/null; then
        udhcpc -i "$found" -n -q >/dev/null 2>&1 &
    fi
    shift 2
done
exit $failed
"""


@dataclass(frozen=True)
class Personal:
    """What was set, and why the rest was not (empty when all was)."""

    clock: bool
    address: bool
    reason: str = ""


def personalise(guest: DomainGuest, machine: DomainMachine, macs: list[str]) -> Personal:
    """Set clock and addresses (``macs``, in the order of the cards); never fails, tells what could not be done."""
    pairs = list(zip(machine.macs, macs, strict=False))
    if machine.agent:
        try:
            return _by_agent(guest, pairs)
        except HypervisorError as failure:
            reason = str(failure)
    else:
        reason = "the captured guest ran no guest agent"
    try:
        _replug(guest)
    except (libvirt.libvirtError, TimeoutError) as failure:
        return Personal(False, False, f"{reason}; its network cards could not be replaced: {failure}")
    return Personal(False, True, f"{reason}: its network cards were replaced, its clock was not set")


def _by_agent(guest: DomainGuest, pairs: list[tuple[str, str]]) -> Personal:
    script = _SET_OWN.format(now=time.time(), pairs=" ".join(f"{old} {new}" for old, new in pairs))
    started = guest.monitor.agent(
        "guest-exec", _TIMEOUT_S, path="/bin/sh", arg=["-c", script], **{"capture-output": True}
    )
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        status = guest.monitor.agent("guest-exec-status", _TIMEOUT_S, pid=started["pid"])
        if status["exited"]:
            break
        if time.monotonic() > deadline:
            return Personal(False, False, f"setting clock and address did not end within {_TIMEOUT_S} s")
        time.sleep(0.05)
    code = int(status.get("exitcode", 4))
    said = base64.b64decode(status.get("err-data", "")).decode(errors="replace").strip()
    reason = "" if not code else f"setting clock and address ended with status {code}: {said[-200:]}"
    return Personal(not code & 1, not code & 2, reason)


def _replug(guest: DomainGuest) -> None:
    for card in domain_xml.interfaces(guest.description):
        mac = domain_xml.mac_of(card)
        guest.handle.detachDeviceFlags(card, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        deadline = time.monotonic() + _UNPLUG_TIMEOUT_S
        while any(domain_xml.mac_of(one) == mac for one in domain_xml.interfaces(guest.description)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the guest did not give up the card {mac} within {_UNPLUG_TIMEOUT_S:.0f} s")
            time.sleep(0.05)
        guest.handle.attachDeviceFlags(domain_xml.without_address(card), libvirt.VIR_DOMAIN_AFFECT_LIVE)
