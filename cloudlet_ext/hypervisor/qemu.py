# SPDX-License-Identifier: Apache-2.0
"""The installed QEMU: where it is, its version, the machine types it knows."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from cloudlet_ext.hypervisor import errors

OLDEST = (8, 2)
"""``memory-backend-file`` maps read-only files privately (``readonly=on,rom=off``) from 8.2 on."""

_PROBE_TIMEOUT_S = 30


@dataclass(frozen=True)
class Qemu:
    """A QEMU binary. ``version`` is (major, minor, micro); ``machine_types`` are the versioned names."""

    binary: str
    version: tuple[int, int, int]
    machine_types: tuple[str, ...]
    newest_q35: str

    @property
    def version_text(self) -> str:
        """For instance ``10.0.2``."""
        return ".".join(map(str, self.version))


def _output(binary: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [binary, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PROBE_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise errors.QemuMissing(binary=binary, reason=str(failure)) from failure
    if done.returncode:
        raise errors.QemuMissing(binary=binary, reason=done.stderr.strip() or f"exit status {done.returncode}")
    return done.stdout


def find(cache: Path | None = None) -> Qemu:
    """The QEMU to use: ``$CLOUDLET_QEMU`` or ``qemu-system-x86_64``.

    What it says of itself is remembered in ``cache`` while the program file stays the same: asking takes 0.1 s.

    :class:`errors.QemuMissing` when there is none, :class:`errors.QemuTooOld` with the versions found and needed.
    """
    name = os.environ.get("CLOUDLET_QEMU", "qemu-system-x86_64")
    binary = shutil.which(name)
    if binary is None:
        raise errors.QemuMissing(binary=name, reason="no such program on PATH")
    stat = os.stat(binary)
    identity = [binary, stat.st_ino, stat.st_size, stat.st_mtime_ns]
    remembered = _remembered(cache, identity)
    if remembered is not None:
        return remembered
    found = _ask(binary)
    if cache is not None:
        with contextlib.suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            cache.write_text(json.dumps({"identity": identity, "qemu": asdict(found)}))
    return found


def _remembered(cache: Path | None, identity: list[object]) -> Qemu | None:
    if cache is None:
        return None
    try:
        values = json.loads(cache.read_text())
        if values["identity"] != identity:
            return None
        known = values["qemu"]
        version = tuple(known["version"])
        return Qemu(known["binary"], version, tuple(known["machine_types"]), known["newest_q35"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _ask(binary: str) -> Qemu:
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", _output(binary, "--version"))
    if match is None:
        raise errors.QemuMissing(binary=binary, reason="it does not tell its version")
    major, minor, micro = (int(part) for part in match.groups())
    if (major, minor) < OLDEST:
        raise errors.QemuTooOld(binary=binary, found=f"{major}.{minor}.{micro}", needed=".".join(map(str, OLDEST)))
    listing = _output(binary, "-machine", "help")
    types = tuple(re.findall(r"^(pc-\S+)", listing, re.MULTILINE))
    alias = re.search(r"^q35\s.*alias of (\S+?)\)", listing, re.MULTILINE)
    if alias is None:
        raise errors.QemuMissing(binary=binary, reason="it knows no q35 machine")
    return Qemu(binary, (major, minor, micro), types, alias.group(1))


def require_machine_type(qemu: Qemu, machine_type: str) -> None:
    """:class:`errors.MachineTypeUnknown` when this QEMU cannot be that machine."""
    if machine_type not in qemu.machine_types:
        raise errors.MachineTypeUnknown(needed=machine_type, version=qemu.version_text, newest=qemu.newest_q35)
