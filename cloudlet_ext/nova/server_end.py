# SPDX-License-Identifier: Apache-2.0
"""Stop or delete a server after its overlay was made, as its user would: through this cloud's own API.

nova-compute could do either itself, but not all of it: quotas, allocations and mappings are the API's.
"""

from __future__ import annotations

from typing import Any

from keystoneauth1 import exceptions as auth_exceptions
from keystoneauth1 import session as auth_session
from keystoneauth1 import token_endpoint
from nova import conf as nova_conf
from nova import service_auth
from novaclient import client as nova_client
from oslo_log import log as logging

from cloudlet_ext.exception import CloudletError

CONF = nova_conf.CONF
LOG = logging.getLogger(__name__)
STOP, DELETE = "stop", "delete"
_VERSION, _USER = "2.1", "service_user"


class NoComputeEndpoint(CloudletError):
    """Keystone's catalogue does not lead to this cloud's compute API."""

    msg_fmt = (
        "The catalogue has no compute API in %(region)s with the interface %(interfaces)s. Set [cloudlet] "
        "compute_region_name and compute_interfaces on the compute host."
    )


def is_configured() -> bool:
    """Whether this host has credentials to ask the catalogue with."""
    try:
        return service_auth.get_service_auth_plugin(_USER) is not None
    except auth_exceptions.ClientException as failure:
        LOG.warning("[%s] cannot be used: %s", _USER, failure)
        return False


def end(context: Any, instance: Any, how: str) -> None:
    """``stop`` or ``delete``; what novaclient raises when the user may not, or cannot. :class:`NoComputeEndpoint`."""
    session = service_auth.get_service_auth_session(_USER)
    endpoint = _endpoint(session)
    users = auth_session.Session(
        auth=token_endpoint.Token(endpoint, context.auth_token),
        verify=session.verify,
        cert=session.cert,
        timeout=session.timeout,
    )
    servers = nova_client.Client(_VERSION, session=users, endpoint_override=endpoint).servers
    (servers.delete if how == DELETE else servers.stop)(instance.uuid)


def _endpoint(session: Any) -> str:
    # Of all services that Nova is told the region of, Placement alone is always in Nova's own.
    region, interfaces = (
        CONF.cloudlet.compute_region_name or CONF.placement.region_name,
        CONF.cloudlet.compute_interfaces,
    )
    auth = service_auth.get_service_auth_plugin(_USER)
    try:
        found = auth.get_endpoint(session, service_type="compute", interface=interfaces, region_name=region)
    except auth_exceptions.EndpointNotFound:
        found = None
    if found is None:
        told = f"region {region}" if region else "any region"
        raise NoComputeEndpoint(region=told, interfaces=" or ".join(interfaces))
    return str(found)
