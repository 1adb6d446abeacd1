# SPDX-License-Identifier: Apache-2.0
"""Bases, overlays and syntheses of real domains: their workers' jobs with a real libvirt and QEMU."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from cloudlet_ext.engine.base import DISK_NAME
from cloudlet_ext.engine.source import SourcePolicy
from cloudlet_ext.hypervisor import domain_cards, domain_xml
from cloudlet_ext.hypervisor.errors import CardsKept, MachineMismatch
from cloudlet_ext.job import base_create, overlay_create, synthesis
from cloudlet_ext.job.guest import DomainGuest
from cloudlet_ext.worker.report import Report
from tests.nova.real_libvirt import Domain, write_disk

FIRST, SECOND, THIRD, FOURTH = (f"52:54:00:00:00:0{number}" for number in (1, 2, 3, 4))
NO_ROM = "<rom enabled='no'/>"


class Images:
    """Stands for Glance: an image is a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of_job(self, job: dict[str, Any]) -> Images:
        return self

    def url(self, image: str) -> str:
        return str(self._folder / image)

    def policy(self) -> SourcePolicy:
        return SourcePolicy()

    def update(self, image: str, **properties: str | int) -> None:
        pass

    def upload(self, image: str, path: Path, progress: Any) -> None:
        shutil.copy(path, self._folder / image)


class Channel:
    """Stands for nova-compute: starts the domain, and lets it run."""

    def __init__(self, domain: Domain, own: dict[str, Any] | None = None) -> None:
        self._domain, self._own = domain, own or {}

    def event(self, name: str, /, **facts: Any) -> None:
        if name == "ready":
            self._domain.start(facts["xml"], paused=True)
        elif name == "running":
            self._domain.handle.resume()

    def wait_control(self, name: str, timeout_s: float) -> dict[str, Any]:
        return {"control": name, **self._own}


class Workshop:
    """Does jobs, one at a time."""

    def __init__(self, connection: libvirt.virConnect, folder: Path) -> None:
        self._connection, self._folder = connection, folder
        self._domains: list[Domain] = []
        self.images = {name: str(uuid.uuid4()) for name in ("disk", "memory", "overlay")}
        self.base_id = ""

    def domain(self) -> Domain:
        made = Domain(self._connection, self._folder, str(uuid.uuid4()))
        self._domains.append(made)
        return made

    def close(self) -> None:
        for one in self._domains:
            one.end()

    @property
    def base_disk(self) -> Path:
        return self._folder / "bases" / self.base_id / DISK_NAME

    def make_base(self, domain: Domain) -> None:
        job = self._job(domain, disk_image=self.images["disk"], memory_image=self.images["memory"])
        self.base_id = base_create.run(job, Channel(domain), Report())["base_id"]  # type: ignore[arg-type]

    def make_overlay(self, domain: Domain) -> None:
        job = self._job(domain, overlay_image=self.images["overlay"], disk_below=DISK_NAME)
        overlay_create.run(job, Channel(domain), Report())  # type: ignore[arg-type]

    def synthesise(self, domain: Domain, placement: str, *macs: str) -> dict[str, Any]:
        write_disk(domain.disk, self.base_disk, "qcow2")
        job = self._job(
            domain,
            overlay=f"glance:{self.images['overlay']}",
            placement=placement,
            domain_type="qemu",
            overlay_sources=["glance:"],
            allowed_networks=[],
            start_timeout_s=60.0,
            run_timeout_s=60.0,
        )
        own = {"xml": domain.xml(*macs), "disk": str(domain.disk), "macs": list(macs), "ports": []}
        return synthesis.run_synthesis(job, Channel(domain, own), Report())  # type: ignore[arg-type]

    def _job(self, domain: Domain, **more: Any) -> dict[str, Any]:
        return {
            "operation": "op",
            "server": domain.uuid,
            "base_id": self.base_id,
            "base_image": self.images["disk"],
            "base_memory_image": self.images["memory"],
            "cache": {"folder": str(self._folder / "bases"), "limit_bytes": 0, "keep_s": 0.0, "in_use": []},
            "scratch": str(self._folder / "scratch"),
            "sockets": str(self._folder / "sockets"),
            "libvirt_uri": self._connection.getURI(),
            **more,
        }


