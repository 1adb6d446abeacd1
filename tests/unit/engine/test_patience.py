# SPDX-License-Identifier: Apache-2.0
"""When to try again, and when to give up."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cloudlet_ext.engine.errors import SourceGaveUp, SourceInterrupted
from cloudlet_ext.engine.patience import RECOVERED_BYTES, Patience, Trouble, resumed

ERROR = SourceInterrupted(source="here", offset=0, reason="it rains")


def test_delays_double_up_to_the_longest() -> None:
    patience = Patience(first_delay_s=1, longest_delay_s=5)
    for attempt, full in ((1, 1), (2, 2), (3, 4), (4, 5), (10_000, 5)):
        delays = [patience.delay_s(attempt) for _ in range(100)]
        assert full / 2 <= min(delays) < max(delays) <= full


def test_gives_up_after_so_many_attempts() -> None:
    trouble = Trouble(Patience(attempts=3))
    trouble.failed(ERROR)
    trouble.failed(ERROR)
    with pytest.raises(SourceGaveUp, match=r"3 attempts .* it rains") as caught:
        trouble.failed(ERROR)
    assert caught.value.cause is ERROR


def test_gives_up_rather_than_waiting_too_long() -> None:
    with pytest.raises(SourceGaveUp):
        Trouble(Patience(first_delay_s=10, longest_delay_s=10, give_up_s=4)).failed(ERROR)


def test_counts_anew_when_enough_came() -> None:
    trouble = Trouble(Patience(attempts=3))
    trouble.failed(ERROR)
    trouble.came(RECOVERED_BYTES - 1)
    trouble.failed(ERROR)
    assert trouble.attempts == 2
    trouble.came(1)
    trouble.failed(ERROR)
    assert trouble.attempts == 1


def test_resumes_where_it_broke_off() -> None:
    content, asked = bytes(range(256)) * 400, []

    def attempt(offset: int, length: int) -> Iterator[bytes]:
        asked.append((offset, length))
        yield content[offset : offset + 20_000]
        if offset + 20_000 < len(content):
            yield content[offset + 20_000 : offset + 30_000]
            raise ERROR

    pieces = resumed(attempt, 1000, len(content) - 1000, Patience(attempts=2, first_delay_s=0), threading.Event())
    assert b"".join(pieces)[: len(content) - 1000] == content[1000:]
    assert asked == [(offset, len(content) - offset) for offset in range(1000, len(content), 30_000)]


def test_waiting_ends_when_closed() -> None:
    closed, asked = threading.Event(), []
    closed.set()

    def attempt(offset: int, length: int) -> Iterator[bytes]:
        asked.append(offset)
        if len(asked) < 5:
            raise ERROR
        yield b"x"

    assert list(resumed(attempt, 0, 1, Patience(first_delay_s=60, longest_delay_s=60, give_up_s=900), closed)) == [b"x"]
