# SPDX-License-Identifier: Apache-2.0
"""What a command is given, what it gives back, and what a command is."""

from __future__ import annotations

import contextlib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cloudlet_ext.worker.report import Report

if TYPE_CHECKING:
    from cloudlet_ext.worker.home import Home


@dataclass(frozen=True)
class Outcome:
    """What a command found or did: ``document`` for programs (plain JSON values), ``text`` for people."""

    document: Any
    text: str
    exit_code: int = 0


class Call:
    """One call of a command: its arguments, and the report that shows its progress."""

    def __init__(self, arguments: Namespace, report: Report) -> None:
        self.arguments = arguments
        self.report = report

    @cached_property
    def home(self) -> Home:
        """Where bases and servers are kept."""
        # Not at the top: the library below takes longer to import than --help may take.
        from cloudlet_ext.worker.home import Home

        return Home(self.arguments.home)

    @contextlib.contextmanager
    def telling(self, path: Path, sentence: Callable[[], str]) -> Iterator[None]:
        """When the block fails or is interrupted, and has put another file or folder at ``path`` before: say so.

        Looked at, not noted down: an interruption may come between making something and noting that it is there.
        """
        before = _identity(path)
        try:
            yield
        except BaseException:
            if _identity(path) not in (None, before):
                self.report.leaves(sentence())
            raise


def _identity(path: Path) -> tuple[int, int] | None:
    """What stands at a path; None when nothing does."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Command(Protocol):
    """A module of one command. It imports nothing but this at its top, so that all of them are read at once."""

    SUMMARY: str
    """One line for the list of commands."""

    DESCRIPTION: str
    """What it does and leaves behind."""

    EXAMPLE: str
    """Command lines to copy, one a line."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare its arguments."""
        ...

    def run(self, call: Call) -> Outcome:
        """Do it. Raises CloudletError."""
        ...
