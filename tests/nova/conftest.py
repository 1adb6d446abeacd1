# SPDX-License-Identifier: Apache-2.0
"""Fixtures: one cloud for all tests, with a base and an overlay in it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libvirt
import pytest
from nova import monkey_patch

monkey_patch.patch(backend="threading")  # before all else of Nova's, as its own entry point does

from nova.virt.libvirt import driver as libvirt_driver  # noqa: E402

from cloudlet_ext.nova import rpcapi  # noqa: E402
from tests.nova import cloud as cloud_module  # noqa: E402
from tests.nova import compute as compute_module  # noqa: E402
from tests.nova import real_libvirt as real_libvirt_module  # noqa: E402
from tests.nova.cloud import MEMBER, OTHER, Cloud  # noqa: E402
from tests.nova.compute import Compute  # noqa: E402
from tests.nova.virt_host import VirtHost  # noqa: E402

BASE_ID, OTHER_BASE_ID, OVERLAY_ID = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    made = Cloud(tmp_path_factory.mktemp("cloud"))
    yield made
    made.stop()


@pytest.fixture(scope="session")
def real_libvirt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[libvirt.virConnect]:
    """libvirt's QEMU driver in this process; there can be one."""
    root = tmp_path_factory.mktemp("libvirt")
    real_libvirt_module.write_conf(root)
    real_libvirt_module.start_events()
    connected = libvirt.open(f"qemu:///embed?root={root}")
    yield connected
    connected.close()


@pytest.fixture
def virt_host(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VirtHost]:
    """The host compute1 with its driver; Nova's part of ``spawn`` is the stand-in's."""
    made = VirtHost(cloud, tmp_path)

    def spawn(driver: Any, context: Any, instance: Any, xml: str) -> None:
        made.spawned(driver, context, instance, xml)

    monkeypatch.setattr(libvirt_driver.LibvirtDriver, "spawn", spawn)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that does not answer is given up soon."""
    monkeypatch.setattr(rpcapi, "CALL_TIMEOUT_S", 1)


@pytest.fixture(autouse=True)
def _no_operations(request: pytest.FixtureRequest) -> None:
    if "cloud" not in request.fixturenames:
        return
    for manager in request.getfixturevalue("cloud").managers.values():
        manager.operations.clear()
        manager.casts.clear()


@dataclass(frozen=True)
class Images:
    """Ids of images: ``base`` with ``memory`` and ``overlay`` are one project's, ``their_*`` another's."""

    base: str
    memory: str
    overlay: str
    foreign_overlay: str
    large_overlay: str
    queued_overlay: str
    plain: str
    their_base: str
    public_base: str
    half_public_base: str


def make_base(
    cloud: Cloud, token: str, name: str, base_id: str = BASE_ID, memory_visibility: str = "", **record: object
) -> tuple[str, str]:
    base_image = str(uuid.uuid4())
    memory = cloud.glance.create(
        token,
        b"m" * 100,
        name=f"{name} memory",
        os_hidden=True,
        cloudlet_type="base-memory",
        cloudlet_base_id=base_id,
        cloudlet_base_image=base_image,
        visibility=memory_visibility or str(record.get("visibility", "private")),
    )
    base = cloud.glance.create(
        token,
        b"d" * 50,
        id=base_image,
        name=name,
        min_ram=512,
        min_disk=2,
        cloudlet_type="base",
        cloudlet_base_id=base_id,
        cloudlet_memory_image=memory,
        cloudlet_memory_mb="512",
        cloudlet_vcpus="1",
        **record,
    )
    return base, memory


def make_overlay(cloud: Cloud, token: str, name: str, size: int | None = 10, base_id: str = BASE_ID) -> str:
    content = None if size is None else b"o" * size
    return cloud.glance.create(
        token,
        content,
        name=name,
        cloudlet_type="overlay",
        cloudlet_base_id=base_id,
        cloudlet_overlay_id=OVERLAY_ID,
        cloudlet_memory_mb="512",
        cloudlet_vcpus="1",
    )


@pytest.fixture(scope="session")
def images(cloud: Cloud) -> Images:
    base, memory = make_base(cloud, MEMBER, "ubuntu")
    half, _ = make_base(cloud, cloud_module.ADMIN, "half", visibility="public", memory_visibility="private")
    public, _ = make_base(cloud, cloud_module.ADMIN, "everybody", visibility="public")
    return Images(
        base=base,
        memory=memory,
        overlay=make_overlay(cloud, MEMBER, "face"),
        foreign_overlay=make_overlay(cloud, MEMBER, "of another base", base_id=OTHER_BASE_ID),
        large_overlay=make_overlay(cloud, MEMBER, "large", size=2**20 + 1),
        queued_overlay=make_overlay(cloud, MEMBER, "not yet", size=None),
        plain=cloud.glance.create(MEMBER, b"x", name="plain"),
        their_base=make_base(cloud, OTHER, "theirs")[0],
        public_base=public,
        half_public_base=half,
    )


@pytest.fixture
def compute(cloud: Cloud, tmp_path: Path) -> Iterator[Compute]:
    """A compute host with nothing to do yet; its workers are done at once."""
    with compute_module.set_up(state_path=str(tmp_path / "state"), spare_workers=0):
        yield Compute(cloud, tmp_path / "state")


class Room:
    """A file system of its own, whose room can be taken."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def take(self) -> None:
        """Leave no room."""
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass

    def give(self) -> None:
        """There is room again."""
        self._filler.unlink()


@pytest.fixture
def room() -> Iterator[Callable[[Path], Room]]:
    """``room(folder)``: make the folder a small file system."""
    if os.geteuid():
        pytest.fail("a small file system must be mounted: run these tests as root")
    mounted: list[Path] = []

    def mount(folder: Path) -> Room:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "small", str(folder)], check=True)
        mounted.append(folder)
        return Room(folder)

    yield mount
    for folder in reversed(mounted):
        subprocess.run(["umount", "-l", str(folder)], check=True)
