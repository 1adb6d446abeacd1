# SPDX-License-Identifier: Apache-2.0
"""Schemas of the list of extensions: its entries are in the form of Nova's own."""

from __future__ import annotations

from cloudlet_ext.api.schemas import parameters as p

EXTENSION = p.fields(
    {
        "alias": p.TEXT,
        "description": p.TEXT,
        "links": p.array({"type": "object"}),
        "name": p.TEXT,
        "namespace": p.TEXT,
        "updated": p.TIME,
    }
)

INDEX_ANSWER = p.fields({"extensions": p.array(EXTENSION)})
SHOW_ANSWER = p.fields({"extension": EXTENSION})
