# SPDX-License-Identifier: Apache-2.0
"""``openstack cloudlet synthesize``: base + overlay becomes a running server."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from osc_lib.exceptions import CommandError

from cloudlet_ext.engine.errors import SourceError
from cloudlet_ext.osc import server
from cloudlet_ext.sdk.base import Base
from cloudlet_ext.sdk.choice import choose_base
from cloudlet_ext.sdk.errors import NotReady
from cloudlet_ext.sdk.overlay import is_url


class Synthesize(server.Start):
    """Start a server from an overlay: the guest goes on where the overlay was made.

    The overlay is one of this cloud, or at a URL that the compute hosts can read and are allowed to. Without
    --base, the base image that the overlay names is looked for; without --flavor, the smallest flavor that fits
    it is taken; without --network, the only one there is. The server is ACTIVE when its guest runs, which may be
    before all of its pages have arrived.
    """

    example = """
    openstack cloudlet synthesize --overlay face-app face-1 --wait
    openstack cloudlet synthesize --overlay https://apps.example.org/face.cloudlet --base ubuntu-base face-2
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument(
            "--overlay", metavar="<overlay>", required=True, help="Overlay: name or ID, or URL (https://...)"
        )
        parser.add_argument("--base", metavar="<base>", help="Base (name or ID; default: the one that fits)")
        server.add_options(parser)

    def take_action(self, parsed_args: Namespace) -> tuple[Any, Any]:
        """Create the server."""
        given = parsed_args.overlay
        if is_url(given):
            base = self._base(parsed_args.base, given, lambda: self._told_by(given))
            return self.start(base, parsed_args, given)
        overlay = self.proxy.find_overlay(given)
        if overlay.status != "active":
            raise NotReady(kind="overlay", name=overlay.name, image_id=overlay.id, status=overlay.status)
        base = self._base(parsed_args.base, overlay.name, lambda: overlay.base_id)
        return self.start(base, parsed_args, f"glance:{overlay.id}")

    def _base(self, given: str | None, overlay: str, base_id: Any) -> Base:
        """The base that was given, or the one with what ``base_id()`` says."""
        if given:
            return self.proxy.find_base(given)
        return choose_base(base_id(), self.proxy.bases(), self.connection.current_project_id, overlay)

    def _told_by(self, url: str) -> str:
        """The base that the overlay at ``url`` was made for."""
        # The engine takes a second to import on a busy machine, and is not needed for overlays of the cloud.
        from cloudlet_ext.sdk.overlay_transfer import base_id_of

        try:
            return base_id_of(url)
        except SourceError as error:
            raise CommandError(
                f"From here it cannot be told for which base the overlay was made: {error} "
                "If the compute hosts can read it, say which base: --base BASE"
            ) from error
