# SPDX-License-Identifier: Apache-2.0
"""When a time limit ends."""

from __future__ import annotations

import time

import pytest

from cloudlet_ext.job.patience import Patience

LIMIT_S = 0.05


def ended_after(memory_s: float) -> float:
    """Seconds until the limit is over, of a guest whose memory is here after ``memory_s``."""
    began = time.monotonic()
    patience = Patience(lambda: time.monotonic() < began + memory_s, LIMIT_S)
    while not patience.is_over():
        time.sleep(0.001)
    return time.monotonic() - began


def test_it_ends_when_it_says() -> None:
    assert LIMIT_S <= ended_after(0.0) < 2 * LIMIT_S


@pytest.mark.parametrize("memory_s", [0.02, 0.3])
def test_memory_that_comes_does_not_count(memory_s: float) -> None:
    assert memory_s + LIMIT_S <= ended_after(memory_s) < memory_s + 4 * LIMIT_S
