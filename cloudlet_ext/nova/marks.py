# SPDX-License-Identifier: Apache-2.0
"""Marks in a server's system metadata: how it began."""

from __future__ import annotations

from typing import Any

STARTED = "cloudlet_started"
"""It took up a captured state; the value is the placement of its memory."""
ARRIVING = "cloudlet_arriving"
"""Its overlay has not arrived whole, or never will."""

ALL = (STARTED, ARRIVING)


def clear(instance: Any) -> None:
    """Take them out of a server's metadata, which somebody else saves: it begins anew."""
    for mark in ALL:
        instance.system_metadata.pop(mark, None)
