# SPDX-License-Identifier: Apache-2.0
"""An early start of a domain while something goes wrong."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from cloudlet_ext.job.domain_host import DomainHost
from cloudlet_ext.worker.errors import SourceLost


class Feed:
    """A guest that runs, and whose overlay stops arriving after ``good`` looks."""

    def __init__(self, good: int) -> None:
        self._good = good

    def ask(self, command: str) -> dict[str, str]:
        return {"status": "running"}

    def check(self) -> None:
        self._good -= 1
        if self._good < 0:
            raise SourceLost(overlay="o", reason="nobody answers")


def host(personalise: Any) -> DomainHost:
    started = SimpleNamespace()
    made = DomainHost(SimpleNamespace(), SimpleNamespace(), lambda: started, personalise)  # type: ignore[arg-type]
    made.ready()
    return made


def test_the_overlay_stops_arriving_while_libvirt_waits_for_the_guest() -> None:
    """Who waits for the server hears of it at once."""
    released = threading.Event()

    def personalise(guest: Any) -> dict[str, Any]:
        released.wait(60)
        return {}

    with pytest.raises(SourceLost, match="nobody answers"):
        host(personalise).reply(Feed(2))
    released.set()


def test_what_was_told_is_kept() -> None:
    made = host(lambda guest: {"personal": {"clock": True}})
    assert made.reply(Feed(1000)) is None
    assert made.told == {"personal": {"clock": True}}


def test_what_personalising_raises_is_raised() -> None:
    def personalise(guest: Any) -> dict[str, Any]:
        raise RuntimeError("no such domain")

    with pytest.raises(RuntimeError, match="no such domain"):
        host(personalise).reply(Feed(1000))
