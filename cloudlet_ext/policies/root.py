# SPDX-License-Identifier: Apache-2.0
"""Rules for what this extension tells of itself."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.policies import base

SHOW = base.PREFIX + "show"


def list_rules() -> list[Any]:
    """All rules of this noun."""
    return [
        base.rule(SHOW, base.ANY, "Show version, capabilities and limits of the extension.", ("GET", "/os-cloudlet"))
    ]
