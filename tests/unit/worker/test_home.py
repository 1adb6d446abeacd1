# SPDX-License-Identifier: Apache-2.0
"""Homes: names, locks, bases that are being made."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from cloudlet_ext.engine.errors import FormatError
from cloudlet_ext.worker import errors
from cloudlet_ext.worker.home import Home, check_name, default_path

WAIT_S = 30.0


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOUDLET_HOME", str(tmp_path))
    assert default_path() == tmp_path
    monkeypatch.setenv("CLOUDLET_HOME", "")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_path() == Path("/var/lib/cloudlet" if os.geteuid() == 0 else "/data/cloudlet")
    monkeypatch.chdir(tmp_path)
    assert Home(Path("relative")).path == tmp_path / "relative"


def test_folders_are_made_for_their_owner_only(home: Home) -> None:
    for folder in (home.bases, home.servers, home.scratch, home.cache):
        assert folder.parent == home.path
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["a", "A-1", "9.x_y", "x" * 64])
def test_names(name: str) -> None:
    assert check_name("server", name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "_a", "a/b", "a b", "a\n", "\xe4", "x" * 65, "a\0"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(errors.NameInvalid) as caught:
        check_name("server", name)
    assert repr(name) in str(caught.value)


def test_a_base_gets_its_name_at_the_end(home: Home) -> None:
    with home.new_base("new") as folder:
        (folder / "part").touch()
        assert home.base_names() == []
    assert home.base_names() == ["new"]
    assert (home.bases / "new" / "part").exists()
    with pytest.raises(errors.NameTaken, match="a base named new"), home.new_base("new"):
        pytest.fail("not reached")
    assert (home.bases / "new" / "part").exists()


def test_a_base_that_fails_leaves_nothing(home: Home) -> None:
    with pytest.raises(KeyboardInterrupt), home.new_base("new") as folder:
        (folder / "part").touch()
        raise KeyboardInterrupt
    assert list(home.bases.iterdir()) == []
    # What one that was killed has left is no obstacle.
    (home.bases / ".new.new").mkdir()
    (home.bases / ".new.new" / "part").touch()
    with home.new_base("new") as folder:
        assert list(folder.iterdir()) == []


def test_unknown_bases_tell_what_there_is(home: Home) -> None:
    with pytest.raises(errors.NotFound, match=r"There is no base a\. There are: none"):
        home.base_folder("a")
    for name in ("b", "c"):
        (home.bases / name).mkdir()
    (home.bases / ".hidden").mkdir()
    with pytest.raises(errors.NotFound, match=r"There are: b, c\."):
        home.base_folder("a")
    with pytest.raises(errors.BaseMissing, match=r"which is not here\. Bases here: none"):
        home.find_base("0" * 64, "overlay")
    (home.bases / "b" / "manifest.json").write_text("{}")
    with pytest.raises(errors.BaseMissing, match=r"Bases here: b \(\w{12}\)\."):
        home.find_base("0" * 64, "overlay")
    with pytest.raises(FormatError):
        home.open_base("b")


def test_a_lock_is_held_once_and_given_back(home: Home) -> None:
    with home.lock("server", "a"):
        assert home.is_locked("server", "a")
        assert not home.is_locked("base", "a")
        with (
            pytest.raises(errors.Busy, match=rf"server a is in use .* \(process {os.getpid()}\)"),
            home.lock("server", "a"),
        ):
            pytest.fail("not reached")
        with home.lock("server", "b"), home.lock("base", "a"):
            pass
    assert not home.is_locked("server", "a")
    with pytest.raises(KeyboardInterrupt), home.lock("server", "a"):
        raise KeyboardInterrupt
    with home.lock("server", "a"):
        pass
    assert list((home.path / "locks").iterdir()) == []


def hold(path: Path, pipe: Connection) -> None:
    with Home(path).lock("server", "a"):
        pipe.send("held")
        pipe.recv()


def test_a_lock_goes_with_its_process(home: Home) -> None:
    mine, its = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(home.path, its))
    process.start()
    assert mine.poll(WAIT_S) and mine.recv() == "held"
    with pytest.raises(errors.Busy, match=f"process {process.pid}"), home.lock("server", "a"):
        pytest.fail("not reached")
    process.kill()
    process.join()
    assert not home.is_locked("server", "a")
    with home.lock("server", "a"):
        pass


def test_of_many_one_has_it(home: Home) -> None:
    """Whoever gets the lock has it alone, also while its file comes and goes."""
    inside, most, refused = [0], [0], [0]
    guard = threading.Lock()

    def work() -> None:
        for _ in range(200):
            try:
                with home.lock("server", "a"):
                    with guard:
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                    with guard:
                        inside[0] -= 1
            except errors.Busy:
                refused[0] += 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert refused[0] < 800
