# SPDX-License-Identifier: Apache-2.0
"""Home: where bases and servers are kept, by name."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from cloudlet_ext.engine.base import MANIFEST_NAME, Base
from cloudlet_ext.engine.digest import digest
from cloudlet_ext.worker import errors

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def default_path() -> Path:
    """``$CLOUDLET_HOME``, else ``/var/lib/cloudlet`` for root and ``~/.local/share/cloudlet`` for others."""
    given = os.environ.get("CLOUDLET_HOME")
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/cloudlet")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share", "cloudlet")


def check_name(what: str, name: str) -> str:
    """The name; :class:`errors.NameInvalid` when it could not be a folder's."""
    if not _NAME.fullmatch(name):
        raise errors.NameInvalid(what=what, name=name)
    return name


class Home:
    """The folder of one user of this host: ``bases/NAME/``, ``servers/NAME/``, ``scratch/``, ``cache/``."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = (path or default_path()).absolute()

    @property
    def bases(self) -> Path:
        """Folder of the bases."""
        return self._folder("bases")

    @property
    def servers(self) -> Path:
        """Folder of the servers."""
        return self._folder("servers")

    @property
    def scratch(self) -> Path:
        """Folder for files that live as long as an operation."""
        return self._folder("scratch")

    @property
    def cache(self) -> Path:
        """Folder for what can be found out again."""
        return self._folder("cache")

    @property
    def qemu_cache(self) -> Path:
        """What QEMU said of itself."""
        return self.cache / "qemu.json"

    @property
    def accelerator_cache(self) -> Path:
        """Which accelerator works."""
        return self.cache / "accelerator.json"

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def base_names(self) -> list[str]:
        """Names of all bases, sorted."""
        return sorted(entry.name for entry in self.bases.iterdir() if _NAME.fullmatch(entry.name) and entry.is_dir())

    def base_folder(self, name: str) -> Path:
        """Folder of a base that is there."""
        check_name("base", name)
        folder = self.bases / name
        if not folder.is_dir():
            raise errors.NotFound(what="base", name=name, known=", ".join(self.base_names()) or "none")
        return folder

    def open_base(self, name: str) -> Base:
        """Open a base by name."""
        return Base.open(self.base_folder(name))

    def find_base(self, base_id: str, overlay: str) -> tuple[str, Base]:
        """The base of an identity; :class:`errors.BaseMissing` lists what is here."""
        known = []
        for name in self.base_names():
            try:
                found = digest((self.bases / name / MANIFEST_NAME).read_bytes()).hex()
            except FileNotFoundError:
                continue
            if found == base_id:
                return name, Base.open(self.bases / name)
            known.append(f"{name} ({found[:12]})")
        raise errors.BaseMissing(overlay=overlay, base_id=base_id[:12], known=", ".join(known) or "none")

    @contextlib.contextmanager
    def new_base(self, name: str) -> Iterator[Path]:
        """A folder to make a base in; it gets its name when the block ends well and goes when it does not."""
        check_name("base", name)
        with self.lock("base", name):
            final, partial = self.bases / name, self.bases / f".{name}.new"
            if final.exists():
                raise errors.NameTaken(what="base", name=name)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(mode=0o700)
            try:
                yield partial
                partial.rename(final)
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, what: str, name: str) -> Iterator[None]:
        """Exclusive use of one base or server; :class:`errors.Busy` names the process that has it."""
        path = self._folder("locks") / f"{what}.{name}"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(descriptor, 32, 0).decode().strip() or "unknown"
                os.close(descriptor)
                raise errors.Busy(what=what, name=name, pid=pid) from None
            # The file that was locked may have been removed by who had it before.
            try:
                same = os.stat(path).st_ino == os.fstat(descriptor).st_ino
            except FileNotFoundError:
                same = False
            if same:
                break
            os.close(descriptor)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def is_locked(self, what: str, name: str) -> bool:
        """Whether an operation has it now. Only looks: to try the lock would make an operation fail that begins now."""
        try:
            pid = (self._folder("locks") / f"{what}.{name}").read_text().strip()
        except FileNotFoundError:
            return False
        return pid.isdecimal() and Path(f"/proc/{pid}").exists()
