# SPDX-License-Identifier: Apache-2.0
"""BaseCache: the bases that a compute host has, by identity, fetched once and shared by all operations.

``BASE_ID/`` is a base directory of the engine; ``BASE_ID.verified`` tells in which state its files were verified last;
``BASE_ID.lock`` is held shared by whoever uses the base and exclusively by whoever fetches or removes it. The time of
the lock file is that of the last use. The two files go with their base.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from cloudlet_ext.engine.base import Base
from cloudlet_ext.engine.base_file import BaseFile
from cloudlet_ext.engine.base_import import discard_import, import_base, partial_folder
from cloudlet_ext.engine.errors import EngineError, FormatError
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.hypervisor import access
from cloudlet_ext.job import errors
from cloudlet_ext.job.images import Images
from cloudlet_ext.worker.report import Report

FETCHING = "base"
"""The stage in which a base is fetched."""

_VERIFIED = ".verified"
_LOCK = ".lock"
_ID = re.compile(r"[0-9a-f]{64}")


class _Lock:
    """A lock file, made where there is none; whoever holds it exclusively may remove it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self, operation: int) -> None:
        """Lock it, or lock it otherwise, as flock() does; BlockingIOError with LOCK_NB."""
        while True:
            fcntl.flock(self._descriptor, operation)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(self._path.stat(), os.fstat(self._descriptor)):
                    return
            # It was removed while we waited, or between two locks: flock() gives up one before it takes the other.
            opened = self._open()
            os.close(self._descriptor)
            self._descriptor = opened

    def remove(self) -> None:
        """Remove the file, which must be held exclusively: whoever waits for it makes a new one."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give it up."""
        os.close(self._descriptor)


