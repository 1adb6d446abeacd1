# SPDX-License-Identifier: Apache-2.0
"""Jobs synthesis and base-resume: a domain that nova-compute is about to start gets a captured state.

The conversation: this process says ``ready`` with what the domain's description must have; nova-compute defines and
starts the domain, which waits for a state, and says so; this process loads the state and says ``running``. After an
early start it goes on feeding the guest; ``done`` is told when all is there.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloudlet_ext.api.sources import GlanceSource, SourceRules
from cloudlet_ext.engine import signature
from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.container import HeaderCheck
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.header import Header
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.engine.qcow2 import Qcow2Image
from cloudlet_ext.engine.qcow2_writer import Qcow2Writer
from cloudlet_ext.engine.source import Source, open_source
from cloudlet_ext.hypervisor import domain, domain_xml, host_cpu, userfault
from cloudlet_ext.hypervisor.device_state import DeviceState
from cloudlet_ext.hypervisor.domain_xml import MAPPED_RAM, DomainMachine
from cloudlet_ext.hypervisor.errors import HypervisorError
from cloudlet_ext.hypervisor.machine import RAM_ID
from cloudlet_ext.hypervisor.resume import PageRun, connect, resume
from cloudlet_ext.job import cards, errors, personal, sources
from cloudlet_ext.job.arriving_layer import ArrivingLayer
from cloudlet_ext.job.base_cache import BaseCache, fetch_images
from cloudlet_ext.job.channel import Channel
from cloudlet_ext.job.domain_host import DomainHost
from cloudlet_ext.job.guest import DomainGuest, connection, scratch_folder, shared_folder
from cloudlet_ext.job.images import Images
from cloudlet_ext.worker import early_start, layer, pages, placement
from cloudlet_ext.worker.arrival import Arrival
from cloudlet_ext.worker.report import Report
from cloudlet_ext.worker.starting import EARLY, INCOMING_SOCKET, MAPPED
from cloudlet_ext.worker.synthesis import prepare

_LOAD_TIMEOUT_S = 60.0
_POLL_S = 0.02
_NAMES = {RAM_ID: MAPPED_RAM}


@dataclass
class _Place:
    """Where the guest is to be: the job, the base, folders, libvirt."""

    job: dict[str, Any]
    channel: Channel
    report: Report
    base: Base
    scratch: Path
    folder: Path
    libvirt: Any
    machine: DomainMachine
    """The captured guest's."""
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def disk(self) -> Path:
        """The image that nova-compute has made of the base's disk for this server."""
        return Path(self.job["disk"])

    def await_domain(self, kind: str, view: domain_xml.DiskView | None) -> DomainGuest:
        """Tell nova-compute what the domain must be, and wait for it to wait for a state."""
        mapped = self.base.memory_path if kind == MAPPED else None
        xml = domain_xml.likeness(self.job["xml"], self.machine, mapped, view)
        self.channel.event("ready", xml=xml, placement=kind)
        self.channel.wait_control("started", self.job["start_timeout_s"])
        handle = domain.find(self.libvirt, self.job["server"])
        guest = DomainGuest(handle, domain.DomainMonitor(handle), domain.DomainProcess(handle, self.folder))
        self.stack.callback(guest.monitor.close)
        found = domain_xml.describe(guest.description)
        self.machine.require_same(found, "This host builds another machine than the base's")
        return guest


def run_synthesis(job: dict[str, Any], channel: Channel, report: Report) -> dict[str, Any]:
    """Base and overlay become the domain's state."""
    images = Images.of_job(job)
    report.stage("manifest")
    with contextlib.ExitStack() as stack:
        source = _open(job, images)
        stack.callback(source.close)
        overlay = OverlayFile.open(source, _signature_check(job))
        _check(job, overlay)
        place = stack.enter_context(_place(job, channel, report, images))
        machine = DomainMachine.from_dict(overlay.machine)
        place.machine.require_same(machine, "The overlay does not fit its base")
        # The base's memory has the ROMs of its own cards; what else a captured guest has QEMU loads by itself.
        place.machine = machine.with_roms_of(place.machine)
        chosen = placement.choose(
            job.get("placement", "auto"),
            False,
            overlay.chunk_segments,
            local=isinstance(source, FileSource),
            rate_bytes_per_s=source.rate_bytes_per_s,
            obstacle=userfault.obstacle(*domain.qemu_ids(place.libvirt)),
        )
        report.note(f"placement: {chosen.kind} ({chosen.reason})")
        bring_up = _early if chosen.kind == EARLY else _mapped
        facts = bring_up(place, overlay, source)
        return {**facts, "placement": chosen.kind, "reason": chosen.reason, "overlay_bytes": overlay.file_bytes}


