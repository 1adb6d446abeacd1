# SPDX-License-Identifier: Apache-2.0
"""The second half of the main job in a real cloud: of a server's base and overlay, a stranger's copy that runs."""

from __future__ import annotations

from pathlib import Path

from tests.cloud.cloud import Cloud, wait_until
from tests.cloud.images import Images
from tests.cloud.servers import Boot
from tests.cloud.site import BASE, Site, slow_link


def test_a_likeness_by_a_link(cloud: Cloud, boot: Boot, images: Images, site: Site, tmp_path: Path) -> None:
    with slow_link(cloud, site, tmp_path, rate_mbit=38) as url:
        early, address = boot("flow-early", image=BASE, metadata={"overlay_url": url})
        operation = images.ended(early.id)
    assert operation["result"]["placement"] == "early", operation["result"]
    assert cloud.fetched(address) == site.nonce
    assert cloud.fetched(address, "/secret").strip() == site.secret
    assert cloud.shell(address, "md5sum </www/app").split()[0] == site.digest
    disk = cloud.folder.glob(f"hosts/*/state/nova/instances/{early.id}/disk")
    chain = cloud.run("qemu-img", "info", "-U", "--backing-chain", str(next(disk)))
    assert chain.count("image: ") == 2, f"one layer over the image of the base's disk was expected:\n{chain}"


def test_an_overlay_of_nothing_is_small_and_is_mapped(cloud: Cloud, boot: Boot, images: Images, site: Site) -> None:
    app, _ = boot("flow-app", image=BASE)
    images.arrived(app)
    made = images.capture(app, {"cloudlet-overlay-finish": {"overlay-name": "flow-app", "on-finish": "delete"}})
    assert made["result"]["overlay_bytes"] < 1 << 20
    wait_until("the server is deleted", lambda: not cloud.admin.compute.find_server("flow-app", all_projects=True))
    url = f"glance:{made['images']['overlay']}"
    again, address = boot("flow-again", image=BASE, metadata={"overlay_url": url})
    operation = images.ended(again.id)
    assert operation["result"]["placement"] == "mapped", operation["result"]
    assert cloud.fetched(address) == site.nonce
