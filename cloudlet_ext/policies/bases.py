# SPDX-License-Identifier: Apache-2.0
"""Rules for bases."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.policies import base

INDEX = base.PREFIX + "bases:index"
SHOW = base.PREFIX + "bases:show"
CREATE = base.PREFIX + "bases:create"
DELETE = base.PREFIX + "bases:delete"
PRECACHE = base.PREFIX + "bases:precache"
PRECACHE_HOST = base.PREFIX + "bases:precache:host"


def list_rules() -> list[Any]:
    """All rules of this noun."""
    return [
        base.rule(
            INDEX, base.PROJECT_READER_OR_ADMIN, "List the bases that the user can read.", ("GET", "/os-cloudlet/bases")
        ),
        base.rule(
            SHOW,
            base.PROJECT_READER_OR_ADMIN,
            "Show a base. A base that is private to a project is checked against that project, one that its owner has "
            "shared or published against the user's.",
            ("GET", "/os-cloudlet/bases/{base_id}"),
        ),
        base.rule(
            CREATE,
            base.PROJECT_MEMBER_OR_ADMIN,
            "Create a base from a server.",
            ("POST", "/servers/{server_id}/action (cloudlet-base)"),
        ),
        base.rule(
            DELETE,
            base.PROJECT_MEMBER_OR_ADMIN,
            "Delete a base; checked against the project of its image.",
            ("DELETE", "/os-cloudlet/bases/{base_id}"),
        ),
        base.rule(
            PRECACHE,
            base.PROJECT_MANAGER_OR_ADMIN,
            "Bring a base of the project to all compute hosts ahead of its use.",
            ("POST", "/os-cloudlet/bases/{base_id}/precache (all)"),
        ),
        base.rule(
            PRECACHE_HOST,
            base.ADMIN,
            "Bring a base to a compute host that is named.",
            ("POST", "/os-cloudlet/bases/{base_id}/precache (host)"),
        ),
    ]
