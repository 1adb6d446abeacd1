# SPDX-License-Identifier: Apache-2.0
"""Whether QEMU's user may catch page faults, by the device, by the kernel's switch, or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor import access, userfault
from tests.unit.hypervisor.another_user import NOBODY, as_nobody, open_folder


class Kernel:
    """What a kernel shows of it, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.device, self.switch = folder / "userfaultfd", folder / "unprivileged_userfaultfd"
        self.device.touch(0o600)
        self.switch.write_text("0\n")

    def obstacle(self, user: int | None = None, group: int | None = None) -> str:
        return userfault.obstacle(user, group, device=self.device, for_all=self.switch) or "none"


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with open_folder() as folder:
        yield Kernel(folder)


def test_another_user_without_the_device(kernel: Kernel) -> None:
    said = kernel.obstacle(NOBODY, NOBODY)
    assert "lets nobody catch no page faults" in said
    assert str(kernel.device) in said and "vm.unprivileged_userfaultfd = 1" in said


def test_our_own_qemu(kernel: Kernel) -> None:
    assert kernel.obstacle() == kernel.obstacle(os.geteuid(), os.getegid()) == "none"
    kernel.device.chmod(0o000)
    assert "catch no page faults" in as_nobody(kernel.obstacle)


def test_the_switch(kernel: Kernel) -> None:
    kernel.switch.write_text("1\n")
    assert kernel.obstacle(NOBODY, NOBODY) == "none"
    kernel.switch.unlink()
    assert kernel.obstacle(NOBODY, NOBODY) == "none", "a kernel that had no such switch yet"


def test_the_group_of_the_device(kernel: Kernel) -> None:
    kernel.device.chmod(0o660)
    group = kernel.device.stat().st_gid
    assert kernel.obstacle(NOBODY, group) == "none"
    assert kernel.obstacle(NOBODY, group + 1) != "none"


def test_an_access_list_of_the_device(kernel: Kernel) -> None:
    access.grant(kernel.device, NOBODY, access.READ | access.WRITE)
    assert kernel.obstacle(NOBODY, None) == "none"


def test_no_device(kernel: Kernel) -> None:
    kernel.device.unlink()
    assert kernel.obstacle(NOBODY, NOBODY) != "none"
    assert "user 12345678" in kernel.obstacle(12345678, 12345678)
