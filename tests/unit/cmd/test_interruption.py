# SPDX-License-Identifier: Apache-2.0
"""Signals become one exception; what is being undone is left in peace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudlet_ext.cmd.interruption import SIGNALS, Interrupted, Watch


@pytest.fixture
def watch() -> Iterator[Watch]:
    before = [(number, signal.getsignal(number)) for number in SIGNALS]
    watch = Watch()
    watch.install()
    yield watch
    for number, handler in before:
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_is_an_exception(watch: Watch, number: signal.Signals, code: int) -> None:
    with pytest.raises(Interrupted) as caught:
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == code
    assert watch.raised is caught.value
    # The second one, of an impatient person, does not break off the undoing. The third does.
    os.kill(os.getpid(), number)
    with pytest.raises(Interrupted):
        os.kill(os.getpid(), number)


def test_after_the_end_a_signal_does_nothing(watch: Watch) -> None:
    watch.stop()
    os.kill(os.getpid(), signal.SIGTERM)
    assert watch.raised is None


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        Watch().install()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command(number: signal.Signals, tmp_path: Path) -> None:
    """A command that waits for its standard input, in the place where guests would be waited for."""
    fifo = tmp_path / "overlay"
    os.mkfifo(fifo)
    words = ["--home", tmp_path / "home", "--json", "overlay", "delete", fifo]
    script = "import sys, cloudlet_ext.cmd.overlay_delete as c, time\n"
    script += "def wait(call): call.report.stage('wait'); time.sleep(60)\nc.run = wait\n"
    script += "from cloudlet_ext.cmd.cloudlet import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", script, *words], stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr
        assert '"wait"' in running.stderr.readline()
        running.send_signal(number)
        _, error = running.communicate(timeout=30)
    assert running.returncode == 128 + number
    assert '"kind": "Interrupted"' in error and "Traceback" not in error
