# SPDX-License-Identifier: Apache-2.0
"""Userfaultfd: what QEMU catches the page faults of an early start with, and what the kernel gives not to everybody.

Since Linux 5.11 a process without privileges gets none that catches the kernel's own page faults, unless the system
says otherwise; since 6.1 whoever may open ``/dev/userfaultfd`` has one. QEMU tries the device, then the system call.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path

from cloudlet_ext.hypervisor import access

DEVICE = Path("/dev/userfaultfd")
FOR_ALL = Path("/proc/sys/vm/unprivileged_userfaultfd")
_CAP_SYS_PTRACE = 1 << 19


def obstacle(
    user: int | None = None, group: int | None = None, *, device: Path = DEVICE, for_all: Path = FOR_ALL
) -> str | None:
    """Why a QEMU of that user and group (None: of ours) cannot start early; None when nothing known is in its way.

    The user is taken to have no privileges; libvirt takes them away even from root.
    """
    if _is_for_all(for_all):
        return None
    if _is_ours(device) if user is None or user == os.geteuid() else _is_for(device, user, group):
        return None
    return (
        f"the kernel lets {_name(os.geteuid() if user is None else user)} catch no page faults. Give the user "
        f"{device} (a udev rule, group kvm, mode 0660), or set vm.unprivileged_userfaultfd = 1"
    )


def _is_for_all(setting: Path) -> bool:
    try:
        return setting.read_text().strip() != "0"
    except OSError:
        # A kernel before 5.11, or one that has no such thing at all, which QEMU will tell.
        return True


def _is_ours(device: Path) -> bool:
    if os.access(device, os.R_OK | os.W_OK):
        return True
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) & _CAP_SYS_PTRACE)
    return False


def _is_for(device: Path, user: int, group: int | None) -> bool:
    groups = set() if group is None else {group}
    with contextlib.suppress(KeyError):
        known = pwd.getpwuid(user)
        groups.update(os.getgrouplist(known.pw_name, known.pw_gid if group is None else group))
    try:
        return access.may_use(device, user, groups, access.READ | access.WRITE)
    except OSError:
        return False


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"
