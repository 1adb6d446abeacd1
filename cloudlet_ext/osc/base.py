# SPDX-License-Identifier: Apache-2.0
"""``openstack cloudlet base``: booted guests that everything else is a difference to."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from osc_lib.exceptions import CommandError

from cloudlet_ext.osc import server
from cloudlet_ext.osc.command import (
    Command,
    Lister,
    ShowOne,
    add_list_options,
    add_visibility,
    delete_all,
    fields,
    list_query,
    table,
)
from cloudlet_ext.osc.figures import SizeColumn, size
from cloudlet_ext.sdk.base import Base
from cloudlet_ext.sdk.base_archive import PARTS, Archive
from cloudlet_ext.sdk.base_transfer import images_of, import_base, save_base
from cloudlet_ext.sdk.waiting import wait_for_operation

_COLUMNS = {
    "id": "ID",
    "name": "Name",
    "status": "Status",
    "memory_mb": "RAM",
    "vcpus": "VCPUs",
    "min_disk_gb": "Min Disk",
    "visibility": "Visibility",
}
_LONG_COLUMNS = _COLUMNS | {
    "disk_bytes": "Disk Size",
    "memory_bytes": "Memory Size",
    "base_id": "Base ID",
    "project_id": "Project",
    "created_at": "Created At",
}
_FIELDS = (
    "id",
    "name",
    "status",
    "base_id",
    "memory_image_id",
    "memory_mb",
    "vcpus",
    "min_disk_gb",
    "disk_bytes",
    "memory_bytes",
    "visibility",
    "project_id",
    "created_at",
)
_FORMATS = {"disk_bytes": SizeColumn, "memory_bytes": SizeColumn}


def _shown(base: Base) -> tuple[Any, Any]:
    return fields(base, _FIELDS, _FORMATS)


class CreateBase(ShowOne):
    """Make a base of a running server.

    The server's memory and disk are captured and kept as two images: a bootable disk image, and a hidden one
    with the memory. The server stands still for a moment, then it goes on.
    """

    example = """
    openstack cloudlet base create build-1 --name ubuntu-base --wait
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("server", metavar="<server>", help="Server to capture (name or ID)")
        parser.add_argument("--name", metavar="<name>", required=True, help="Name of the new base")
        parser.add_argument("--wait", action="store_true", help="Wait until the base can be used, with progress")

    def take_action(self, parsed_args: Namespace) -> tuple[Any, Any]:
        """Begin, and wait if asked to."""
        source = self.connection.compute.find_server(parsed_args.server, ignore_missing=False)
        begun = self.proxy.create_base(source, parsed_args.name)
        image_id = begun.images["base-disk"]
        if not parsed_args.wait:
            names = ("id", "name", "memory_image_id", "operation")
            return names, (image_id, parsed_args.name, begun.images["base-memory"], begun.operation_id)
        with self.waiting(begun.operation_id) as progress:
            wait_for_operation(self.proxy, begun.operation_id, progress.operation)
        names, values = _shown(self.proxy.get_base(image_id))
        return (*names, "operation"), (*values, begun.operation_id)


class ListBase(Lister):
    """List bases."""

    example = """
    openstack cloudlet base list --long
    openstack cloudlet base list --name ubuntu-base -f value -c ID
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        add_list_options(parser, "base")

    def take_action(self, parsed_args: Namespace) -> tuple[Any, Any]:
        """Ask for them."""
        columns = _LONG_COLUMNS if parsed_args.long else _COLUMNS
        return table(self.proxy.bases(**list_query(parsed_args)), columns, _FORMATS)


class ShowBase(ShowOne):
    """Show a base."""

    example = """
    openstack cloudlet base show ubuntu-base -f json
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("base", metavar="<base>", help="Base to show (name or ID)")

    def take_action(self, parsed_args: Namespace) -> tuple[Any, Any]:
        """Ask for it."""
        return _shown(self.proxy.find_base(parsed_args.base))


