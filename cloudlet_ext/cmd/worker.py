# SPDX-License-Identifier: Apache-2.0
"""cloudlet-worker: does one operation for nova-compute; see :mod:`cloudlet_ext.job.channel`.

Ended by SIGTERM it undoes what it has begun. Its exit status is 0 when the operation was done.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Any, NoReturn

from cloudlet_ext import __version__
from cloudlet_ext.cmd.streams import replace_closed
from cloudlet_ext.exception import CloudletError
from cloudlet_ext.job import errors
from cloudlet_ext.job.channel import Channel, ChannelReport

_JOBS = {
    "base-create": ("base_create", "run"),
    "overlay-create": ("overlay_create", "run"),
    "base-precache": ("precache", "run"),
    "base-resume": ("synthesis", "run_resume"),
    "synthesis": ("synthesis", "run_synthesis"),
}
_PR_SET_DUMPABLE = 4
_DESCRIPTION = """\
Does one operation for nova-compute, which starts this program where an operation needs it; nobody else has to. It reads
the job from standard input, one line of JSON, and tells how far it is on standard output, one line of JSON each. Ended
by SIGTERM it undoes what it has begun.
"""
_EPILOG = """\
exit status:
    0  done
  143  ended by SIGTERM
  else the operation failed; the last line of standard output says why
"""


class Cancelled(BaseException):
    """nova-compute, or an operator, wants the operation to end."""


def _cancel(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_IGN)
    raise Cancelled


def _guard_secrets() -> None:
    """No core dump and no look into this process by others of the same user: it holds a token."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.umask(0o077)


def _run(channel: Channel) -> dict[str, Any]:
    # Everything is loaded before there is a job: a process may wait for one.
    jobs = {kind: importlib.import_module(f"cloudlet_ext.job.{module}") for kind, (module, _) in _JOBS.items()}
    job = channel.read_job()
    if job["type"] not in _JOBS:
        raise errors.BadJob(field="type", reason=f"{job['type']!r} is none of {', '.join(_JOBS)}")
    run = getattr(jobs[job["type"]], _JOBS[job["type"]][1])
    result: dict[str, Any] = run(job, channel, ChannelReport(channel))
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cloudlet-worker",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cloudlet-worker {__version__}")
    return parser


def main() -> NoReturn:
    """Do the job on standard input."""
    replace_closed()
    _parser().parse_args()
    _guard_secrets()
    signal.signal(signal.SIGTERM, _cancel)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(sys.stdin, sys.stdout)
    status, last = _outcome(channel)
    # What is to be undone is undone: the last word is not to be interrupted.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel.end(last.pop("event"), **last)
    sys.stderr.flush()
    # Threads are not waited for: libvirt may keep one until a guest that gets no more memory has ended.
    os._exit(status)


def _outcome(channel: Channel) -> tuple[int, dict[str, Any]]:
    """Exit status and last event."""
    try:
        return 0, {"event": "done", "result": _run(channel)}
    except Cancelled:
        return 143, {"event": "failed", "kind": "Cancelled", "error": "The operation was cancelled."}
    except CloudletError as failure:
        return failure.exit_code, {"event": "failed", "kind": type(failure).__name__, "error": str(failure)}
    except Exception as failure:  # noqa: BLE001 - the border of the process
        traceback.print_exc()
        error = f"{type(failure).__name__}: {failure}"
        return 1, {"event": "failed", "kind": type(failure).__name__, "error": error}


if __name__ == "__main__":
    main()
