# SPDX-License-Identifier: Apache-2.0
"""What a worker waits for at a domain: that its disk is copied, that nova-compute lets it run."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libvirt
import pytest

from cloudlet_ext.hypervisor import errors
from cloudlet_ext.hypervisor.domain import DomainProcess
from cloudlet_ext.job import domain_host, synthesis
from cloudlet_ext.job.domain_host import DomainHost
from cloudlet_ext.job.guest import DomainGuest
from cloudlet_ext.worker.report import Report
from tests.nova.virt_host import DOMAIN

COPY_S = 0.6


class Copying:
    """A domain whose block job lasts a while. ``goes_on``: whether it gets on meanwhile."""

    def __init__(self, goes_on: bool) -> None:
        self._goes_on, self._begun = goes_on, 0.0
        self.aborted = False

    def XMLDesc(self, flags: int) -> str:  # noqa: N802 - libvirt's name
        return DOMAIN.format(uuid=uuid.uuid4(), disk="/disk")

    def blockRebase(self, target: str, base: str | None, bandwidth: int, flags: int) -> None:  # noqa: N802
        self._begun = time.monotonic()

    def blockJobInfo(self, target: str, flags: int) -> dict[str, int]:  # noqa: N802 - libvirt's name
        age_s = time.monotonic() - self._begun
        if age_s > COPY_S:
            return {}
        return {"cur": int(age_s * 1000) if self._goes_on else 7, "end": int(COPY_S * 1000)}

    def blockJobAbort(self, target: str, flags: int) -> None:  # noqa: N802 - libvirt's name
        self.aborted = True


def keep_disk(domain: Copying) -> None:
    host: Any = DomainHost(None, None, None, None)  # type: ignore[arg-type]
    host._guest = DomainGuest(domain, None, None)  # type: ignore[arg-type]
    host.keep_disk(None)


def test_a_disk_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain_host, "_COPY_STALL_S", COPY_S / 2)
    keep_disk(Copying(goes_on=True))


def test_a_disk_that_gets_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain_host, "_COPY_STALL_S", COPY_S / 2)
    domain = Copying(goes_on=False)
    with pytest.raises(errors.ResumeFailed, match="nothing more of its disk"):
        keep_disk(domain)
    assert domain.aborted


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[DomainGuest]:
    """A domain of libvirt's test hypervisor that stands still, as Nova has begun it."""
    connection = libvirt.open("test:///default")
    domain = connection.defineXML(DOMAIN.format(uuid=uuid.uuid4(), disk=tmp_path / "disk"))
    domain.create()
    domain.suspend()
    yield DomainGuest(domain, None, DomainProcess(domain, tmp_path))  # type: ignore[arg-type]
    if domain.isActive():
        domain.destroy()
    domain.undefine()


def told(guest: DomainGuest) -> dict[str, Any]:
    job, own = {"run_timeout_s": 0.2}, {"macs": [], "ports": []}
    place: Any = SimpleNamespace(report=Report(), job=job, domain=own, machine=SimpleNamespace(agent=False, macs=[]))
    result: dict[str, Any] = synthesis._personalise(place, guest)["personal"]
    return result


def test_a_guest_that_is_not_let_run_is_left_alone(guest: DomainGuest) -> None:
    assert told(guest) == {"clock": False, "address": False, "reason": "the guest was not let run within 0 s"}
    assert guest.handle.isActive()


def test_a_guest_that_is_powered_off_at_once(guest: DomainGuest) -> None:
    guest.handle.destroy()
    assert told(guest)["reason"] == "the guest was powered off before it ran"


def test_a_guest_that_runs(guest: DomainGuest) -> None:
    guest.handle.resume()
    assert "not let run" not in told(guest)["reason"]
