# SPDX-License-Identifier: Apache-2.0
"""A working set is recorded where the server runs, and nobody but the compute host notices."""

from __future__ import annotations

from tests.cloud.cloud import Cloud
from tests.cloud.conftest import Boot
from tests.cloud.images import Images, Site


def networks(cloud: Cloud) -> str:
    """Namespaces and devices on all hosts."""
    return "".join(cloud.run("ip", *words, host=host) for host in cloud.hosts for words in (["netns"], ["-br", "link"]))


def test_what_a_reply_needs_comes_first(cloud: Cloud, boot: Boot, images: Images, site: Site) -> None:
    server, address = boot("recorded", image="site-base", metadata={"overlay_url": f"glance:{site.overlay}"})
    images.ended(server.id)
    before = networks(cloud)
    wanted = {"overlay-name": "recorded", "record": "http://:80/secret"}
    made = images.capture(server, {"cloudlet-overlay-finish": wanted})
    result = made["result"]
    # Far from all of it: there are 6 MiB that nobody asked for.
    assert 50 < result["working_set_chunks"] < 1500, result
    stages = [stage["name"] for stage in made["stages"]]
    assert stages.index("record") < stages.index("reorder") < stages.index("upload")
    assert cloud.fetched(address, "/secret").strip() == site.secret, "the original goes on"
    assert networks(cloud) == before
    url = f"glance:{made['images']['overlay']}"
    likeness, its_address = boot("likeness", image="site-base", metadata={"overlay_url": url})
    images.ended(likeness.id)
    assert cloud.fetched(its_address, "/secret").strip() == site.secret


def test_a_probe_that_nobody_answers(cloud: Cloud, boot: Boot, images: Images, site: Site) -> None:
    server, address = boot("recorded", image="site-base")
    before = networks(cloud)
    wanted = {"overlay-name": "never", "record": "http://:80/none"}
    operation = images.ended(images.begin(server, {"cloudlet-overlay-finish": wanted}), state="failed")
    assert "404" in operation["error"], operation["error"]
    assert cloud.fetched(address) == site.nonce
    assert networks(cloud) == before
