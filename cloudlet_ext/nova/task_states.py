# SPDX-License-Identifier: Apache-2.0
"""Task states that servers have while an operation works on them."""

from __future__ import annotations

from nova.objects import fields

BASE_CREATE = "cloudlet_base_create"
OVERLAY_CREATE = "cloudlet_overlay_create"
SYNTHESIS = "cloudlet_synthesis"
"""The server is ACTIVE, its guest runs, and the rest of its overlay is on its way."""

ALL = (BASE_CREATE, OVERLAY_CREATE, SYNTHESIS)


def register() -> None:
    """Let Nova's versioned notifications carry these states, which otherwise refuse what they do not know.

    To be called in every process that saves a server in one of them; any number of times.
    """
    # All fields of this kind share one object, which was made when Nova's modules were loaded.
    shared = fields.InstanceTaskStateField.AUTO_TYPE
    shared._valid_values = tuple(dict.fromkeys((*shared._valid_values, *ALL)))