def run_resume(job: dict[str, Any], channel: Channel, report: Report) -> dict[str, Any]:
    """The base's own state becomes the domain's."""
    with _place(job, channel, report, Images.of_job(job)) as place:
        report.stage("start")
        guest = place.await_domain(MAPPED, None)
        report.stage("load")
        state = DeviceState.decode(place.base.load_device())
        _load(place, guest, state, pages.renamed(pages.rom_pages(place.base), _NAMES))
        channel.event("running")
        told = _personalise(place, guest)
        return {"placement": MAPPED, "reason": "the base as it is", **told}


@contextlib.contextmanager
def _place(job: dict[str, Any], channel: Channel, report: Report, images: Images) -> Any:
    fetch, cache = fetch_images(images, job["base_image"], job["base_memory_image"], report), BaseCache.of_job(job)
    with (
        scratch_folder(job) as scratch,
        cache.using(job["base_id"], fetch, report) as base,
        connection(job) as connected,
        shared_folder(job, connected) as folder,
        contextlib.ExitStack() as stack,
    ):
        cache.admit(base, domain.qemu_user(connected))
        machine = DomainMachine.from_dict(base.machine)
        place = _Place(job, channel, report, base, scratch, folder, connected, machine, stack)
        host_cpu.require(connected, place.machine, domain_xml.parse(job["xml"]).get("type", "kvm"))
        yield place


def _open(job: dict[str, Any], images: Images) -> Source:
    known = SourceRules(job["overlay_sources"], job["allowed_networks"]).parse(str(job["overlay"]))
    if isinstance(known, GlanceSource):
        return open_source(images.url(known.image_id), images.policy())
    return open_source(known.url, sources.policy(job))


def _signature_check(job: dict[str, Any]) -> HeaderCheck | None:
    """Where signatures are required, they are looked at before anything else."""
    if not job.get("require_signature"):
        return None
    if not job.get("keyring"):
        raise errors.KeyringMissing()
    keyring = Path(job["keyring"])

    def check(header: Header, path: str) -> None:
        signature.verify_header(header, path, keyring)

    return check


def _check(job: dict[str, Any], overlay: OverlayFile) -> None:
    if overlay.base_id != job["base_id"]:
        raise errors.BaseMismatch(
            what="The overlay", found=(overlay.base_id or "none")[:12], expected=job["base_id"][:12]
        )
    limit = job.get("max_overlay_bytes")
    if limit and overlay.file_bytes > limit:
        raise errors.OverlayTooLarge(found=overlay.file_bytes, limit=limit)


def _arrival(place: _Place, overlay: OverlayFile) -> Arrival:
    """What arrives; the guest is known later, when nova-compute has started its domain."""
    # Nothing asks for the guest before it is there.
    run = prepare(place.scratch, place.report, overlay, place.base, NoGuest(), lambda state: state)
    place.stack.callback(run.store.close)
    return run


class NoGuest:
    """Stands for the guest until its domain is there."""

    @property
    def monitor(self) -> Any:
        """None."""
        raise AssertionError("there is no domain yet")

    @property
    def process(self) -> Any:
        """None."""
        raise AssertionError("there is no domain yet")


def _mapped(place: _Place, overlay: OverlayFile, source: Source) -> dict[str, Any]:
    run = _arrival(place, overlay)
    place.report.stage("fetch")
    with run.fetcher(source) as fetcher:
        run.wait_all(fetcher)
    place.report.stage("start")
    _write_disk(place, lambda writer: layer.write_changes(run.view, place.base, writer))
    guest = run.guest = place.await_domain(MAPPED, None)
    place.report.stage("load")
    _load(place, guest, run.state, pages.renamed(pages.differing_pages(run.view, place.base.layout), _NAMES))
    place.channel.event("running")
    return {"running_s": place.report.elapsed_s, **_personalise(place, guest)}


