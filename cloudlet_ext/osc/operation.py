# SPDX-License-Identifier: Apache-2.0
"""``openstack cloudlet operation``: long requests, with state and progress."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from openstack import exceptions

from cloudlet_ext.osc.command import Command, Lister, ShowOne, fields, table
from cloudlet_ext.osc.figures import PairsColumn, RateColumn, SecondsColumn, ShareColumn, SizeColumn, StagesColumn
from cloudlet_ext.sdk.errors import Missing
from cloudlet_ext.sdk.operation import Operation
from cloudlet_ext.sdk.proxy import Proxy, is_uuid

_COLUMNS = {
    "id": "ID",
    "type": "Type",
    "state": "State",
    "stage": "Stage",
    "share": "Done",
    "server_id": "Server",
    "created_at": "Created At",
}
_FIELDS = (
    "id",
    "type",
    "state",
    "stage",
    "stages",
    "done_bytes",
    "total_bytes",
    "rate_bytes_per_s",
    "estimate_s",
    "server_id",
    "project_id",
    "user_id",
    "host",
    "images",
    "error",
    "result",
    "created_at",
    "updated_at",
)
_FORMATS = {
    "share": ShareColumn,
    "stages": StagesColumn,
    "done_bytes": SizeColumn,
    "total_bytes": SizeColumn,
    "rate_bytes_per_s": RateColumn,
    "estimate_s": SecondsColumn,
    "images": PairsColumn,
    "result": PairsColumn,
}


def find_operation(proxy: Proxy, given: str) -> Operation:
    """An operation by its id, or the latest one of a server by the server's name or id. Missing."""
    if is_uuid(given):
        try:
            return proxy.get_operation(given)
        except exceptions.NotFoundException:
            pass
    try:
        server_id = proxy.connection.compute.find_server(given, ignore_missing=False).id
    except exceptions.NotFoundException as error:
        raise Missing(kind="operation", name=given) from error
    known = sorted(proxy.operations(server_id=server_id), key=lambda each: each.created_at or "")
    if not known:
        raise Missing(kind="operation", name=given)
    return known[-1]


def _add_operation(parser: ArgumentParser, words: str) -> None:
    parser.add_argument(
        "operation", metavar="<operation>|<server>", help=f"Operation to {words} (ID, or a server for its latest)"
    )


class ListOperation(Lister):
    """List operations: those under way, and those that have ended lately."""

    example = """
    openstack cloudlet operation list
    openstack cloudlet operation list --server face-1
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("--server", metavar="<server>", help="List only those of this server (name or ID)")
        parser.add_argument("--all-projects", action="store_true", help="List those of all projects (administrators)")

    def take_action(self, parsed_args: Namespace) -> tuple[Any, Any]:
        """Ask for them."""
        server_id = None
        if parsed_args.server:
            query = {"all_projects": True} if parsed_args.all_projects else {}
            server_id = self.connection.compute.find_server(parsed_args.server, ignore_missing=False, **query).id
        known = self.proxy.operations(server_id, all_projects=parsed_args.all_projects)
        return table(sorted(known, key=lambda each: each.created_at or "", reverse=True), _COLUMNS, _FORMATS)


class ShowOperation(ShowOne):
    """Show an operation: how far it is, and why it failed if it did."""

    example = """
    openstack cloudlet operation show face-1
    openstack cloudlet operation show 2f9d5a1c-6f0e-4c1b-9a57-0e1d8f4b7c33 -f value -c state
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        _add_operation(parser, "show")

    def take_action(self, parsed_args: Namespace) -> tuple[Any, Any]:
        """Ask for it."""
        return fields(find_operation(self.proxy, parsed_args.operation), _FIELDS, _FORMATS)


class CancelOperation(Command):
    """Cancel an operation: it ends, and what it has made is undone.

    A server that was being captured goes on; one that was being synthesised or resumed is powered off.
    """

    example = """
    openstack cloudlet operation cancel 2f9d5a1c-6f0e-4c1b-9a57-0e1d8f4b7c33
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        _add_operation(parser, "cancel")

    def take_action(self, parsed_args: Namespace) -> None:
        """Ask for its end."""
        operation = find_operation(self.proxy, parsed_args.operation)
        self.proxy.cancel_operation(operation)
        self.say(f"Operation {operation.id} ({operation.type}) is being cancelled.")
