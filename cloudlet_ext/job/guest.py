# SPDX-License-Identifier: Apache-2.0
"""The guest of a job: a libvirt domain that nova-compute owns."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import libvirt

from cloudlet_ext.hypervisor import domain, domain_cards, domain_xml
from cloudlet_ext.hypervisor.domain import DomainMonitor, DomainProcess
from cloudlet_ext.hypervisor.domain_xml import DomainMachine
from cloudlet_ext.hypervisor.errors import CardsKept, HypervisorError
from cloudlet_ext.job import errors
from cloudlet_ext.job.patience import Patience

_AGENT_TIMEOUT_S = 3
_COMMAND_TIMEOUT_S = 10
_SLOW_COMMAND_TIMEOUT_S = 60
"""A command that is given up is carried out all the same, when the guest comes to it."""
_UNPLUG_TIMEOUT_S = 20.0
_PLUG_ATTEMPTS = 3
_PLUG_SETTLE_S = 0.5
_HOST_CARDS = Path("/sys/class/net")
_IFF_UP = 1
_POWERED_OFF = [
    [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED],
    [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN],
]


@dataclass(frozen=True)
class DomainGuest:
    """A running domain, its monitor, and a folder shared with its QEMU.

    ``memory_is_held``: what of its memory is not here comes only when it is asked for.
    """

    handle: libvirt.virDomain
    monitor: DomainMonitor
    process: DomainProcess
    memory_is_held: bool = False

    @property
    def description(self) -> str:
        """The description of the domain as it runs."""
        return str(self.handle.XMLDesc(0))

    def machine(self) -> DomainMachine:
        """The machine that the guest sees."""
        return replace(domain_xml.describe(self.description), agent=self.has_agent())

    def runs(self) -> bool:
        """Whether it neither stands still nor has ended."""
        try:
            return bool(self.handle.state()[0] == libvirt.VIR_DOMAIN_RUNNING)
        except libvirt.libvirtError:
            return False

    def was_powered_off(self) -> bool:
        """Whether its host, or its own system, has ended it on purpose."""
        try:
            return list(self.handle.state()) in _POWERED_OFF
        except libvirt.libvirtError:
            return False

    def has_agent(self) -> bool:
        """Whether a guest agent answers, now."""
        try:
            self.monitor.agent("guest-ping", _AGENT_TIMEOUT_S)
        except HypervisorError:
            return False
        return True

    def ask(self, command: str, **arguments: Any) -> Any:
        """The guest agent's answer; :class:`HypervisorError` when it refuses or says nothing."""
        timeout_s = _SLOW_COMMAND_TIMEOUT_S if self.memory_arrives() else _COMMAND_TIMEOUT_S
        return self.monitor.agent(command, timeout_s, **arguments)

    def memory_arrives(self) -> bool:
        """Whether memory comes that it may be waiting for, until all of it is here; :class:`HypervisorError`."""
        if self.memory_is_held:
            return False
        return bool(self.monitor.execute("query-migrate").get("status") == "postcopy-active")

    def replace_cards(self, meet: Callable[[str], None] | None = None) -> None:
        """Take every network card out and put it in again, without its boot ROM; :class:`CardsKept`.

        ``meet`` gets the name of the host's end of each new card; before it returns nothing passes there.
        """
        try:
            for card in domain_cards.interfaces(self.description):
                self._replace(card, meet)
        except libvirt.libvirtError as failure:
            raise CardsKept(reason=str(failure)) from failure

    def _replace(self, card: str, meet: Callable[[str], None] | None) -> None:
        """Again when the host's end is found down: Open vSwitch sets flags of the card that it knew by this name.

        And when the new card is gone again: a guest may give it up at once.
        """
        mac = domain_cards.mac_of(card)
        now = [card]
        for _ in range(_PLUG_ATTEMPTS):
            if now:
                card = now[0]
                self.handle.detachDeviceFlags(card, libvirt.VIR_DOMAIN_AFFECT_LIVE)
                self._await_unplugged(mac)
            self._put_in(domain_cards.card_anew(card), mac, meet)
            time.sleep(_PLUG_SETTLE_S)
            now = self._cards_of(mac)
            if now and all(_is_up(domain_cards.host_card_of(one)) for one in now):
                return
        raise CardsKept(reason=f"the host's end of {mac} stays down" if now else f"{mac} was put in and is gone again")

    def _put_in(self, card: str, mac: str, meet: Callable[[str], None] | None) -> None:
        live = libvirt.VIR_DOMAIN_AFFECT_LIVE
        if meet is None:
            self.handle.attachDeviceFlags(card, live)
            return
        self.handle.attachDeviceFlags(domain_cards.linked(card, "down"), live)
        meet(domain_cards.host_card_of(card))
        for one in self._cards_of(mac):
            self.handle.updateDeviceFlags(domain_cards.linked(one, "up"), live)

    def _cards_of(self, mac: str) -> list[str]:
        return [one for one in domain_cards.interfaces(self.description) if domain_cards.mac_of(one) == mac]

    def _await_unplugged(self, mac: str) -> None:
        """Wait. What the guest was asked to give up it may give up after that, and would have no card then."""
        patience = Patience(self.memory_arrives, _UNPLUG_TIMEOUT_S)
        while self._cards_of(mac):
            if patience.is_over():
                raise CardsKept(reason=f"the guest did not give up {mac} within {_UNPLUG_TIMEOUT_S:.0f} s")
            time.sleep(0.05)

    def disk_path(self) -> Path:
        """The file of its own disk layer."""
        return domain_xml.disk_path(self.description)


def _is_up(host_card: str) -> bool:
    """Whether the host's end of a card takes packets; one that is not the host's to see is taken to."""
    try:
        flags = (_HOST_CARDS / host_card / "flags").read_text() if host_card else "0x1"
    except OSError:
        return True
    return bool(int(flags, 16) & _IFF_UP)


@contextlib.contextmanager
def connection(job: dict[str, Any]) -> Iterator[libvirt.virConnect]:
    """libvirt, as the job says."""
    connected = domain.connect(job.get("libvirt_uri", "qemu:///system"))
    try:
        yield connected
    finally:
        with contextlib.suppress(libvirt.libvirtError):
            connected.close()


def shared_folder(job: dict[str, Any], connected: libvirt.virConnect) -> contextlib.AbstractContextManager[Path]:
    """A folder of the job's own for sockets that are shared with QEMU."""
    return domain.shared_folder(connected, Path(job["sockets"]), job["operation"])


@contextlib.contextmanager
def running_guest(job: dict[str, Any]) -> Iterator[DomainGuest]:
    """The domain that the job is about; :class:`errors.BadJob` when it does not run."""
    with (
        connection(job) as connected,
        shared_folder(job, connected) as folder,
    ):
        handle = domain.find(connected, job["server"])
        guest = DomainGuest(handle, DomainMonitor(handle), DomainProcess(handle, folder))
        try:
            if not guest.process.alive:
                raise errors.BadJob(field="server", reason="its guest does not run")
            yield guest
        finally:
            guest.monitor.close()


@contextlib.contextmanager
def scratch_folder(job: dict[str, Any]) -> Iterator[Path]:
    """A folder of the job's own, which goes with the block."""
    parent = Path(job["scratch"])
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = Path(tempfile.mkdtemp(prefix=f"{job['operation']}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
