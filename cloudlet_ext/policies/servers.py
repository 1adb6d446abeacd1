# SPDX-License-Identifier: Apache-2.0
"""Rules for servers."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.policies import base

SYNTHESIZE = base.PREFIX + "synthesize"


def list_rules() -> list[Any]:
    """All rules of this noun."""
    return [
        base.rule(
            SYNTHESIZE,
            base.PROJECT_MEMBER_OR_ADMIN,
            "Create a server from a base and an overlay. Nova's own rules for the creation of servers apply as well.",
            ("POST", "/servers (metadata overlay_url)"),
        )
    ]
