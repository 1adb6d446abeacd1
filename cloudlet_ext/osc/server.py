# SPDX-License-Identifier: Apache-2.0
"""Starting a server on a base: what ``base resume`` and ``synthesize`` have in common."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from cloudlet_ext.osc.command import ShowOne
from cloudlet_ext.sdk.base import Base
from cloudlet_ext.sdk.choice import choose_flavor, choose_network
from cloudlet_ext.sdk.operation import ENDED
from cloudlet_ext.sdk.waiting import Started, wait_for_server

NO_NETWORK, AUTO_NETWORK = "none", "auto"


def add_options(parser: ArgumentParser) -> None:
    """Declare what a new server needs."""
    parser.add_argument("name", metavar="<server-name>", help="Name of the new server")
    parser.add_argument(
        "--flavor", metavar="<flavor>", help="Flavor (name or ID); its RAM and VCPUs must be those of the base"
    )
    parser.add_argument(
        "--network",
        metavar="<network>",
        help=f"Network (name or ID), '{AUTO_NETWORK}' as Nova chooses, or '{NO_NETWORK}'",
    )
    parser.add_argument("--wait", action="store_true", help="Wait until the guest runs, with progress")


class Start(ShowOne):
    """A command that starts a server on a base."""

    def start(self, base: Base, parsed_args: Namespace, overlay_url: str | None = None) -> tuple[Any, Any]:
        """Create the server, and wait if asked to; what a ShowOne returns."""
        flavor = self._flavor(base, parsed_args.flavor)
        networks = self._networks(parsed_args.network)
        server = self.proxy.start_server(parsed_args.name, base, flavor, networks, overlay_url)
        if not parsed_args.wait:
            return ("id", "name", "status", "operation"), (server.id, parsed_args.name, "BUILD", server.id)
        with self.waiting(server.id) as progress:
            started = wait_for_server(self.proxy, server.id, progress.operation)
        self._tell_rest(started)
        return _shown(started)

    def _flavor(self, base: Base, given: str | None) -> str:
        compute = self.connection.compute
        if given:
            return str(compute.find_flavor(given, ignore_missing=False).id)
        flavor = choose_flavor(base, compute.flavors())
        self.say(f"Flavor: {flavor.name}")
        return str(flavor.id)

    def _networks(self, given: str | None) -> str | list[dict[str, str]]:
        if given in (NO_NETWORK, AUTO_NETWORK):
            return given
        network = self.connection.network
        if given:
            return [{"uuid": network.find_network(given, ignore_missing=False).id}]
        chosen = choose_network(network.networks(), self.connection.current_project_id)
        self.say(f"Network: {chosen.name}")
        return [{"uuid": chosen.id}]

    def _tell_rest(self, started: Started) -> None:
        """The guest runs; say so if something is still being done, such as fetching its remaining pages."""
        operation = started.operation
        if operation is not None and operation.state not in ENDED:
            stage = operation.stage or operation.state
            self.say(f"The guest runs; the rest ({stage}) goes on: openstack cloudlet operation show {operation.id}")


def _shown(started: Started) -> tuple[Any, Any]:
    server = started.server
    addresses = {network: [address["addr"] for address in ports] for network, ports in (server.addresses or {}).items()}
    names = ("id", "name", "status", "addresses", "operation")
    told = "; ".join(f"{network}={', '.join(found)}" for network, found in addresses.items())
    return names, (server.id, server.name, server.status, told, server.id)
