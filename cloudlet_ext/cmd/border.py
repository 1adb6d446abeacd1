# SPDX-License-Identifier: Apache-2.0
"""The process border: runs one command, and turns what happens into output, one line about an error, an exit code."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from argparse import Namespace
from typing import NamedTuple

from cloudlet_ext.cmd import parser, progress
from cloudlet_ext.cmd.call import Call, Outcome
from cloudlet_ext.cmd.interruption import Interrupted, Watch
from cloudlet_ext.exception import CloudletError

LOG = logging.getLogger(__name__)

_PIPE_CLOSED_CODE = 141
_LOCAL_CODE = 8
_INTERRUPTED = "Interrupted"


class _Told(NamedTuple):
    """An error as it is told."""

    kind: str
    message: str
    exit_code: int
    facts: dict[str, object]


def run(words: list[str], watch: Watch) -> int:
    """Run the command that ``words`` name; the exit code."""
    given = words[: words.index("--")] if "--" in words else words
    _configure_logging("--debug" in given)
    left: list[str] = []
    try:
        return _run(parser.parse(words), watch, left)
    except BrokenPipeError:
        # Whoever read the output has what they want. Python would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED_CODE
    except (Exception, Interrupted) as error:
        LOG.debug("the command failed", exc_info=error)
        told = _told(error, watch)
        if left:
            told = told._replace(message=" ".join([told.message, *left]), facts={**told.facts, "left": left})
        elif told.kind == _INTERRUPTED:
            told = told._replace(message=f"{told.message} What was begun was undone.")
        _tell(told, as_json="--json" in given)
        return told.exit_code


def _told(error: BaseException, watch: Watch) -> _Told:
    signal = error if isinstance(error, Interrupted) else watch.raised
    if signal is not None:
        # Whatever else it looks like: what is interrupted may fail in its own way (an import of numpy does).
        return _Told(_INTERRUPTED, "Interrupted.", signal.exit_code, {})
    kind = type(error).__name__
    if isinstance(error, CloudletError):
        return _Told(kind, f"{error} {error.hint}".strip(), error.exit_code, error.facts)
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        facts = {"errno": error.errno, "path": error.filename}
        return _Told(kind, f"{place}{error.strerror or error}", _LOCAL_CODE, facts)
    return _Told(kind, f"{kind}: {error} (an error in cloudlet itself; --debug shows where)", 1, {})


def _run(arguments: Namespace, watch: Watch, left: list[str]) -> int:
    """Run the command; its output is written when nothing can be undone any more.

    ``left`` gets sentences on what is there although it did not end well.
    """
    report = progress.choose_report(as_json=arguments.json, quiet=arguments.quiet)
    command = parser.load(arguments.words)
    call = Call(arguments, report)
    try:
        outcome = command.run(call)
    except BaseException:
        watch.stop()
        report.close(failed=True)
        if watch.raised is not None:
            _undo(call)
        left += report.left
        raise
    watch.stop()
    report.close()
    _print(outcome, as_json=arguments.json)
    return outcome.exit_code


def _undo(call: Call) -> None:
    """Remove what an interruption left that came between making something and noting that it is there."""
    if "home" in call.__dict__:
        from cloudlet_ext.worker import server_care

        with contextlib.suppress(CloudletError, OSError):
            server_care.undo_own(call.home)


def _print(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(outcome.document, indent=2, default=str))
    elif outcome.text:
        print(outcome.text)
    sys.stdout.flush()


def _tell(told: _Told, *, as_json: bool) -> None:
    """One line on standard error."""
    line = f"cloudlet: {' '.join(told.message.split())}"
    if as_json:
        line = json.dumps({"error": told._asdict()}, default=str)
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _configure_logging(debug: bool) -> None:
    if debug:
        logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(threadName)s %(name)s: %(message)s")
    else:
        logging.getLogger().addHandler(logging.NullHandler())

    def in_thread(failure: threading.ExceptHookArgs) -> None:
        """A thread's failure is told by the operation that it belonged to."""
        name = failure.thread.name if failure.thread else "a thread"
        LOG.debug("%s failed", name, exc_info=failure.exc_value)

    threading.excepthook = in_thread
