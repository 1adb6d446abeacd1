# SPDX-License-Identifier: Apache-2.0
"""``openstack cloudlet overlay``: how servers differ from their bases, in disk and memory."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from osc_lib.exceptions import CommandError

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
from cloudlet_ext.sdk.choice import choose_base
from cloudlet_ext.sdk.errors import BaseMissing, NotReady
from cloudlet_ext.sdk.overlay import Overlay, is_url
from cloudlet_ext.sdk.waiting import wait_for_operation

_COLUMNS = {
    "id": "ID",
    "name": "Name",
    "status": "Status",
    "size_bytes": "Size",
    "memory_mb": "RAM",
    "vcpus": "VCPUs",
    "visibility": "Visibility",
}
_LONG_COLUMNS = _COLUMNS | {
    "overlay_id": "Overlay ID",
    "base_id": "Base ID",
    "project_id": "Project",
    "created_at": "Created At",
}
_FIELDS = (
    "id",
    "name",
    "status",
    "size_bytes",
    "overlay_id",
    "base_id",
    "base_image_id",
    "memory_mb",
    "vcpus",
    "visibility",
    "project_id",
    "created_at",
)
_FORMATS = {"size_bytes": SizeColumn}

_PROBE = re.compile(r"(?:tcp|http://):(?P<port>\d{1,5})(?P<path>/\S*)?", re.ASCII)


def _shown(overlay: Overlay) -> tuple[Any, Any]:
    return fields(overlay, _FIELDS, _FORMATS)


def probe(words: str) -> str:
    """Type of an argument: a probe of the guest, or a port of it."""
    text = f"tcp:{words}" if words.isdecimal() else words
    if text.startswith("console:") and len(text) > len("console:"):
        return text
    found = _PROBE.fullmatch(text)
    if found and 0 < int(found["port"]) < 65536 and not (found["path"] and text.startswith("tcp")):
        return text
    raise ArgumentTypeError(
        f"expected a port of the guest (80), a URL of it (http://:80/path) or console:TEXT, got {words!r}"
    )


class CreateOverlay(ShowOne):
    """Make an overlay of a running server: what differs from its base, in disk and memory.

    With --record, the overlay is then synthesised once in a scratch server until the probe has its answer, and
    what that server needed is put first, so that a synthesis answers sooner.
    """

    example = """
    openstack cloudlet overlay create dev-1 --name face-app --record http://:80/ --wait
    openstack cloudlet overlay create dev-1 --name face-app --on-finish delete
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("server", metavar="<server>", help="Server to capture (name or ID)")
        parser.add_argument("--name", metavar="<name>", required=True, help="Name of the new overlay")
        parser.add_argument(
            "--on-finish",
            choices=("resume", "stop", "delete"),
            default="resume",
            help="What becomes of the server afterwards (default: resume)",
        )
        parser.add_argument(
            "--record",
            metavar="<probe>",
            type=probe,
            help="Put first what is needed until this answers: a port of the guest (80), a URL of it (http://:80/path) "
            "or a text on its console (console:TEXT)",
        )
        parser.add_argument("--wait", action="store_true", help="Wait until the overlay can be used, with progress")

    def take_action(self, parsed_args: Namespace) -> tuple[Any, Any]:
        """Begin, and wait if asked to."""
        source = self.connection.compute.find_server(parsed_args.server, ignore_missing=False)
        begun = self.proxy.create_overlay(
            source, parsed_args.name, on_finish=parsed_args.on_finish, record=parsed_args.record
        )
        image_id = begun.images["overlay"]
        if not parsed_args.wait:
            return ("id", "name", "operation"), (image_id, parsed_args.name, begun.operation_id)
        with self.waiting(begun.operation_id) as progress:
            wait_for_operation(self.proxy, begun.operation_id, progress.operation)
        names, values = _shown(self.proxy.get_overlay(image_id))
        return (*names, "operation"), (*values, begun.operation_id)


