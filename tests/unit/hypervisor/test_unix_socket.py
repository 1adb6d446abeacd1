# SPDX-License-Identifier: Apache-2.0
"""Sockets that are shared with QEMU, which may be another user, and with nobody else."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor import access, unix_socket
from tests.unit.hypervisor.another_user import NOBODY, SOMEBODY, as_nobody, open_folder

QEMU, NOVA, STRANGER = NOBODY, SOMEBODY, SOMEBODY - 1
DENIED = "Permission denied" if os.geteuid() == 0 else "connected"
"""What a third user hears, where there are others than one."""


def share(folder: Path) -> str:
    folder.mkdir(mode=0o700)
    access.grant(folder, QEMU, access.READ | access.WRITE | access.PASS)
    access.grant_inside(folder, QEMU)
    return "shared"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of this process and QEMU's user."""
    with open_folder() as parent:
        share(parent / "shared")
        yield parent / "shared"


def connected(path: Path) -> str:
    try:
        unix_socket.connect(path, 1.0).close()
    except OSError as failure:
        return failure.strerror or str(failure)
    return "connected"


def test_the_other_user_connects_to_a_shared_socket(shared: Path) -> None:
    with unix_socket.listen(shared / "socket", 1, unix_socket.SHARED):
        assert as_nobody(lambda: connected(shared / "socket")) == "connected"


def test_nobody_else_connects(shared: Path) -> None:
    with unix_socket.listen(shared / "socket", 1, unix_socket.SHARED), unix_socket.listen(shared / "own", 1):
        assert as_nobody(lambda: connected(shared / "socket"), STRANGER) == DENIED
        assert as_nobody(lambda: connected(shared / "own")) == DENIED
        # Nor does one who gets past the folder.
        shared.chmod(0o777)
        assert as_nobody(lambda: connected(shared / "socket"), STRANGER) == DENIED


def test_what_qemu_makes_is_open_to_the_worker() -> None:
    """libvirt gives QEMU the umask 002."""

    def bind() -> str:
        os.umask(0o002)
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
        return f"{path.stat().st_mode & 0o777:o}"

    with open_folder() as parent:
        parent.chmod(0o777)
        path = parent / "shared/incoming"
        assert as_nobody(lambda: share(path.parent), NOVA) == "shared"
        assert as_nobody(bind, QEMU) == "770"
        assert as_nobody(lambda: str(os.access(path, os.W_OK)), NOVA) == "True"
        assert as_nobody(lambda: str(os.access(path, os.W_OK)), STRANGER) == str(os.geteuid() != 0)
