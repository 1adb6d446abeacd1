# SPDX-License-Identifier: Apache-2.0
"""The main job in a real cloud: from a server to its base, its app, and a stranger's copy of it that runs."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from benchmarks.file_server import FileServer
from benchmarks.shaper import Shaper
from tests.cloud.cloud import WAN, Cloud, wait_until
from tests.cloud.conftest import Boot
from tests.cloud.images import Images

MEMORY_ONLY = "/www"
"""What the guest's web server shows; it is in the guest's memory, and on no disk."""


def synthesised(boot: Boot, images: Images, name: str, overlay_url: str) -> tuple[Any, str, dict[str, Any]]:
    """A server of an overlay, its address, its operation."""
    server, address = boot(name, image="flow-base", metadata={"overlay_url": overlay_url})
    return server, address, images.ended(server.id)


def test_from_a_server_to_its_likeness(cloud: Cloud, boot: Boot, images: Images, tmp_path: Path) -> None:
    source, address = boot("flow-source")
    nonce = cloud.fetch(address, "/nonce")
    images.capture(source, {"cloudlet-base": {"name": "flow-base"}})
    assert cloud.fetched(address) == nonce, "the source goes on"
    assert cloud.active(source).task_state is None

    # A resumed base is the source as it was, with an address of its own.
    app, app_address = boot("flow-app", image="flow-base")
    assert app_address != address
    assert cloud.fetch(app_address, "/nonce") == nonce
    assert cloud.connect("member").compute.get_server(app.id).task_state is None

    # The app is in memory only, and does not compress: it is fetched while the guest runs.
    secret = secrets.token_hex(8)
    script = f"dd if=/dev/urandom of={MEMORY_ONLY}/app bs=1M count=6 2>/dev/null; echo {secret} >{MEMORY_ONLY}/secret"
    cloud.shell(app_address, f"{script}; md5sum <{MEMORY_ONLY}/app")
    digest = cloud.shell(app_address, f"md5sum <{MEMORY_ONLY}/app").split()[0]
    made = images.capture(app, {"cloudlet-overlay-finish": {"overlay-name": "flow-app"}})
    assert made["result"]["overlay_bytes"] > 6 << 20
    assert cloud.fetched(app_address, "/secret").strip() == secret

    file = tmp_path / "app.cloudlet"
    cloud.connect("member").image.download_image(made["images"]["overlay"], output=str(file))
    with FileServer(tmp_path) as server, Shaper(server.address, rate_mbit=38, rtt_ms=1, listen=f"{WAN}:0") as link:
        url = server.url(file.name, link.address)
        early, early_address, operation = synthesised(boot, images, "flow-early", url)
    assert operation["result"]["placement"] == "early", operation["result"]
    assert cloud.fetched(early_address, "/secret").strip() == secret
    assert cloud.shell(early_address, f"md5sum <{MEMORY_ONLY}/app").split()[0] == digest
    assert len({address, app_address, early_address}) == 3
    disk = cloud.folder.glob(f"hosts/*/state/nova/instances/{early.id}/disk")
    chain = cloud.run("qemu-img", "info", "-U", "--backing-chain", str(next(disk)))
    assert chain.count("image: ") == 2, f"one layer over the image of the base's disk was expected:\n{chain}"


def test_an_overlay_of_nothing_is_small_and_is_mapped(cloud: Cloud, boot: Boot, images: Images) -> None:
    source, _ = boot("flow-source")
    images.capture(source, {"cloudlet-base": {"name": "flow-base"}})
    app, _ = boot("flow-app", image="flow-base")
    made = images.capture(app, {"cloudlet-overlay-finish": {"overlay-name": "flow-app", "on-finish": "delete"}})
    assert made["result"]["overlay_bytes"] < 1 << 20
    wait_until("the server is deleted", lambda: not cloud.admin.compute.find_server("flow-app", all_projects=True))
    _, _, operation = synthesised(boot, images, "flow-again", f"glance:{made['images']['overlay']}")
    assert operation["result"]["placement"] == "mapped", operation["result"]