class ListOverlay(Lister):
    """List overlays."""

    example = """
    openstack cloudlet overlay list
    openstack cloudlet overlay list -f json --long
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        add_list_options(parser, "overlay")

    def take_action(self, parsed_args: Namespace) -> tuple[Any, Any]:
        """Ask for them."""
        columns = _LONG_COLUMNS if parsed_args.long else _COLUMNS
        return table(self.proxy.overlays(**list_query(parsed_args)), columns, _FORMATS)


class ShowOverlay(ShowOne):
    """Show an overlay."""

    example = """
    openstack cloudlet overlay show face-app
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("overlay", metavar="<overlay>", help="Overlay to show (name or ID)")

    def take_action(self, parsed_args: Namespace) -> tuple[Any, Any]:
        """Ask for it."""
        return _shown(self.proxy.find_overlay(parsed_args.overlay))


class SetOverlay(Command):
    """Change name or visibility of an overlay."""

    example = """
    openstack cloudlet overlay set face-app --public
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("overlay", metavar="<overlay>", help="Overlay to change (name or ID)")
        parser.add_argument("--name", metavar="<name>", help="New name")
        add_visibility(parser)

    def take_action(self, parsed_args: Namespace) -> None:
        """Change it."""
        if not parsed_args.name and not parsed_args.visibility:
            raise CommandError("Nothing to change: expected --name, --public or --private.")
        overlay = self.proxy.find_overlay(parsed_args.overlay)
        self.proxy.update_overlay(overlay, name=parsed_args.name, visibility=parsed_args.visibility)


class SaveOverlay(Command):
    """Write an overlay to a file, to be put on a web server or imported into another cloud.

    The file appears under its name when it is whole. "cloudlet overlay show" tells what it holds.
    """

    example = """
    openstack cloudlet overlay save face-app face.cloudlet
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("overlay", metavar="<overlay>", help="Overlay to save (name or ID)")
        parser.add_argument("file", metavar="<file>", type=Path, help="File to write")
        parser.add_argument("--force", action="store_true", help="Replace the file if it is there")

    def take_action(self, parsed_args: Namespace) -> None:
        """Fetch it."""
        from cloudlet_ext.sdk.overlay_transfer import save_overlay

        overlay = self.proxy.find_overlay(parsed_args.overlay)
        with self.transfer("save", overlay.size_bytes or 0) as count:
            written = save_overlay(self.connection, overlay, parsed_args.file, count, parsed_args.force)
        self.say(f"Overlay {overlay.name} is in {parsed_args.file} ({size(written)}).")


class ImportOverlay(ShowOne):
    """Make an overlay of a file, or of what is at a URL.

    The client reads it (http and https; the server must support Range requests) and sends it to the cloud, checking
    every part on the way. After a failure no image is left.
    """

    example = """
    openstack cloudlet overlay import face.cloudlet --name face-app
    openstack cloudlet overlay import https://apps.example.org/face.cloudlet --name face-app
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("overlay", metavar="<file>|<url>", help="Overlay to import")
        parser.add_argument("--name", metavar="<name>", help="Name of the overlay (default: that of the file)")

    def take_action(self, parsed_args: Namespace) -> tuple[Any, Any]:
        """Send it."""
        from cloudlet_ext.sdk.overlay_transfer import import_overlay, opened

        given = parsed_args.overlay
        name = parsed_args.name or Path(urlsplit(given).path if is_url(given) else given).stem
        if not name:
            raise CommandError(f"{given} ends in no name of a file: expected --name NAME.")
        with opened(given) as (overlay, source), self.transfer("import", overlay.file_bytes) as count:
            base_image_id = self._base_image(overlay.base_id, name)
            image_id = import_overlay(self.connection, overlay, source, name, count, base_image_id)
        return _shown(self.proxy.get_overlay(image_id))

    def _base_image(self, base_id: str | None, name: str) -> str | None:
        """The base of the overlay in this cloud; without it, the overlay can be kept but not be synthesised."""
        try:
            base = choose_base(base_id or "none", self.proxy.bases(), self.connection.current_project_id, name)
        except (BaseMissing, NotReady) as error:
            self.say(f"Note: {error}")
            return None
        return base.id


class DeleteOverlay(Command):
    """Delete overlays.

    Servers that have all their pages go on.
    """

    example = """
    openstack cloudlet overlay delete face-app
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("overlay", metavar="<overlay>", nargs="+", help="Overlays to delete (names or IDs)")

    def take_action(self, parsed_args: Namespace) -> None:
        """Delete them."""
        delete_all(parsed_args.overlay, lambda name: self.proxy.delete_overlay(self.proxy.find_overlay(name)))
