# SPDX-License-Identifier: Apache-2.0
"""Stop or delete a server after its overlay was made, as its user would: through this cloud's own API.

nova-compute could do either itself, but not all of it: quotas, allocations and mappings are the API's.
"""

from __future__ import annotations

from typing import Any

from keystoneauth1 import session as auth_session
from keystoneauth1 import token_endpoint
from nova import conf as nova_conf
from nova import service_auth
from novaclient import client as nova_client

CONF = nova_conf.CONF
STOP, DELETE = "stop", "delete"
_VERSION = "2.1"


def end(context: Any, instance: Any, how: str) -> None:
    """``stop`` or ``delete``; what novaclient raises when the user may not, or cannot."""
    session = service_auth.get_service_auth_session("service_user")
    auth = service_auth.get_service_auth_plugin("service_user")
    # Nova is told its region with each service that it uses; all are those of its own.
    endpoint = auth.get_endpoint(session, service_type="compute", region_name=CONF.glance.region_name)
    users = auth_session.Session(
        auth=token_endpoint.Token(endpoint, context.auth_token), verify=CONF.service_user.cafile or True
    )
    servers = nova_client.Client(_VERSION, session=users, endpoint_override=endpoint).servers
    (servers.delete if how == DELETE else servers.stop)(instance.uuid)
