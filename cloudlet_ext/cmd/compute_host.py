# SPDX-License-Identifier: Apache-2.0
"""What a compute host lets nova-compute and QEMU do, as far as it can be seen without doing it."""

from __future__ import annotations

import configparser
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cloudlet_ext.hypervisor import domain_xml

PRIVSEP_CONTEXT = "cloudlet_ext.privsep.context"

_LIBVIRT_TIMEOUT_S = 20
_LIBVIRT_PROBE = """\
import json, sys
import libvirt
connection = libvirt.openReadOnly(sys.argv[1])
print(json.dumps([connection.getLibVersion(), connection.getVersion(), connection.getCapabilities()]))
"""


@dataclass(frozen=True)
class Libvirt:
    """Versions as (major, minor, release); ids of QEMU's user and group, None where libvirt does not say."""

    version: tuple[int, int, int]
    qemu_version: tuple[int, int, int]
    qemu_user: int | None
    qemu_group: int | None


def ask_libvirt(uri: str) -> Libvirt:
    """What libvirt tells; OSError, SubprocessError, ValueError when there is no answer.

    In a process of its own: libvirt's Python module need not be there, and a libvirtd that hangs must not hang this.
    """
    command = [sys.executable, "-c", _LIBVIRT_PROBE, uri]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=_LIBVIRT_TIMEOUT_S, check=False)
    if ended.returncode:
        raise ValueError((ended.stderr.strip().splitlines() or ["no reason given"])[-1])
    version, qemu_version, capabilities = json.loads(ended.stdout.splitlines()[-1])
    return Libvirt(_parts(version), _parts(qemu_version), *domain_xml.qemu_ids(capabilities))


def _parts(number: int) -> tuple[int, int, int]:
    """libvirt's form of a version: major * 1000000 + minor * 1000 + release."""
    return number // 1_000_000, number // 1000 % 1000, number % 1000


def recording_obstacle(helper_command: str | None, rootwrap_config: str) -> str | None:
    """Why nova-compute cannot have the network of a scratch guest made; None when nothing is known to be in its way.

    ``helper_command`` and ``rootwrap_config`` as in nova.conf.
    """
    words = shlex.split(helper_command) if helper_command else ["sudo", "nova-rootwrap", rootwrap_config]
    wrappers = [number for number, word in enumerate(words[:-1]) if "rootwrap" in Path(word).name]
    if not wrappers:
        return None
    config = Path(words[wrappers[0] + 1])
    try:
        folders = _filter_folders(config)
        if any(PRIVSEP_CONTEXT in path.read_text() for folder in folders for path in folder.glob("*.filters")):
            return None
    except (OSError, configparser.Error) as failure:
        return f"{config} cannot be read: {failure}"
    return f"no filter in {', '.join(map(str, folders)) or 'the filters_path'} of {config} names {PRIVSEP_CONTEXT}"


def _filter_folders(config: Path) -> list[Path]:
    known = configparser.RawConfigParser()
    with config.open() as file:
        known.read_file(file)
    return [Path(name.strip()) for name in known.get("DEFAULT", "filters_path", fallback="").split(",") if name.strip()]
