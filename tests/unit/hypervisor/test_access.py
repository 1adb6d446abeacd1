# SPDX-License-Identifier: Apache-2.0
"""Access lists, as the kernel applies them to other users."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor import access, errors
from tests.unit.hypervisor.another_user import NOBODY, SOMEBODY, as_nobody, open_folder

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as found:
        yield found


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as failure:
        return failure.strerror or str(failure)


def test_one_user_reads_and_no_other(folder: Path) -> None:
    path = folder / "memory"
    path.write_text("secret")
    path.chmod(0o444)
    access.grant(path, NOBODY, access.READ)
    assert as_nobody(lambda: read(path)) == "secret"
    assert as_nobody(lambda: read(path), SOMEBODY) == ("Permission denied" if IS_ROOT else "secret")
    assert path.stat().st_mode & 0o777 == 0o440, "ls shows the mask where a group's permissions are shown"


def test_a_disk_that_libvirt_gives_away_can_still_be_read() -> None:
    def make() -> str:
        path.write_text("disk")
        path.chmod(0o600)
        access.keep(path, NOBODY)
        return "made"

    with open_folder() as folder:
        folder.chmod(0o777)
        path = folder / "disk"
        assert as_nobody(make, SOMEBODY) == "made"
        if IS_ROOT:
            os.chown(path, NOBODY, NOBODY)
        assert as_nobody(lambda: read(path)) == as_nobody(lambda: read(path), SOMEBODY) == "disk"
        assert as_nobody(lambda: read(path), SOMEBODY - 1) == ("Permission denied" if IS_ROOT else "disk")


@pytest.mark.parametrize("user", [None, os.geteuid()])
def test_where_there_is_one_user_it_is_his_alone(folder: Path, user: int | None) -> None:
    path = folder / "memory"
    path.write_text("secret")
    path.chmod(0o644)
    access.grant(path, user, access.READ)
    access.grant_inside(folder, user)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listxattr(path) == os.listxattr(folder) == []
    access.let_pass(folder, user)
    assert folder.stat().st_mode & 0o777 == 0o755


def test_who_may_pass_may_not_list(folder: Path) -> None:
    inner = folder / "bases"
    inner.mkdir(mode=0o700)
    (inner / "known").write_text("found")
    (inner / "known").chmod(0o644)
    access.let_pass(inner, NOBODY)
    assert as_nobody(lambda: read(inner / "known")) == "found"
    assert as_nobody(lambda: str(os.access(inner, os.R_OK))) == str(not IS_ROOT)
    assert as_nobody(lambda: read(inner / "known"), SOMEBODY) == ("Permission denied" if IS_ROOT else "found")


def test_a_folder_where_everybody_may_pass_stays_as_it_is(folder: Path) -> None:
    access.let_pass(folder, NOBODY)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert os.listxattr(folder) == []


def test_what_is_not_there_or_not_ours(folder: Path) -> None:
    with pytest.raises(errors.NotGranted, match="No such file"):
        access.grant(folder / "none", NOBODY, access.READ)
    with pytest.raises(errors.NotGranted, match="none: No such file"):
        access.grant_inside(folder / "none", NOBODY)
    with pytest.raises(errors.NotGranted, match="no access lists"):
        access.grant(Path("/proc/self/comm"), NOBODY, access.READ)


def test_which_file_systems_keep_lists(folder: Path) -> None:
    assert access.is_kept(folder)
    assert not access.is_kept(Path("/proc"))


@pytest.mark.parametrize("mode", [0o000, 0o600, 0o060, 0o006, 0o640, 0o406])
def test_what_is_foretold_is_what_the_kernel_does(folder: Path, mode: int) -> None:
    path = folder / "device"
    path.touch()
    path.chmod(mode)
    owners = [(os.geteuid(), os.getegid())]
    if IS_ROOT:
        owners = [(0, 0), (NOBODY, 0), (0, NOBODY)]
    for user, group in owners:
        os.chown(path, user, group)
        for wanted in (access.READ, access.WRITE, access.READ | access.WRITE):
            foretold = access.may_use(path, NOBODY if IS_ROOT else user, {NOBODY if IS_ROOT else group}, wanted)
            assert as_nobody(lambda wanted=wanted: str(os.access(path, wanted))) == str(foretold), (user, group, wanted)


def test_a_list_is_foretold_too(folder: Path) -> None:
    path = folder / "device"
    path.touch()
    access.grant(path, NOBODY, access.READ)
    assert access.may_use(path, NOBODY, (), access.READ)
    assert not access.may_use(path, NOBODY, (), access.READ | access.WRITE)
    assert not access.may_use(path, SOMEBODY, (os.getegid(),), access.READ)
    path.chmod(0o600)
    assert not access.may_use(path, NOBODY, (), access.READ), "chmod has changed the mask"
