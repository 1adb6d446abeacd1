# SPDX-License-Identifier: Apache-2.0
"""The cache of bases, shared by processes that use, fetch and remove them at once."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlet_ext.engine.base import Base
from cloudlet_ext.job import errors, precache
from cloudlet_ext.job.base_cache import BaseCache, fetch_images
from cloudlet_ext.job.channel import Channel
from cloudlet_ext.job.errors import ImageUnsuitable
from cloudlet_ext.worker.report import Report

GOLDEN = Path(__file__).parents[1] / "golden/v1/base"
LIMIT_S = 60.0

USER = """
import shutil, sys, time
from pathlib import Path
from cloudlet_ext.job.base_cache import BaseCache
from cloudlet_ext.worker.report import Report

golden, folder, base_id = sys.argv[1:4]
cache = BaseCache(Path(folder), limit_bytes=1)

def fetch(final):
    alone = Path(folder, "fetching")
    alone.touch(exist_ok=False)
    shutil.copytree(golden, final)
    alone.unlink()
"""
HOLDER = """
with cache.using(base_id, fetch, Report()):
    print("in use", flush=True)
    sys.stdin.read()
"""
CHURN = """
end = time.monotonic() + 3
while time.monotonic() < end:
    with cache.using(base_id, fetch, Report()) as base:
        time.sleep(0.001)
        assert base.memory_path.stat().st_size
    cache.evict()
"""


@pytest.fixture
def base_id() -> str:
    with Base.open(GOLDEN) as base:
        return base.base_id


@pytest.fixture
def cache(tmp_path: Path) -> BaseCache:
    """It removes what nobody uses as soon as it may."""
    return BaseCache(tmp_path / "bases", limit_bytes=1)


def user(cache: BaseCache, base_id: str, body: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", USER + body, str(GOLDEN), str(cache.folder), base_id]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> int:
    process.communicate(timeout=LIMIT_S)
    return process.returncode


def waiting_for(path: Path) -> Iterator[str]:
    """Who waits for a lock of a file, as the kernel tells."""
    inode = f":{path.stat().st_ino} "
    return (line for line in Path("/proc/locks").read_text().splitlines() if "->" in line and inode in line)


def test_nothing_stays_of_a_removed_base(cache: BaseCache, base_id: str) -> None:
    holder = user(cache, base_id, HOLDER)
    assert holder.stdout and holder.stdout.readline() == "in use\n"
    there = {base_id, f"{base_id}.lock", f"{base_id}.verified"}
    assert cache.evict() == [] and set(os.listdir(cache.folder)) == there
    assert ended(holder) == 0
    assert cache.evict() == [base_id] and os.listdir(cache.folder) == []


def test_nothing_stays_of_a_base_that_never_came_or_was_deleted(cache: BaseCache, base_id: str) -> None:
    def fail(folder: Path) -> None:
        raise OSError("no image service")

    with pytest.raises(OSError, match="no image service"), cache.using("f" * 64, fail, Report()):
        pass
    (cache.folder / f"{base_id}.verified").write_text("[]")
    assert cache.evict() == [] and os.listdir(cache.folder) == []


def test_who_waits_for_a_base_that_is_removed_has_a_new_one(cache: BaseCache, base_id: str) -> None:
    """It must not hold the removed lock file, which nobody else would look at."""
    with cache._lock(base_id) as lock:
        lock.take(fcntl.LOCK_EX)
        holder = user(cache, base_id, HOLDER)
        deadline = time.monotonic() + LIMIT_S
        while not any(waiting_for(cache.folder / f"{base_id}.lock")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        lock.remove()
    assert holder.stdout and holder.stdout.readline() == "in use\n"
    assert cache.evict() == [] and (cache.folder / base_id).exists()
    assert ended(holder) == 0


def test_many_use_and_remove_one_base(cache: BaseCache, base_id: str) -> None:
    """One fetches at a time, nobody's base is removed, and nothing is left."""
    users = [user(cache, base_id, CHURN) for _ in range(4)]
    assert [ended(one) for one in users] == [0, 0, 0, 0]
    cache.evict()
    assert os.listdir(cache.folder) == []