@pytest.fixture
def workshop(real_libvirt: libvirt.virConnect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    def keep(own: DomainGuest) -> None:
        raise CardsKept(reason="the smallest guest gives up no card")

    # It would lose a card that it was asked for when it is reset.
    monkeypatch.setattr(DomainGuest, "replace_cards", keep)
    for job in (base_create, overlay_create, synthesis):
        monkeypatch.setattr(job, "Images", Images(tmp_path))
    made = Workshop(real_libvirt, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("placement", ["mapped", "early"])
def test_a_card_got_its_boot_rom_back(workshop: Workshop, placement: str) -> None:
    """A base of a server whose card was put in again has none; Nova boots its servers with one."""
    first, booted, synthesised = workshop.domain(), workshop.domain(), workshop.domain()
    write_disk(first.disk)
    first.boot(first.xml(FIRST, rom=NO_ROM))
    assert not first.roms()
    workshop.make_base(first)
    first.end()
    write_disk(booted.disk, workshop.base_disk, "qcow2")
    booted.boot(domain_xml.with_genid(booted.xml(SECOND), str(uuid.uuid4())))
    roms = booted.roms()
    assert len(roms) == 1
    before = booted.ticks()
    workshop.make_overlay(booted)
    booted.end()
    workshop.synthesise(synthesised, placement, FIRST)
    assert synthesised.roms() == roms
    assert synthesised.ticks() >= before
    synthesised.ask("system_reset")
    synthesised.await_boots(1)
    assert synthesised.roms() == roms


def test_a_card_that_was_put_in_again_is_the_one_it_was(workshop: Workshop) -> None:
    """libvirt tells of it behind the others then, where a base's first card is the first one."""
    first, booted, synthesised = workshop.domain(), workshop.domain(), workshop.domain()
    write_disk(first.disk)
    first.boot(first.xml(FIRST, SECOND))
    places = list(first.slots())
    workshop.make_base(first)
    first.end()
    write_disk(booted.disk, workshop.base_disk, "qcow2")
    booted.boot(booted.xml(FIRST, SECOND))
    put_in_again(booted, FIRST)
    assert list(booted.slots().items()) == [(places[1], SECOND), (places[0], FIRST)]
    with booted.stops() as stops:
        workshop.make_overlay(booted)
    assert stops
    booted.end()
    workshop.synthesise(synthesised, "mapped", THIRD, FOURTH)
    assert synthesised.slots() == {places[0]: THIRD, places[1]: FOURTH}


def put_in_again(domain: Domain, mac: str) -> None:
    """As :meth:`DomainGuest.replace_cards` does it, with a guest that gives a card up when it is reset."""
    (card,) = (one for one in domain_cards.interfaces(domain.handle.XMLDesc(0)) if domain_cards.mac_of(one) == mac)
    domain.handle.detachDeviceFlags(card, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    domain.ask("system_reset")
    domain.await_boots(2)
    assert mac not in domain.slots().values()
    domain.handle.attachDeviceFlags(domain_cards.card_anew(card), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def test_other_memory_is_refused_while_the_guest_runs(workshop: Workshop) -> None:
    first, booted = workshop.domain(), workshop.domain()
    write_disk(first.disk)
    first.boot(first.xml(FIRST))
    workshop.make_base(first)
    first.end()
    write_disk(booted.disk, workshop.base_disk, "qcow2")
    booted.boot(booted.xml(FIRST).replace("type='vga'", "type='vga' vram='32768'"))
    with (
        booted.stops() as stops,
        pytest.raises(MachineMismatch, match=r"vga\.vram', 8192.* expected .*vga\.vram', 4096"),
    ):
        workshop.make_overlay(booted)
    assert booted.handle.state()[0] == libvirt.VIR_DOMAIN_RUNNING
    assert stops == []
