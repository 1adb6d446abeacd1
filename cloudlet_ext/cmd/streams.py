# SPDX-License-Identifier: Apache-2.0
"""Standard streams that were closed by whoever started the program (``<&-``, ``>&-``)."""

from __future__ import annotations

import os
import sys


def replace_closed() -> None:
    """Let ``/dev/null`` stand for each of them.

    Python has None in such a stream's place, prints to None on standard output, and gives its number to the next
    file that is opened, which a child would take for its own standard stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # In this order each gets the lowest number that is free: its own.
            stream = open(os.devnull, mode, encoding="utf-8")
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
