# SPDX-License-Identifier: Apache-2.0
"""A working set is recorded where the server runs, and nobody but the compute host notices."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.manifest import WORKING_SET
from cloudlet_ext.engine.overlay import OverlayFile
from tests.cloud.cloud import Cloud, wait_until
from tests.cloud.images import Images
from tests.cloud.inventory import networks
from tests.cloud.servers import Boot
from tests.cloud.site import APP_MIB, BASE, Site


def wish(name: str, probe: str) -> dict[str, dict[str, str]]:
    return {"cloudlet-overlay-finish": {"overlay-name": name, "record": probe}}


def test_what_a_reply_needs_comes_first(cloud: Cloud, boot: Boot, images: Images, site: Site, tmp_path: Path) -> None:
    """Of one server; another one, side by side with it, does not answer as it should."""
    begun = boot.begin("recorded", image=BASE, metadata={"overlay_url": f"glance:{site.overlay}"})
    (silent, other_address), (server, address) = boot("silent", image=BASE), cloud.answers(begun)
    for one in (silent, server):
        images.arrived(one)
    assert cloud.fetched(address, "/secret").strip() == site.secret
    before = networks(cloud)
    never = images.begin(silent, wish("never", "http://:80/none"))
    made = images.ended(images.begin(server, wish("recorded", "http://:80/secret")))
    assert_recorded(made, downloaded(cloud, made, tmp_path))
    assert cloud.fetched(address, "/secret").strip() == site.secret, "the original goes on"
    operation = images.ended(never, state="failed")
    assert "404" in operation["error"], operation["error"]
    assert cloud.fetched(other_address) == site.nonce
    wait_until("networks are as before", lambda: networks(cloud) == before, seen=lambda: (before, networks(cloud)))

    url = f"glance:{made['images']['overlay']}"
    likeness, its_address = boot("likeness", image=BASE, metadata={"overlay_url": url})
    images.ended(likeness.id)
    assert cloud.fetched(its_address, "/secret").strip() == site.secret


def downloaded(cloud: Cloud, made: dict[str, Any], folder: Path) -> Path:
    file = folder / "overlay"
    cloud.connect("member").image.download_image(made["images"]["overlay"], output=str(file))
    return file


def assert_recorded(made: dict[str, Any], file: Path) -> None:
    """A part of the overlay was needed, and was put first before anybody saw it."""
    assert made["result"]["working_set_chunks"] > 50, made["result"]
    with contextlib.closing(FileSource(str(file))) as source:
        overlay = OverlayFile.open(source)
        early = [segment for segment in overlay.segments if segment.section == WORKING_SET]
    end = early[-1].offset + early[-1].stored_bytes
    # Nobody has asked for the app's noise.
    assert end < overlay.file_bytes - (APP_MIB << 20) * 3 // 4, (end, overlay.file_bytes)
    stages = [stage["name"] for stage in made["stages"]]
    assert stages.index("record") < stages.index("reorder") < stages.index("upload")


def test_a_probe_of_the_console(cloud: Cloud, boot: Boot, images: Images, site: Site) -> None:
    server, address = boot("talks", image=BASE)
    images.arrived(server)
    cloud.shell(address, "(while :; do echo still here; sleep 1; done) >/dev/ttyS0 2>/dev/null </dev/null &")
    made = images.capture(server, wish("talks", "console:still here"))
    assert made["result"]["working_set_chunks"] > 0, made["result"]
