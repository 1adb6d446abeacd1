# SPDX-License-Identifier: Apache-2.0
"""Attempt: a measurement that may fail without ending the run."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Protocol


class Run(Protocol):
    """A run of benchmarks, which keeps what failed for its report."""

    failures: list[str]

    def say(self, text: str) -> None:
        """Tell a person what happens."""
        ...


def attempt(run: Run, what: str, action: Callable[[], None]) -> None:
    """One failure does not end the run, but is told."""
    try:
        action()
    except Exception as failure:  # noqa: BLE001 - the border of one measurement
        traceback.print_exc()
        first = (str(failure).strip().splitlines() or [""])[-1]
        run.failures.append(f"{what}: {type(failure).__name__}: {first}")
        run.say(f"{what} FAILED: {first}")
