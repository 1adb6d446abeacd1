# SPDX-License-Identifier: Apache-2.0
"""Functional tests run real guests, which ``tools/guest`` builds."""

import gc
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor import accelerator, qemu
from cloudlet_ext.worker import base_creation, overlay_creation, server, starting
from cloudlet_ext.worker.base_creation import BaseRequest
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report
from tests.functional import guest as guest_tools
from tests.functional import leaks, tiny_guest

HERE = Path(__file__).parent
MIB = 1 << 20
BOOT_S = 250.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.functional)


@pytest.fixture(scope="session")
def guests() -> Path:
    """The folder of the guests: kernel, initial RAM disks, disks, app bundles."""
    folder = Path(os.environ.get("CLOUDLET_WORK", "/var/tmp/cloudlet")) / "guests"
    if not (folder / "vmlinuz").exists():
        pytest.fail(f"no guests in {folder}: run tools/guest as root")
    return folder


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home for all tests. The accelerator is looked for once."""
    path = tmp_path_factory.mktemp("cloudlet") / "home"
    home = Home(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOUDLET_ACCEL", accelerator.choose(qemu.find().binary, home.accelerator_cache).name)
        yield home
    for name in server.names(home):
        server.load(home, name).destroy()
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield
    leaks.check(tmp_path_factory.getbasetemp())


def busybox_request(guests: Path, name: str, memory_mib: int = 128) -> BaseRequest:
    return BaseRequest(
        image=guests / "busybox.qcow2",
        name=name,
        memory_mib=memory_mib,
        wait_for="http://:80/nonce",
        settle_s=0.3,
        kernel=guests / "vmlinuz",
        initrd=guests / "busybox.initrd",
        kernel_cmdline=(guests / "busybox.cmdline").read_text().strip(),
    )


@pytest.fixture(scope="session")
def busybox(home: Home, guests: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base with Linux, 128 MiB of memory, a 64 MiB disk with 8 MiB of content from 8 MiB on."""
    image = tmp_path_factory.mktemp("image") / "disk.qcow2"
    shutil.copy(guests / "busybox.qcow2", image)
    writes = [word for number in range(128) for word in ("-c", f"write -q -P {number + 1} {8192 + 64 * number}k 64k")]
    subprocess.run(["qemu-io", "-f", "qcow2", *writes, str(image)], check=True)
    request = busybox_request(guests, "busybox")
    base_creation.create_base(home, BaseRequest(**{**vars(request), "image": image}), Report())
    return "busybox"


@pytest.fixture(scope="session")
def debian(home: Home, guests: Path) -> str:
    """A base with Debian: systemd, sshd and the guest agent, 256 MiB of memory."""
    request = BaseRequest(
        image=guests / "debian.qcow2",
        name="debian",
        memory_mib=256,
        wait_for="console:CLOUDLET-GUEST ready",
        timeout_s=BOOT_S,
        kernel=guests / "vmlinuz",
        initrd=guests / "initrd",
        kernel_cmdline=(guests / "debian.cmdline").read_text().strip(),
    )
    base_creation.create_base(home, request, Report())
    return "debian"


def tiny_request(folder: Path, name: str) -> BaseRequest:
    image = folder / "tiny.raw"
    if not image.exists():
        tiny_guest.write_disk(image)
    wait_for = f"console:{tiny_guest.READY.decode().strip()}"
    return BaseRequest(image=image, name=name, memory_mib=16, wait_for=wait_for, settle_s=0.1)


@pytest.fixture(scope="session")
def tiny(home: Home, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base of the tiny guest: 16 MiB of memory, almost all zero."""
    base_creation.create_base(home, tiny_request(tmp_path_factory.mktemp("image"), "tiny"), Report())
    return "tiny"


Start = Callable[..., server.Server]


@pytest.fixture
def start(home: Home) -> Iterator[Start]:
    """``start(base, name)``: a server on a base, which goes at the end of the test."""
    guests: list[server.Server] = []

    def start(base: str, name: str, wait_for: str | None = None) -> server.Server:
        starting.start_server(home, base, name, {}, wait_for, guest_tools.WAIT_S, Report())
        guests.append(server.load(home, name))
        return guests[-1]

    yield start
    for guest in guests:
        guest.destroy()


@dataclass(frozen=True)
class Made:
    """An overlay of a busybox guest: what it serves at ``/made`` is in memory only."""

    path: Path
    content: bytes
    digests: str
    overlay_id: str


DIGESTS = "dd if=/dev/vda bs=1M count=5 2>/dev/null | sha256sum; sha256sum </www/ballast"
"""Of what is new on the disk, and of what is new in memory."""


@pytest.fixture(scope="session")
def made(home: Home, busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """12 MiB of new memory content and 5 MiB of new disk content, none of which can be compressed."""
    path = tmp_path_factory.mktemp("made") / "made.cloudlet"
    starting.start_server(home, busybox, "maker", {}, None, guest_tools.WAIT_S, Report())
    with guest_tools.loaded(home, "maker") as guest:
        guest_tools.run(
            guest, "head -c 12582912 /dev/urandom >/www/ballast; dd if=/dev/urandom of=/dev/vda bs=1M count=5"
        )
        guest_tools.run(guest, "head -c 300 /dev/urandom | base64 >/www/made; sync; sleep 0.2")
        content = guest_tools.fetch(guest, "/made")
        digests = guest_tools.run(guest, DIGESTS)
        result = overlay_creation.create_overlay(home, "maker", path, keep="deleted", level=1, report=Report())
    return Made(path, content, digests, result.summary.overlay_id)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Callable[[Path, int], Path]]:
    """``small(folder, size_bytes)``: make that folder a file system of its own, of that size."""
    if os.geteuid():
        pytest.fail("a small file system must be mounted: run the functional tests as root")
    mounted: list[Path] = []

    def mount(folder: Path, size_bytes: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "small", str(folder)], check=True)
        mounted.append(folder)
        return folder

    yield mount
    for folder in reversed(mounted):
        guest_tools.wait_until(f"nobody uses {folder}", lambda folder=folder: _unmount(folder), 20)


def _unmount(folder: Path) -> bool:
    gc.collect()
    return subprocess.run(["umount", str(folder)], capture_output=True, check=False).returncode == 0
