# SPDX-License-Identifier: Apache-2.0
"""Policies: who may do what, one module for each noun of the REST API."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.policies import bases, operations, overlays, root, servers


def list_rules() -> list[Any]:
    """All rules, for the service's enforcer and for oslopolicy-sample-generator."""
    return [rule for noun in (root, bases, overlays, operations, servers) for rule in noun.list_rules()]