class BaseCache:
    """The bases in ``folder``. ``limit_bytes`` (0: none) and ``keep_s`` say what is removed when others come,
    ``in_use`` what never is."""

    def __init__(self, folder: Path, limit_bytes: int = 0, keep_s: float = 0.0, in_use: Collection[str] = ()) -> None:
        self.folder, self._limit, self._keep_s, self._in_use = folder, limit_bytes, keep_s, frozenset(in_use)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @classmethod
    def of_job(cls, job: dict[str, Any]) -> BaseCache:
        """From ``job["cache"]``."""
        known = job["cache"]
        return cls(Path(known["folder"]), int(known["limit_bytes"]), float(known["keep_s"]), known["in_use"])

    def ids(self) -> list[str]:
        """Identities of the bases that are there."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir() and len(path.name) == 64)

    @contextlib.contextmanager
    def using(self, base_id: str, fetch: Callable[[Path], None], report: Report) -> Iterator[Base]:
        """A base, fetched by ``fetch`` (which makes the folder it is given) if it is not there; kept for the block.

        Its identity may come from a property that anybody has written; :class:`errors.BadJob` where it is none.
        """
        if not _ID.fullmatch(base_id):
            raise errors.BadJob(field="base_id", reason=f"64 hexadecimal digits expected, found {base_id!r}")
        with self._lock(base_id) as lock:
            while True:
                lock.take(fcntl.LOCK_SH)
                base = self._open(base_id)
                if base is not None:
                    break
                # Another operation may have fetched it meanwhile: look again with the lock.
                lock.take(fcntl.LOCK_EX)
                base = self._open(base_id)
                if base is None:
                    self._fetch(base_id, fetch, report)
                else:
                    base.close()
            os.utime(self._lock_path(base_id))
            with base:
                yield base

    def _fetch(self, base_id: str, fetch: Callable[[Path], None], report: Report) -> None:
        report.stage(FETCHING)
        final = self.folder / base_id
        if final.exists():
            shutil.rmtree(final)
        fetch(final)
        with Base.open(final) as made:
            if made.base_id != base_id:
                shutil.rmtree(final, ignore_errors=True)
                raise errors.BaseMismatch(what="The base's images", found=made.base_id[:12], expected=base_id[:12])
        self.evict(keep=base_id)

    def admit(self, base: Base, user: int | None) -> None:
        """Let QEMU's user map the pages and read the disk of a base in use; :class:`NotGranted`.

        Nobody else may: its name is no secret, it is on the command line of every QEMU that runs on it.
        """
        for path in (base.memory_path, base.disk_path):
            access.grant(path, user, access.READ)
        for folder in (base.memory_path.parent, self.folder):
            access.grant(folder, user, access.PASS)
        access.let_pass(self.folder.parent, user)

    def add(self, made: Path, base_id: str) -> None:
        """Take a base directory that was made here, unless it is there already, and whole."""
        with self._lock(base_id) as lock:
            lock.take(fcntl.LOCK_EX)
            known, final = self._open(base_id), self.folder / base_id
            if known is not None:
                known.close()
            else:
                if final.exists():
                    shutil.rmtree(final)
                made.rename(final)
        self.evict(keep=base_id)

    def _open(self, base_id: str) -> Base | None:
        """The base if it is whole; None for one that is damaged, which is then fetched again. OSError says nothing of
        it, only of this host."""
        folder = self.folder / base_id
        if not folder.exists():
            return None
        try:
            base = Base.open(folder)
            try:
                _ = base.index
                base.load_device()
                self._check_files(base)
            except BaseException:
                base.close()
                raise
        except EngineError:
            return None
        return base

    def _check_files(self, base: Base) -> None:
        """Disk and memory must be as they were when they were last verified; else they are read and compared."""
        seen = {
            path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in (base.disk_path, base.memory_path)
        }
        note = self.folder / f"{base.base_id}{_VERIFIED}"
        with contextlib.suppress(OSError, ValueError):
            if json.loads(note.read_text()) == seen:
                return
        base.verify()
        try:
            note.write_text(json.dumps(seen))
        except OSError:
            # Without it the base is verified again at its next use.
            with contextlib.suppress(OSError):
                note.unlink()

    def evict(self, keep: str = "") -> list[str]:
        """Remove bases that nobody uses: too old ones, then the longest unused ones until the rest fits."""
        now, removed = time.time(), []
        known = sorted(self.ids(), key=self._last_use)
        sizes = {base_id: _used_bytes(self.folder / base_id) for base_id in known}
        for base_id in known:
            too_much = self._limit and sum(sizes.values()) > self._limit
            too_old = self._keep_s and now - self._last_use(base_id) > self._keep_s
            if base_id != keep and base_id not in self._in_use and (too_much or too_old) and self._remove(base_id):
                del sizes[base_id]
                removed.append(base_id)
        self._remove_files_without_base()
        return removed

    def _remove_files_without_base(self) -> None:
        """Of bases whose fetching failed, or which somebody has deleted. Those of one that is fetched now are held."""
        files = {path.name.strip(".").split(".")[0] for path in self.folder.iterdir() if "." in path.name}
        for base_id in files.difference(self.ids()):
            self._remove(base_id, unless_there=True)

    def _remove(self, base_id: str, unless_there: bool = False) -> bool:
        with self._lock(base_id) as lock:
            try:
                lock.take(fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if unless_there and (self.folder / base_id).exists():
                # It came between the look and the lock.
                return False
            shutil.rmtree(self.folder / base_id, ignore_errors=True)
            # What the end of a process, in the middle of a fetch, has left.
            shutil.rmtree(partial_folder(self.folder / base_id), ignore_errors=True)
            for part in _parts(self.folder / base_id):
                part.unlink(missing_ok=True)
            (self.folder / f"{base_id}{_VERIFIED}").unlink(missing_ok=True)
            lock.remove()
            return True

    def _lock_path(self, base_id: str) -> Path:
        return self.folder / f"{base_id}{_LOCK}"

    def _last_use(self, base_id: str) -> float:
        try:
            return self._lock_path(base_id).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    @contextlib.contextmanager
    def _lock(self, base_id: str) -> Iterator[_Lock]:
        with contextlib.closing(_Lock(self._lock_path(base_id))) as lock:
            yield lock


def _used_bytes(folder: Path) -> int:
    try:
        return sum(path.stat().st_blocks * 512 for path in folder.iterdir())
    except FileNotFoundError:
        # Another process removes it just now.
        return 0


def fetch_images(images: Images, disk: str, memory: str, report: Report) -> Callable[[Path], None]:
    """How to make a base directory of the two images of a base."""

    def fetch(folder: Path) -> None:
        parts = _parts(folder)
        try:
            for part, image in zip(parts, (disk, memory), strict=True):
                images.download(image, part, report.progress)
            source = FileSource(str(parts[1]))
            try:
                import_base(BaseFile.open(source), folder, report.progress, parts[0]).close()
            except FormatError as failure:
                raise errors.ImageUnsuitable(image=memory, reason=str(failure).removesuffix(".")) from failure
            finally:
                source.close()
        finally:
            # It could go on only with the files that it was made of, which would have to be fetched again.
            discard_import(folder)
            for part in parts:
                part.unlink(missing_ok=True)

    return fetch


def _parts(folder: Path) -> list[Path]:
    """The two images of a base while it is fetched."""
    return [folder.with_name(f".{folder.name}.{name}") for name in ("disk", "pages")]
