# SPDX-License-Identifier: Apache-2.0
"""What Nova's services on this host do with what the extension adds to them: workers, and task states."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from oslo_upgradecheck.upgradecheck import Code, Result

_SYSTEMCTL_TIMEOUT_S = 20
_SPARES_WORKERS = ("process", "none")
_CONTAINERS = ("docker", "libpod", "crio", "containerd", "kubepods", "lxc.payload")
_CONTAINER_INITS = ("dumb-init", "tini", "docker-init", "catatonit", "kolla_start")
_WAY_OUT = "Before a restart let syntheses end (openstack cloudlet operation list --all-projects)"


def judge_restart(proc: Path) -> Result:
    """Whether workers outlive a restart of nova-compute: guests whose overlays they feed cannot go on without them."""
    for folder in sorted(proc.glob("[0-9]*")):
        if not _is(folder, "nova-compute"):
            continue
        group = _control_group(folder)
        unit = next((part for part in reversed(group.split("/")) if part.endswith((".service", ".scope"))), "")
        if any(word in group for word in _CONTAINERS) or _is_in_a_container(proc, folder):
            told = "nova-compute runs in a container, whose restart ends all workers, and guests that they feed"
            return Result(Code.WARNING, f"{told}. {_WAY_OUT}.")
        if unit.endswith(".service"):
            return _judge_unit(unit)
    return Result(Code.SUCCESS)


def judge_notifications(conf: Any, proc: Path) -> Result:
    """Whether nova-conductor, which never loads the extension, would have to send what it refuses."""
    if not any(_is(folder, "nova-conductor") for folder in proc.glob("[0-9]*")):
        return Result(Code.SUCCESS, "No nova-conductor here.")
    wanted = conf.notifications
    is_sent = any(driver != "noop" for driver in conf.oslo_messaging_notifications.driver)
    if not is_sent or wanted.notification_format == "unversioned" or not wanted.notify_on_state_change:
        return Result(Code.SUCCESS)
    told = "[notifications] asks for versioned instance.update notifications, and nova-conductor cannot send those of"
    told = f"{told} servers with a task state cloudlet_...: each leaves a traceback in its log"
    return Result(Code.WARNING, f"{told}. Who needs them listens to unversioned ones (notification_format = both).")


def _judge_unit(unit: str) -> Result:
    command = ["systemctl", "show", "--property=KillMode", "--value", unit]
    try:
        mode = subprocess.run(
            command, capture_output=True, text=True, timeout=_SYSTEMCTL_TIMEOUT_S, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return Result(Code.WARNING, f"Whether workers outlive a restart of {unit} cannot be told: {error}")
    if mode in _SPARES_WORKERS:
        return Result(Code.SUCCESS, f"{unit} has KillMode={mode}")
    told = f"{unit} has KillMode={mode}: its restart ends all workers, and guests that they feed"
    return Result(Code.WARNING, f"{told}. Let it have KillMode=process. {_WAY_OUT} until then.")


def _is(folder: Path, program: str) -> bool:
    """Whether a process is this program, be it run by its own name or by an interpreter."""
    return any(Path(word).name == program for word in _read(folder / "cmdline").split("\0")[:2])


def _control_group(folder: Path) -> str:
    """Where systemd, or who does its work, has put a process; "/" when nobody has."""
    groups = {}
    for line in _read(folder / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        groups[controllers] = path
    # systemd's own hierarchy where there are several.
    return groups.get("name=systemd") or groups.get("") or "/"


def _is_in_a_container(proc: Path, folder: Path) -> bool:
    """Whether a process is the only one that its container lasts for, as far as it can be seen from inside."""
    parent = _read(folder / "stat").rpartition(") ")[2].split()[1:2]
    return folder.name == "1" or (parent == ["1"] and _read(proc / "1/comm").strip() in _CONTAINER_INITS)


def _read(path: Path) -> str:
    """What is in a file of /proc; nothing when its process has ended, or is not ours to see."""
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""
