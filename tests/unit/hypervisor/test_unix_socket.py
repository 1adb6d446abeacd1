# SPDX-License-Identifier: Apache-2.0
"""Sockets that are shared with QEMU, which may be another user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor import unix_socket
from tests.unit.hypervisor.another_user import NOBODY, as_nobody, open_folder


def test_root_gives_a_socket_to_the_owner_of_its_folder(tmp_path: Path) -> None:
    owner = NOBODY if os.geteuid() == 0 else os.geteuid()
    os.chown(tmp_path, owner, -1)
    path = tmp_path / "socket"
    with unix_socket.listen(path, 1):
        unix_socket.admit_owner(path)
        found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (owner, os.getegid(), 0o600)


@pytest.mark.parametrize(("folder_mode", "socket_mode"), [(0o700, "600"), (0o755, "600"), (0o733, "666")])
def test_another_user_opens_it_where_the_folder_is_open(folder_mode: int, socket_mode: str) -> None:
    def act() -> str:
        folder = shared / "mine"
        folder.mkdir()
        folder.chmod(folder_mode)
        path = folder / "socket"
        with unix_socket.listen(path, 1):
            unix_socket.admit_owner(path)
            return f"{path.stat().st_mode & 0o777:o}"

    with open_folder() as shared:
        shared.chmod(0o777)
        assert as_nobody(act) == socket_mode


def test_a_socket_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        unix_socket.admit_owner(tmp_path / "none" / "socket")
