# SPDX-License-Identifier: Apache-2.0
"""What all peers have in common: one file that turns a reference, which both sides have, into a target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from benchmarks.measure import Measured, run

_TIMEOUT_S = 900.0


class Peer(ABC):
    """A program that makes a file of the difference.

    The reference is the base's memory and disk joined, the target the server's save and disk layer joined: a peer may
    find disk content in memory and the other way round.
    """

    name: str
    title: str

    @abstractmethod
    def encoder(self, reference: Path, target: Path, out: Path) -> list[str | Path]:
        """Command that writes ``out``."""

    @abstractmethod
    def decoder(self, reference: Path, target: Path) -> list[str | Path]:
        """Command that reads what the encoder wrote from standard input and writes ``target``."""

    def encode(self, reference: Path, target: Path, out: Path) -> Measured:
        """Write ``out``."""
        out.unlink(missing_ok=True)
        return run(self.encoder(reference, target, out), _TIMEOUT_S)