class SetBase(Command):
    """Change name or visibility of a base: of both its images, or of neither.

    Without visibility of its memory, a base would be a mere disk image to others. To make images public
    usually takes an administrator.
    """

    example = """
    openstack cloudlet base set ubuntu-base --public
    openstack cloudlet base set ubuntu-base --name ubuntu-24.04
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("base", metavar="<base>", help="Base to change (name or ID)")
        parser.add_argument("--name", metavar="<name>", help="New name")
        add_visibility(parser)

    def take_action(self, parsed_args: Namespace) -> None:
        """Change it."""
        if not parsed_args.name and not parsed_args.visibility:
            raise CommandError("Nothing to change: expected --name, --public or --private.")
        base = self.proxy.find_base(parsed_args.base)
        self.proxy.update_base(base, name=parsed_args.name, visibility=parsed_args.visibility)


class SaveBase(Command):
    """Write a base to one file, to be imported into another cloud.

    The file appears under its name when it is whole.
    """

    example = """
    openstack cloudlet base save ubuntu-base ubuntu.base.tar
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("base", metavar="<base>", help="Base to save (name or ID)")
        parser.add_argument("file", metavar="<file>", type=Path, help="File to write")
        parser.add_argument("--force", action="store_true", help="Replace the file if it is there")

    def take_action(self, parsed_args: Namespace) -> None:
        """Fetch both images."""
        base = self.proxy.find_base(parsed_args.base)
        total = sum(image["size"] for image in images_of(self.connection, base).values())
        with self.transfer("save", total) as count:
            written = save_base(self.connection, base, parsed_args.file, count, parsed_args.force)
        self.say(f"Base {base.name} is in {parsed_args.file} ({size(written)}).")


class ImportBase(ShowOne):
    """Make a base of a file that "base save" has written.

    Everything is checked before the base can be used; after a failure no image is left.
    """

    example = """
    openstack cloudlet base import ubuntu.base.tar --name ubuntu-base
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("file", metavar="<file>", type=Path, help="File to read")
        parser.add_argument("--name", metavar="<name>", help="Name of the base (default: the one in the file)")

    def take_action(self, parsed_args: Namespace) -> tuple[Any, Any]:
        """Send both images."""
        with Archive(parsed_args.file) as archive:
            total = sum(archive.manifest.images[part].bytes for part in PARTS)
            with self.transfer("import", total) as count:
                name = parsed_args.name or archive.manifest.name
                image_id = import_base(self.connection, archive, name, count)
        return _shown(self.proxy.get_base(image_id))


class DeleteBase(Command):
    """Delete bases, each with both its images.

    Servers that run on a base go on; overlays that were made for it can no longer be synthesised here.
    """

    example = """
    openstack cloudlet base delete ubuntu-base
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("base", metavar="<base>", nargs="+", help="Bases to delete (names or IDs)")

    def take_action(self, parsed_args: Namespace) -> None:
        """Delete them."""
        delete_all(parsed_args.base, lambda name: self.proxy.delete_base(self.proxy.find_base(name)))


class PrecacheBase(Lister):
    """Bring a base into the cache of compute hosts, so that the first synthesis there is as fast as the next.

    --all is for managers of the base's project, --host for administrators. "operation show" tells how far each
    host is.
    """

    example = """
    openstack cloudlet base precache ubuntu-base --all
    openstack cloudlet base precache ubuntu-base --host edge-3
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("base", metavar="<base>", help="Base to bring (name or ID)")
        group = parser.add_mutually_exclusive_group(required=True)
        group.add_argument("--host", metavar="<host>", help="Compute host")
        group.add_argument("--all", action="store_true", help="All compute hosts")

    def take_action(self, parsed_args: Namespace) -> tuple[Any, Any]:
        """Begin."""
        base = self.proxy.find_base(parsed_args.base)
        operations = self.proxy.precache_base(base, parsed_args.host)
        return ("Operation",), ((operation,) for operation in operations)


class ResumeBase(server.Start):
    """Start a server whose guest goes on where the base was captured: its memory is resumed, not booted.

    Without --flavor, the smallest flavor that fits the base is taken; without --network, the only one there is.
    """

    example = """
    openstack cloudlet base resume ubuntu-base --flavor m1.base --network private dev-1 --wait
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("base", metavar="<base>", help="Base to resume (name or ID)")
        server.add_options(parser)

    def take_action(self, parsed_args: Namespace) -> tuple[Any, Any]:
        """Create the server."""
        return self.start(self.proxy.find_base(parsed_args.base), parsed_args)
