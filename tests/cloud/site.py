# SPDX-License-Identifier: Apache-2.0
"""The first half of the main job, which all other tests go on from: a base, and an overlay of an app on it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.file_server import FileServer
from benchmarks.shaper import Shaper
from tests.cloud.cloud import WAN, Cloud
from tests.cloud.images import Images
from tests.cloud.servers import Boot

BASE = "site-base"
"""The name of the base's image."""

SLOW_MBIT = 3.0
"""The site's overlay needs some 17 s at this rate."""

APP_MIB = 6
_APP = f"dd if=/dev/urandom of=/www/app bs=1M count={APP_MIB} 2>/dev/null; md5sum </www/app; echo {{}} >/www/secret"
"""What the guest's web server shows is in the guest's memory, and on no disk; noise does not compress."""


@dataclass(frozen=True)
class Site:
    """A base, and an overlay of it. ``nonce``: of the guest that was booted; ``secret`` and what has the ``digest``
    are in the overlay's memory only."""

    base: str
    base_id: str
    overlay: str
    nonce: str
    secret: str
    digest: str


@contextlib.contextmanager
def made(cloud: Cloud) -> Iterator[Site]:
    """As long as the block lasts. Both captures leave their servers as they were."""
    images, boot = Images(cloud), Boot(cloud)
    try:
        source, address = boot("site-source")
        nonce = cloud.fetched(address)
        base = images.capture(source, {"cloudlet-base": {"name": BASE}})
        assert cloud.fetched(address) == nonce, "the source has not run on"
        assert cloud.admin.compute.get_server(source.id).task_state is None

        # A resumed base is the source as it was, with an address of its own.
        app, app_address = boot("site-app", image=BASE)
        assert app_address != address
        assert cloud.fetched(app_address) == nonce
        resumed = cloud.operation_ended(app.id)
        assert resumed["state"] == "succeeded", resumed
        assert cloud.settled(app, "ACTIVE").task_state is None

        secret = secrets.token_hex(8)
        digest = cloud.shell(app_address, _APP.format(secret)).split()[0]
        overlay = images.capture(app, {"cloudlet-overlay-finish": {"overlay-name": "site-app"}})
        assert overlay["result"]["overlay_bytes"] > APP_MIB << 20
        assert cloud.fetched(app_address, "/secret").strip() == secret, "the app has not run on"
        cloud.delete(*boot.made)
        ids = base["images"]["base-disk"], base["result"]["base_id"], overlay["images"]["overlay"]
        yield Site(*ids, nonce, secret, digest)
    finally:
        cloud.delete(*boot.made)
        images.delete()


@contextlib.contextmanager
def slow_link(cloud: Cloud, site: Site, folder: Path, rate_mbit: float = SLOW_MBIT) -> Iterator[str]:
    """URL of the site's overlay behind a thin link."""
    file = folder / "app.cloudlet"
    if not file.exists():
        cloud.connect("member").image.download_image(site.overlay, output=str(file))
    with FileServer(folder) as server, Shaper(server.address, rate_mbit=rate_mbit, rtt_ms=1, listen=f"{WAN}:0") as link:
        yield server.url(file.name, link.address)
