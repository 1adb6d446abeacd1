# SPDX-License-Identifier: Apache-2.0
"""The command line, called as its users do but in this process."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudlet_ext.cmd.cloudlet import main
from cloudlet_ext.cmd.interruption import SIGNALS

GOLDEN = Path(__file__).parents[2] / "golden/v1"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    error: str

    @property
    def document(self) -> Any:
        """What was written for programs."""
        return json.loads(self.output)

    @property
    def told(self) -> Any:
        """The error as told to programs."""
        return json.loads(self.error.splitlines()[-1])["error"]


class CommandLine:
    """``cloudlet(...)`` runs a command in a home of its own."""

    def __init__(self, home: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.home, self._capture = home, capture

    def __call__(self, *words: object) -> Ended:
        self._capture.readouterr()
        code = main(["--home", str(self.home), *map(str, words)])
        said = self._capture.readouterr()
        return Ended(code, said.out, said.err)


@pytest.fixture
def cloudlet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    interval, hook = sys.getswitchinterval(), threading.excepthook
    yield CommandLine(tmp_path / "home", capsys)
    for number, handler in before:
        signal.signal(number, handler)
    sys.setswitchinterval(interval)
    threading.excepthook = hook


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """A copy of the golden overlay."""
    return Path(shutil.copy(GOLDEN / "overlay", tmp_path / "golden.cloudlet"))


@pytest.fixture
def base(cloudlet: CommandLine) -> str:
    """The golden base, imported."""
    assert cloudlet("base", "import", GOLDEN / "base-file", "--name", "golden").code == 0
    return "golden"