def _early(place: _Place, overlay: OverlayFile, source: Source) -> dict[str, Any]:
    run = _arrival(place, overlay)
    shown = ArrivingLayer(place.folder, place.scratch, run.view.table, place.base.layout)
    place.stack.callback(shown.close)

    def start() -> DomainGuest:
        with Qcow2Image.open(place.disk) as image:
            below = (image.backing_path or "", image.backing_format or "raw")
        guest = place.await_domain(EARLY, shown.view(*below))
        run.guest = guest
        guest.monitor.execute("migrate-set-capabilities", capabilities=early_start.POSTCOPY)
        return guest

    host = DomainHost(place.channel, shown, start, lambda guest: _personalise(place, guest))
    answered = early_start.bring_up(run, source, host, None)
    return {
        "running_s": run.running_s,
        "resident_s": answered.resident_s,
        "pages_requested": run.pages_requested,
        "stalls": run.stalls,
        **host.told,
    }


def _write_disk(place: _Place, write: Callable[[Qcow2Writer], None]) -> None:
    """Put what differs from the base's disk into the server's own image, which nobody has open yet."""
    with Qcow2Image.open(place.disk) as image:
        backing, backing_format, size = image.backing_path, image.backing_format, image.virtual_bytes
    made = place.disk.with_name(f"{place.disk.name}.cloudlet")
    made.unlink(missing_ok=True)
    owner = place.disk.stat()
    try:
        with Qcow2Writer.create(made, size, backing, backing_format or "raw", fill=place.base) as writer:
            write(writer)
        made.chmod(owner.st_mode & 0o777)
        with contextlib.suppress(PermissionError):
            os.chown(made, owner.st_uid, owner.st_gid)
        made.rename(place.disk)
    finally:
        made.unlink(missing_ok=True)


def _load(place: _Place, guest: DomainGuest, state: DeviceState, changes: Any) -> None:
    process = guest.process
    guest.monitor.execute("migrate-incoming", uri=process.address(INCOMING_SOCKET))
    try:
        with connect(process.directory / INCOMING_SOCKET) as stream:
            resume(stream, pages.ram_blocks(place.base.layout, _NAMES), state, changes)
        guest.monitor.wait_status({"running", "paused"}, _LOAD_TIMEOUT_S)
    except HypervisorError as failure:
        if process.ended():
            raise process.died("its state was loaded") from failure
        raise


def _await_running(guest: DomainGuest, timeout_s: float) -> str:
    """Wait until nova-compute lets it run: a guest that stands still gives up no network card.

    libvirt would wait for the card for five seconds, and hold up all else. Answers why it does not run; else nothing.
    """
    deadline = time.monotonic() + timeout_s
    while not guest.runs():
        if guest.was_powered_off():
            return "the guest was powered off before it ran"
        if guest.process.ended(0.0):
            raise guest.process.died("it was about to run")
        if time.monotonic() > deadline:
            return f"the guest was not let run within {timeout_s:.0f} s"
        time.sleep(_POLL_S)
    return ""


def _personalise(place: _Place, guest: DomainGuest) -> dict[str, Any]:
    place.report.stage("personalise")
    reason = _await_running(guest, place.job["run_timeout_s"])
    if reason:
        result = personal.Personal(False, False, reason)
    else:
        own = cards.of_job(place.machine.macs, place.job["macs"], place.job["ports"])
        result = personal.personalise(guest, own, has_agent=place.machine.agent)
    if result.address is False and not reason:
        place.report.trouble(f"the guest may not answer at its address: {result.reason}")
    else:
        place.report.note(result.reason or "clock and addresses were set")
    return {"personal": {"clock": result.clock, "address": result.address, "reason": result.reason}}


__all__ = ["PageRun", "run_resume", "run_synthesis"]
