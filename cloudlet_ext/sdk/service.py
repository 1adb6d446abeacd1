# SPDX-License-Identifier: Apache-2.0
"""CloudletService: how a connection of openstacksdk comes to its ``cloudlet`` proxy.

The cloudlet API has no endpoint of its own: it is part of the compute service's. There are three ways to it::

    connection = openstack.connect(cloud="edge")
    cloudlet_ext.sdk.attach(connection)

    openstack.connect(cloud="edge", vendor_hook="cloudlet_ext.sdk.service:attach")

    openstack.connection.Connection(cloud="edge", extra_services=[cloudlet_ext.sdk.CloudletService()])

``vendor_hook: cloudlet_ext.sdk.service:attach`` may also stand in a cloud's part of ``clouds.yaml``; then
``connection.cloudlet.bases()`` works in every program that uses this cloud.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openstack.service_description import ServiceDescription

from cloudlet_ext.sdk.proxy import Proxy

if TYPE_CHECKING:
    from openstack.connection import Connection


class CloudletService(ServiceDescription[Proxy]):
    """Describes the service to a connection: named ``cloudlet``, found where the compute service is."""

    def __init__(self) -> None:
        super().__init__("cloudlet", {"1": Proxy})

    def _make_proxy(self, instance: Any) -> Any:
        """A proxy of ours on the compute service's endpoint.

        All that a connection knows of it holds: region, interface, ``compute_endpoint_override``,
        ``compute_api_version``.
        """
        return ServiceDescription("compute", {"2": Proxy})._make_proxy(instance)


def attach(connection: Connection) -> None:
    """Give ``connection`` its ``cloudlet`` proxy. Contacts nobody. May be done twice."""
    connection.add_service(CloudletService())
