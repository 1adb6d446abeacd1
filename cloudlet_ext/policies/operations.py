# SPDX-License-Identifier: Apache-2.0
"""Rules for operations."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.policies import base

INDEX = base.PREFIX + "operations:index"
INDEX_ALL_PROJECTS = base.PREFIX + "operations:index:all_projects"
SHOW = base.PREFIX + "operations:show"
SHOW_HOST = base.PREFIX + "operations:show:host"
CANCEL = base.PREFIX + "operations:cancel"

_ONE = "/os-cloudlet/operations/{operation_id}"


def list_rules() -> list[Any]:
    """All rules of this noun."""
    return [
        base.rule(
            INDEX, base.PROJECT_READER_OR_ADMIN, "List the operations of a project.", ("GET", "/os-cloudlet/operations")
        ),
        base.rule(
            INDEX_ALL_PROJECTS,
            base.ADMIN,
            "List the operations of all projects.",
            ("GET", "/os-cloudlet/operations?all_projects=true"),
        ),
        base.rule(SHOW, base.PROJECT_READER_OR_ADMIN, "Show an operation.", ("GET", _ONE)),
        base.rule(
            SHOW_HOST,
            base.ADMIN,
            "See the compute host of an operation; null is answered to others.",
            ("GET", "/os-cloudlet/operations"),
            ("GET", _ONE),
        ),
        base.rule(CANCEL, base.PROJECT_MEMBER_OR_ADMIN, "Cancel an operation that has not ended.", ("DELETE", _ONE)),
    ]
