# SPDX-License-Identifier: Apache-2.0
"""Bases for the benchmarks, kept from run to run as long as what they are made of is the same."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks import tool
from benchmarks.bench import GUESTS, Bench, SetupFailed
from benchmarks.workloads import READY
from cloudlet_ext.engine import base as engine_base
from cloudlet_ext.engine import header
from cloudlet_ext.hypervisor import accelerator, capture, command_line, machine, qemu, stream


def kernel_files(guest: str) -> dict[str, Any]:
    """What QEMU boots a guest of tools/guest with."""
    initrd = "initrd" if guest == "debian" else f"{guest}.initrd"
    return {
        "kernel": str(GUESTS / "vmlinuz"),
        "initrd": str(GUESTS / initrd),
        "kernel_cmdline": (GUESTS / f"{guest}.cmdline").read_text().strip(),
    }


def check_guests() -> None:
    """:class:`SetupFailed` names the guests that are missing."""
    needed = ("debian.qcow2", "busybox.qcow2", "vmlinuz", "app-web-files.tar", "app-numpy-files.tar")
    missing = [name for name in needed if not (GUESTS / name).exists()]
    if missing:
        raise SetupFailed(f"{', '.join(missing)} missing in {GUESTS}. Run tools/guest first.")


def chosen_accelerator(bench: Bench) -> str:
    """KVM or emulation."""
    return accelerator.choose(qemu.find().binary, bench.home.accelerator_cache).name


def _key(bench: Bench, image: Path, facts: object) -> str:
    """Tells bases of other inputs apart: the image, the machine, the formats and the code that writes them."""
    found = qemu.find()
    status = image.stat()
    parts = [str(image), status.st_size, status.st_mtime_ns, found.version_text, chosen_accelerator(bench), facts]
    parts += [Path(str(module.__file__)).read_text() for module in (engine_base, header, capture, command_line)]
    parts += [Path(str(module.__file__)).read_text() for module in (machine, stream)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:10]


def base(
    bench: Bench, guest: str, memory_mib: int, *, image: Path | None = None, kind: str = "", wait_for: str = READY
) -> str:
    """Name of a base of a guest of tools/guest, or of ``image`` (then ``kind`` names it), made if it is not there."""
    image = image or GUESTS / f"{guest}.qcow2"
    prefix = f"{kind or guest}-{memory_mib}-"
    name = prefix + _key(bench, image, [memory_mib, wait_for, kernel_files(guest)])
    if name in bench.home.base_names():
        return name
    for old in bench.home.base_names():
        if old.startswith(prefix):
            shutil.rmtree(bench.home.base_folder(old))
    with bench.section(f"base {kind or guest}, {memory_mib} MiB"):
        tool.run(
            bench,
            "create_base",
            image=str(image),
            name=name,
            memory_mib=memory_mib,
            wait_for=wait_for,
            **kernel_files(guest),
        )
    return name