def test_a_base_that_is_here_is_verified_and_not_fetched_ahead(cache: BaseCache, base_id: str, tmp_path: Path) -> None:
    cache.add(Path(shutil.copytree(GOLDEN, tmp_path / "made")), base_id)
    job = {
        "images": {"endpoint": "http://127.0.0.1:9", "token": "none"},
        "cache": {"folder": str(cache.folder), "limit_bytes": 0, "keep_s": 0, "in_use": []},
        "base_id": base_id,
        "base_image": "disk",
        "base_memory_image": "memory",
    }
    report = Report()
    assert precache.run(job, Channel(io.StringIO(), io.StringIO()), report) == {"base_id": base_id, "fetched": False}
    assert [name for name, _ in report.stages] == ["verify"]


def copied(final: Path) -> None:
    shutil.copytree(GOLDEN, final)


def test_what_an_ended_fetch_has_left_goes(cache: BaseCache, base_id: str) -> None:
    (cache.folder / f".{base_id}.partial").mkdir()
    for name in (f".{base_id}.partial/slots", f".{base_id}.disk", f".{base_id}.pages", f"{base_id}.lock"):
        (cache.folder / name).touch()
    cache.evict()
    assert not list(cache.folder.iterdir())


def test_a_failed_fetch_leaves_nothing(tmp_path: Path, cache: BaseCache, base_id: str) -> None:
    """The pages come, and are not those of a base."""

    class Images:
        def download(self, image: str, path: Path, progress: object) -> None:
            path.write_bytes(b"nonsense" * 1000)

    fetch = fetch_images(Images(), "disk", "memory", Report())  # type: ignore[arg-type]
    with pytest.raises(ImageUnsuitable), cache.using(base_id, fetch, Report()):
        pass
    assert [path.name for path in cache.folder.iterdir()] == [f"{base_id}.lock"]


def test_a_base_that_comes_while_others_are_looked_through_stays(
    tmp_path: Path, base_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = BaseCache(tmp_path / "bases")
    with cache.using(base_id, copied, Report()):
        pass
    monkeypatch.setattr(cache, "ids", list)
    cache.evict()
    with Base.open(cache.folder / base_id) as base:
        assert base.base_id == base_id


def test_a_base_that_cannot_be_noted_is_used_and_stays(tmp_path: Path, base_id: str) -> None:
    """As on a full disk: it is whole all the same."""
    cache = BaseCache(tmp_path / "bases")
    (cache.folder / f"{base_id}.verified" / "no file").mkdir(parents=True)
    for fetch in (copied, pytest.fail):
        with cache.using(base_id, fetch, Report()) as base:
            assert base.base_id == base_id


def test_a_base_that_was_made_here_takes_the_place_of_a_broken_one(tmp_path: Path, base_id: str) -> None:
    cache = BaseCache(tmp_path / "bases")
    copied(cache.folder / base_id)
    (cache.folder / base_id / "memory").unlink()
    copied(tmp_path / "made")
    cache.add(tmp_path / "made", base_id)
    with cache.using(base_id, pytest.fail, Report()) as base:
        base.verify()


@pytest.mark.parametrize("wrong", ["../" + "a" * 61, "/" + "a" * 63, "A" * 64, "a" * 63, ""])
def test_what_is_no_identity_names_no_folder(tmp_path: Path, wrong: str) -> None:
    def fetch(folder: Path) -> None:
        raise AssertionError("nothing is fetched")

    folder = tmp_path / "outer/cache"
    folder.mkdir(parents=True)
    with pytest.raises(errors.BadJob, match="base_id"), BaseCache(folder, 1).using(wrong, fetch, Report()):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["outer", "cache"]
