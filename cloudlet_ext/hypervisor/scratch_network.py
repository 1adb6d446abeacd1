# SPDX-License-Identifier: Apache-2.0
"""Scratch network: a network namespace in which there is a guest and this process, and nobody else.

A guest that is there by mistake of nobody's making, a copy of one that runs, must meet neither the original nor the
world. Needs root, and ``ip`` of iproute2.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cloudlet_ext.hypervisor import errors

_NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_TIMEOUT_S = 10.0

T = TypeVar("T")


@dataclass(frozen=True)
class Neighbour:
    """How this process appears to the guest: an address with its prefix (``192.168.1.1/24``), by a tap device."""

    tap: str
    address: str


class ScratchNetwork:
    """The namespace ``name``, which goes with :meth:`close`. :class:`errors.NetworkFailed`."""

    def __init__(self, name: str) -> None:
        self.name = name
        _ip("netns", "add", name)
        try:
            self._inside("link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def take(self, neighbour: Neighbour) -> None:
        """Move a tap device of a domain into the namespace, and give it this side's address."""
        _ip("link", "set", "dev", neighbour.tap, "netns", self.name)
        self._inside("link", "set", "dev", neighbour.tap, "up")
        family = ["nodad"] if ":" in neighbour.address else []
        self._inside("address", "add", neighbour.address, "dev", neighbour.tap, *family)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in a thread of the namespace; what it returns, or raises."""
        answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                with _entered(self.name):
                    answers.put((function(), None))
            except BaseException as failure:  # noqa: BLE001 - raised again by the caller
                answers.put((None, failure))

        threading.Thread(target=run, name="scratch-network", daemon=True).start()
        answer, failure = answers.get()
        if failure is not None:
            raise failure
        return answer  # type: ignore[return-value]

    def _inside(self, *words: str) -> None:
        _ip("-netns", self.name, *words)

    def close(self) -> None:
        """Remove the namespace."""
        with contextlib.suppress(errors.NetworkFailed):
            _ip("netns", "delete", self.name)


@contextlib.contextmanager
def _entered(name: str) -> Iterator[None]:
    """This thread is in the namespace; it must not do anything else afterwards."""
    descriptor = os.open(_NAMESPACES / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"the network namespace {name} cannot be entered")
        yield
    finally:
        os.close(descriptor)


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise errors.NetworkFailed(command=" ".join(words), reason=str(failure)) from failure
    if done.returncode:
        raise errors.NetworkFailed(command=" ".join(words), reason=done.stderr.strip() or f"status {done.returncode}")
