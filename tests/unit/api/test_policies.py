# SPDX-License-Identifier: Apache-2.0
"""The rules, enforced by a real enforcer with the roles that Nova defines."""

from __future__ import annotations

import pytest
from oslo_config import cfg
from oslo_policy import policy

from cloudlet_ext import policies
from cloudlet_ext.api import routes

# As Nova defines them.
NOVA = {
    "context_is_admin": "role:admin",
    "project_manager_or_admin": "role:manager and project_id:%(project_id)s or rule:context_is_admin",
    "project_member_or_admin": "role:member and project_id:%(project_id)s or rule:context_is_admin",
    "project_reader_or_admin": "role:reader and project_id:%(project_id)s or rule:context_is_admin",
}
ROLES = {
    "none": [],
    "reader": ["reader"],
    "member": ["member", "reader"],
    "manager": ["manager", "member", "reader"],
    "admin": ["admin", "manager", "member", "reader"],
}

# Rule -> the least role that may.
LEAST = {
    "show": "none",
    "bases:index": "reader",
    "bases:show": "reader",
    "bases:create": "member",
    "bases:delete": "member",
    "bases:precache": "manager",
    "bases:precache:host": "admin",
    "overlays:index": "reader",
    "overlays:show": "reader",
    "overlays:create": "member",
    "overlays:delete": "member",
    "operations:index": "reader",
    "operations:index:all_projects": "admin",
    "operations:show": "reader",
    "operations:show:host": "admin",
    "operations:cancel": "member",
    "synthesize": "member",
}


@pytest.fixture(scope="module")
def enforcer() -> policy.Enforcer:
    conf = cfg.ConfigOpts()
    conf([])
    made = policy.Enforcer(conf)
    made.register_defaults([policy.RuleDefault(name, check) for name, check in NOVA.items()])
    made.register_defaults(policies.list_rules())
    made.load_rules()
    return made


def test_every_rule_is_here() -> None:
    assert {rule.name for rule in policies.list_rules()} == {f"os_compute_api:os-cloudlet:{name}" for name in LEAST}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", LEAST)
def test_roles(enforcer: policy.Enforcer, name: str, role: str) -> None:
    order = list(ROLES)
    rule = f"os_compute_api:os-cloudlet:{name}"
    for project_id in ("mine", "theirs"):
        credentials = {"project_id": "mine", "user_id": "u", "roles": ROLES[role]}
        own = project_id == "mine" or role == "admin" or LEAST[name] == "none"
        may = own and order.index(role) >= order.index(LEAST[name])
        assert bool(enforcer.authorize(rule, {"project_id": project_id}, credentials)) == may


def test_rules_are_documented() -> None:
    paths = set(routes.ROUTES) | {"/servers", "/servers/{server_id}/action"}
    for rule in policies.list_rules():
        assert rule.description.endswith(".")
        assert rule.scope_types == ["project"]
        for operation in rule.operations:
            assert operation["path"].split(" ")[0].split("?")[0] in paths
