# SPDX-License-Identifier: Apache-2.0
"""GET /os-cloudlet."""

from __future__ import annotations

from typing import Any

from cloudlet_ext.api.schemas import root as schemas
from cloudlet_ext.api.views import root as view
from cloudlet_ext.nova.call import Call
from cloudlet_ext.policies import root as policies


def show(call: Call) -> Any:
    """Version, capabilities and limits."""
    call.authorize(policies.SHOW, call.context.project_id)
    call.query(schemas.NO_QUERY)
    shown = view.show(call.services.conf.cloudlet)
    return call.answer(200, {"cloudlet": shown}, schemas.SHOW_ANSWER)
