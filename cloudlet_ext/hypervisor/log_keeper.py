# SPDX-License-Identifier: Apache-2.0
"""Log keepers: they write what QEMU and its guest say to files of bounded size, and end when QEMU does.

A guest over a mapped base can make QEMU complain for as long as it runs (its balloon offers free pages that cannot be
given back), and a guest can write to its console whatever it likes.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

CONSOLE_NAME, OLDER_NAME = "console.log", "console.log.1"
CONSOLE_PIPE = "console.out"
"""Where QEMU writes what the guest says; whoever keeps it reads there."""

CONSOLE_BYTES = 1 << 20
"""What is kept of a console at least. A file that has as much gets its second name, and a new one begins."""

_RUN_READS = 4096
"""A file is looked at after so many reads of at most 1 KiB (QEMU writes the console byte by byte, a busy guest's come
together in the pipe): so it has at most CONSOLE_BYTES and 4 MiB."""

_FIRST = "dd bs=4096 count=2000 status=none; exec cat >/dev/null"

_LAST = f"""
umask 077
size() {{ stat -c %s {CONSOLE_NAME} || echo 0; }}
before=$(size)
while :; do
    if dd bs=1024 count={_RUN_READS} status=none >>{CONSOLE_NAME}; then
        now=$(size)
        [ "$now" -gt "$before" ] || exit 0
        before=$now
        if [ "$now" -ge {CONSOLE_BYTES} ]; then
            mv -f {CONSOLE_NAME} {OLDER_NAME}
            before=0
        fi
    else
        # There is no room: what comes is lost until there is.
        [ "$(dd bs=65536 count=1 status=none | wc -c)" -gt 0 ] || exit 0
    fi
done
"""
"""A shell and dd, not Python: there is one for each server, of which a host is to have many."""


def keep_first(path: Path) -> int:
    """A descriptor for messages, of which the first 2000 are kept in ``path``."""
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        return _kept(_FIRST, reader, writer, log, Path("/"))
    finally:
        os.close(log)


def keep_last(directory: Path) -> int:
    """Make the console's pipe in ``directory``; a descriptor that keeps it open for writing.

    The last mebibyte at least of what comes is in the files CONSOLE_NAME and, before it, OLDER_NAME.
    """
    pipe = directory / CONSOLE_PIPE
    if not pipe.exists():
        os.mkfifo(pipe, 0o600)
    # Without waiting for somebody who writes; then there is somebody who reads.
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.set_blocking(reader, True)
    writer = os.open(pipe, os.O_WRONLY | os.O_CLOEXEC)
    return _kept(_LAST, reader, writer, subprocess.DEVNULL, directory)


def ended(directory: Path, within_s: float = 2.0) -> bool:
    """Whether nobody keeps the console in ``directory`` any more, now or shortly."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            os.close(os.open(directory / CONSOLE_PIPE, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:  # it is not there, or nobody reads it
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)


def _kept(script: str, reader: int, writer: int, log: int, directory: Path) -> int:
    """Start a keeper on a pipe of which it gets the one end; the other."""
    try:
        keeper = subprocess.Popen(
            ["/bin/sh", "-c", script],
            cwd=directory,
            stdin=reader,
            stdout=log,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except BaseException:
        os.close(writer)
        raise
    finally:
        os.close(reader)
    threading.Thread(target=keeper.wait, name="log-keeper", daemon=True).start()
    return writer
