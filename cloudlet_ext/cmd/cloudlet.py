# SPDX-License-Identifier: Apache-2.0
"""``cloudlet``: the command line's entry point."""

from __future__ import annotations

import sys

from cloudlet_ext.cmd.interruption import Interrupted, Watch
from cloudlet_ext.cmd.streams import replace_closed

_SWITCH_INTERVAL_S = 0.0005
"""Threads that serve a guest's page faults share the interpreter with those that unpack: with Python's usual 5 ms a
fault waits longer for its turn than for its page."""


def main(argv: list[str] | None = None) -> int:
    """Entry point; the exit code."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    watch = Watch()
    watch.install()
    replace_closed()
    try:
        # Not at the top: an interruption should find the watch in place as early as possible.
        from cloudlet_ext.cmd.border import run

        return run(sys.argv[1:] if argv is None else argv, watch)
    except Interrupted as signal:
        print("cloudlet: interrupted", file=sys.stderr)
        return signal.exit_code


if __name__ == "__main__":
    sys.exit(main())
