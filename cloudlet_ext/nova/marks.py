# SPDX-License-Identifier: Apache-2.0
"""Marks in a server's system metadata: how it began."""

from __future__ import annotations

import uuid
from typing import Any

STARTED = "cloudlet_started"
"""It took up a captured state; the value is the placement of its memory."""
ARRIVING = "cloudlet_arriving"
"""Its overlay has not arrived whole, or never will."""

GENERATION = "cloudlet_generation"
"""Its VM generation id, where its guest was set back: what began with a captured state, or was rebuilt."""

ALL = (STARTED, ARRIVING, GENERATION)


def generation(instance: Any) -> str:
    """The VM generation id of a server: the same at every boot, since a new one says that the guest was set back."""
    return str(instance.system_metadata.get(GENERATION) or uuid.uuid5(uuid.UUID(instance.uuid), GENERATION))


def new_generation(instance: Any) -> str:
    """Give a server another one, which somebody else saves."""
    instance.system_metadata[GENERATION] = str(uuid.uuid4())
    return generation(instance)


def clear(instance: Any) -> None:
    """Take them out of a server's metadata, which somebody else saves: it begins anew."""
    for mark in ALL:
        instance.system_metadata.pop(mark, None)
