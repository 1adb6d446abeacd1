# SPDX-License-Identifier: Apache-2.0
"""What all rules share: Nova's own roles, by the names that Nova gives them."""

from __future__ import annotations

from typing import Any

from oslo_policy import policy

# Rules of Nova, which is where ours are registered: an operator who changes them changes ours, too.
ADMIN = "rule:context_is_admin"
PROJECT_MANAGER_OR_ADMIN = "rule:project_manager_or_admin"
PROJECT_MEMBER_OR_ADMIN = "rule:project_member_or_admin"
PROJECT_READER_OR_ADMIN = "rule:project_reader_or_admin"
ANY = "@"

PREFIX = "os_compute_api:os-cloudlet:"


def rule(name: str, check: str, description: str, *operations: tuple[str, str]) -> Any:
    """A rule with its documentation; ``operations`` are (method, path)."""
    return policy.DocumentedRuleDefault(
        name=name,
        check_str=check,
        description=description,
        operations=[{"method": method, "path": path} for method, path in operations],
        scope_types=["project"],
    )
