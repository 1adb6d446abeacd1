# SPDX-License-Identifier: Apache-2.0
"""Progress: how long work tells its caller how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all). What it raises ends the work, which then cleans up.
"""


def no_progress(done: int, total: int) -> None:
    """Tell nobody."""
