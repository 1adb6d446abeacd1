# SPDX-License-Identifier: Apache-2.0
"""Output: a file that is there whole under its name, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloudlet_ext.engine.errors import DiskFull, FileMissing, OutputBusy, OutputExists

_COPY_BYTES = 16 << 20


@contextmanager
def atomic_output(path: Path, replace: bool = False) -> Iterator[int]:
    """Give a file descriptor; what is written to it becomes ``path`` when the block ends well.

    Until then it is ``.NAME.partial`` in the same folder, locked, so that a second writer is told
    (OutputBusy) and what a killed writer left is taken over. Raises OutputExists unless
    ``replace``, DiskFull when there is no room.
    """
    check_output(path, replace)
    partial = path.with_name(f".{path.name}.partial")
    was_there, fd = partial.exists(), -1
    with no_space_named(path):
        try:
            fd = _lock(partial, path)
            yield fd
            os.fsync(fd)
            # Whoever wrote the name between the first look and now is not overwritten.
            if not replace and path.exists():
                raise OutputExists(path=str(path))
            os.rename(partial, path)
        except BaseException as failure:
            # An interruption may come when the file is there and its descriptor is not known yet.
            if fd >= 0 or not (was_there or isinstance(failure, OutputBusy)):
                partial.unlink(missing_ok=True)
            raise
        finally:
            if fd >= 0:
                os.close(fd)
        sync_folder(path.parent)


def check_output(path: Path, replace: bool = False) -> None:
    """Raise OutputExists, or FileMissing when the folder is not there."""
    if not replace and path.exists():
        raise OutputExists(path=str(path))
    if not path.absolute().parent.is_dir():
        raise FileMissing(path=str(path.absolute().parent))


@contextmanager
def no_space_named(path: Path) -> Iterator[None]:
    """Turn ENOSPC and EDQUOT inside the block into DiskFull of ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(path=str(path)) from error
        raise


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def seal_file(path: Path) -> None:
    """Make the file durable, and read-only for whom it may be read by."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.fchmod(fd, os.fstat(fd).st_mode & 0o444)
    finally:
        os.close(fd)


def pwrite_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of ``data`` at the file position."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def copy_all(source: int, target: int, length: int) -> None:
    """Copy ``length`` bytes from the start of ``source`` to the position of ``target``."""
    offset = 0
    while offset < length:
        count = min(_COPY_BYTES, length - offset)
        copied = os.sendfile(target, source, offset, count)
        if not copied:
            raise OSError(errno.EIO, "a temporary file became shorter")
        offset += copied


def _lock(partial: Path, path: Path) -> int:
    while True:
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The writer before us may have renamed or removed the file between our open and our
            # lock.
            if partial.exists() and os.path.samestat(os.fstat(fd), os.stat(partial)):
                os.ftruncate(fd, 0)
                return fd
        except BlockingIOError as error:
            os.close(fd)
            raise OutputBusy(path=str(path)) from error
        except FileNotFoundError:
            pass
        os.close(fd)
