# SPDX-License-Identifier: Apache-2.0
"""Rules for overlays."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.policies import base

INDEX = base.PREFIX + "overlays:index"
SHOW = base.PREFIX + "overlays:show"
CREATE = base.PREFIX + "overlays:create"
DELETE = base.PREFIX + "overlays:delete"


def list_rules() -> list[Any]:
    """All rules of this noun."""
    return [
        base.rule(
            INDEX,
            base.PROJECT_READER_OR_ADMIN,
            "List the overlays that the user can read.",
            ("GET", "/os-cloudlet/overlays"),
        ),
        base.rule(
            SHOW,
            base.PROJECT_READER_OR_ADMIN,
            "Show an overlay. One that is private to a project is checked against that project, one that its owner has "
            "shared or published against the user's.",
            ("GET", "/os-cloudlet/overlays/{overlay_id}"),
        ),
        base.rule(
            CREATE,
            base.PROJECT_MEMBER_OR_ADMIN,
            "Create an overlay from a server. To stop or delete the server afterwards, Nova's own rules for that must "
            "allow it, too.",
            ("POST", "/servers/{server_id}/action (cloudlet-overlay-finish)"),
        ),
        base.rule(
            DELETE,
            base.PROJECT_MEMBER_OR_ADMIN,
            "Delete an overlay; checked against the project of its image.",
            ("DELETE", "/os-cloudlet/overlays/{overlay_id}"),
        ),
    ]
