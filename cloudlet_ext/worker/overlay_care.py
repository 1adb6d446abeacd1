# SPDX-License-Identifier: Apache-2.0
"""Care of overlay files: whoever changes one has it alone, so that no change is lost to another."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cloudlet_ext.engine import signature
from cloudlet_ext.engine.errors import FileMissing
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.overlay import OverlayFile
from cloudlet_ext.worker import errors


@contextlib.contextmanager
def changing(path: Path) -> Iterator[None]:
    """Exclusive use of an overlay file, also against processes with other homes.

    :class:`errors.Busy` names the process that changes it now; FileMissing.
    """
    descriptor = _locked(path)
    try:
        yield
    finally:
        os.close(descriptor)


def sign(path: Path, key_path: Path) -> tuple[str, str]:
    """Sign an overlay in place with the private key in a PEM file; the overlay's identity, the public key in hex.

    Raises what :func:`changing` raises, BadKey, FormatError.
    """
    key = signature.load_private_key(key_path)
    with changing(path):
        source = FileSource(str(path))
        try:
            overlay_id = OverlayFile.open(source).overlay_id
        finally:
            source.close()
        signature.sign_overlay(path, key)
    return overlay_id, key.public_key().public_bytes_raw().hex()


def _locked(path: Path) -> int:
    while True:
        try:
            # A named pipe in its place must not be waited for.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as failure:
            raise FileMissing(path=str(path)) from failure
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it before may have put another file in its place.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BlockingIOError:
            holder = _holder(os.fstat(descriptor))
            os.close(descriptor)
            raise errors.Busy(what="overlay", name=path, pid=holder) from None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _holder(status: os.stat_result) -> str:
    """The process that has locked a file, as /proc/locks has it: ``1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE``."""
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1:2] == ["FLOCK"] and fields[5:6] == [wanted]:
                return fields[4]
    return "unknown"
