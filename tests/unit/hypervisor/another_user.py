# SPDX-License-Identifier: Apache-2.0
"""Somebody without rights, where the tests have all; and a folder that he can pass through (pytest's are closed)."""

from __future__ import annotations

import contextlib
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

NOBODY, SOMEBODY = 65534, 65533
"""Two users without rights."""


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def as_nobody(act: Callable[[], str], user: int = NOBODY) -> str:
    """What ``act`` gives in a process of that user; of the user that the tests run as, where that is not root."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            os.write(writer, act().encode())
        except BaseException:  # noqa: BLE001 - the border of the process
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        text = said.read().decode()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return text
