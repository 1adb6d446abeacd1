# SPDX-License-Identifier: Apache-2.0
"""Working set: an overlay is synthesised once in a scratch domain, to see what it needs until it answers."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import libvirt

from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.fetch import Fetcher
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.overlay_writer import OverlaySummary, reorder_overlay
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer
from cloudlet_ext.engine.view import TargetView
from cloudlet_ext.hypervisor import access, domain, domain_cards, domain_xml, scratch_domain, userfault
from cloudlet_ext.hypervisor.domain import DomainMonitor, DomainProcess
from cloudlet_ext.hypervisor.domain_console import DomainConsole
from cloudlet_ext.hypervisor.domain_xml import DomainMachine
from cloudlet_ext.hypervisor.scratch_domain import ScratchDomain
from cloudlet_ext.job import cards, errors, guest_probe, personal
from cloudlet_ext.job.arriving_layer import ArrivingLayer
from cloudlet_ext.job.base_cache import BaseCache
from cloudlet_ext.job.cards import Card
from cloudlet_ext.job.guest import DomainGuest, connection, shared_folder
from cloudlet_ext.job.neighbours import MetGuest, Neighbours
from cloudlet_ext.job.scratch import Network
from cloudlet_ext.job.scratch import network as scratch_network
from cloudlet_ext.job.scratch import prepare as prepare_network
from cloudlet_ext.job.synthesis import NoGuest
from cloudlet_ext.worker import early_start
from cloudlet_ext.worker.arrival import Arrival
from cloudlet_ext.worker.early_start import Feed
from cloudlet_ext.worker.recorder import Recorder
from cloudlet_ext.worker.report import Report
from cloudlet_ext.worker.server import new_mac
from cloudlet_ext.worker.synthesis import prepare

_AGAIN_S = 20.0
"""What a guest may take to answer with its cards replaced: it may have to be told its address."""


@dataclass
class _ScratchHost:
    """A scratch guest; see :class:`cloudlet_ext.worker.early_start.Host`."""

    job: dict[str, Any]
    run: Arrival
    layer: ArrivingLayer
    network: Network
    cards: list[Card]
    neighbours: Neighbours
    own: ScratchDomain
    description: str
    libvirt: libvirt.virConnect
    folder: Path
    stack: contextlib.ExitStack
    console: DomainConsole | None = None
    guest: DomainGuest = field(init=False)

    def show(self, view: TargetView, fetcher: Fetcher) -> None:
        """What the disk holds."""
        self.layer.show(view, fetcher)

    def ready(self) -> None:
        """Start the domain, and be its neighbour."""
        base = self.run.base
        machine = DomainMachine.from_dict(self.run.overlay.machine).with_roms_of(DomainMachine.from_dict(base.machine))
        view = self.layer.view(str(base.disk_path), "qcow2")
        text = scratch_domain.describe(self.description, machine, self.own, view)
        handle = self.libvirt.createXML(text, libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY)
        self.stack.callback(_destroy, handle)
        self.neighbours.meet_all()
        guest = DomainGuest(handle, DomainMonitor(handle), DomainProcess(handle, self.folder), memory_is_held=True)
        self.stack.callback(guest.monitor.close)
        self.guest = guest
        if guest_probe.is_of_console(self.job["record"]):
            self.console = DomainConsole(self.libvirt, handle)
            self.stack.callback(self.console.close)
        machine.require_same(domain_xml.describe(guest.description), "The scratch guest is another machine")
        guest.monitor.execute("migrate-set-capabilities", capabilities=early_start.POSTCOPY)
        self.run.guest = guest

    def proceed(self, ask: Callable[[str], Any]) -> None:
        """It runs."""
        ask("cont")

    def reply(self, feed: Feed) -> bytes | None:
        """Wait for its answer; then for all that a synthesis has it do, and for another answer."""
        addresses = [one for card in self.cards for one in card.addresses]
        first = str(addresses[0].interface.ip) if addresses else ""
        attempt = guest_probe.parse(self.job["record"], first, self.console)
        guest_probe.wait(attempt, self.network, feed.check, self.job["record_timeout_s"])
        machine = DomainMachine.from_dict(self.run.overlay.machine)
        met = MetGuest(self.guest, self.neighbours)
        self.run.report.note(
            personal.personalise(met, self.cards, has_agent=machine.agent).reason or "it was personalised"
        )
        try:
            self.network.forget()
            guest_probe.wait(attempt, self.network, feed.check, _AGAIN_S)
        except errors.NotRecorded as failure:
            self.run.report.note(f"with new cards it does not answer, which is not recorded: {failure}")
        return b""

    def keep_disk(self, run: Arrival) -> None:
        """It needs none: it goes."""


def require_recordable(job: dict[str, Any]) -> None:
    """Before anything is done: whether there can be a scratch guest, and its network; NotRecordable, NotPrivileged."""
    with connection(job) as connected:
        obstacle = userfault.obstacle(*domain.qemu_ids(connected))
    if obstacle is not None:
        raise errors.NotRecordable(reason=obstacle)
    prepare_network(job["privsep_helper"])


def record(
    job: dict[str, Any],
    overlay_path: Path,
    description: str,
    cache: BaseCache,
    base: Base,
    scratch: Path,
    report: Report,
) -> tuple[OverlaySummary, int]:
    """Write the overlay again with what it needed at its front; the new file's facts, and how many chunks these are.

    ``description``: of the domain that was captured. :class:`errors.NotRecorded` when the guest does not answer.
    """
    report.stage("record")
    with contextlib.closing(FileSource(str(overlay_path))) as source:
        overlay = OverlayFile.open(source)
        recorder = Recorder(overlay.layout.disk_chunks)
        run = prepare(scratch, report, overlay, base, NoGuest(), lambda state: state)
        with contextlib.closing(run.store), _scratch(job, description, cache, run, scratch, recorder) as host:
            report.stage("start")
            early_start.bring_up(run, source, host, recorder)
    order = recorder.order
    report.stage("reorder")
    with contextlib.closing(FileSource(str(overlay_path))) as source:
        overlay = OverlayFile.open(source)
        level = job.get("level", "auto")
        summary = reorder_overlay(
            overlay, base, [order], overlay_path, scratch, level=level, replace=True, progress=report.progress
        )
    return summary, len(order)


@contextlib.contextmanager
def _scratch(
    job: dict[str, Any], description: str, cache: BaseCache, run: Arrival, scratch: Path, recorder: Recorder
) -> Iterator[_ScratchHost]:
    """Whoever starts the guest to be; all of it goes with the block."""
    token, layout, disk = secrets.token_hex(4), run.base.layout, run.base.disk_path
    macs = [domain_cards.mac_of(card) for card in domain_cards.interfaces(description)]
    # As after a synthesis: the guest gets other MACs.
    known = [replace(card, mac=new_mac()) for card in cards.of_job(macs, macs, job["ports"])]
    taps = tuple(f"clr{token}{number}" for number in range(len(macs)))
    own = ScratchDomain(f"cloudlet-{token}", scratch / "scratch.qcow2", taps, tuple(card.mac for card in known))
    Qcow2Writer.create(own.disk, layout.disk_bytes, str(disk), "qcow2").close()
    with (
        connection(job) as connected,
        shared_folder(job, connected) as sockets,
        contextlib.ExitStack() as stack,
    ):
        user = domain.qemu_user(connected)
        cache.admit(run.base, user)
        # It must find its disk; and nova-compute, which looks at the disks of all domains, must be able to read it.
        for folder in (scratch.parent, scratch):
            access.grant(folder, user, access.PASS)
        access.keep(own.disk, user)
        layer = ArrivingLayer(sockets, scratch, run.view.table, layout, recorder.disk_chunks)
        stack.callback(layer.close)
        network = scratch_network()
        stack.callback(network.close)
        neighbours = Neighbours(network, taps, known)
        stack.callback(neighbours.close)
        try:
            yield _ScratchHost(job, run, layer, network, known, neighbours, own, description, connected, sockets, stack)
        except libvirt.libvirtError as failure:
            raise errors.NotRecorded(timeout_s=job["record_timeout_s"], reason=str(failure)) from failure


def _destroy(handle: libvirt.virDomain) -> None:
    with contextlib.suppress(libvirt.libvirtError):
        handle.destroy()
