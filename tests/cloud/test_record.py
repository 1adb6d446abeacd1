# SPDX-License-Identifier: Apache-2.0
"""A working set is recorded where the server runs, and nobody but the compute host notices."""

from __future__ import annotations

from tests.cloud.cloud import Cloud, wait_until
from tests.cloud.images import Images
from tests.cloud.inventory import networks
from tests.cloud.servers import Boot
from tests.cloud.site import BASE, Site


def wish(name: str, probe: str) -> dict[str, dict[str, str]]:
    return {"cloudlet-overlay-finish": {"overlay-name": name, "record": probe}}


def test_what_a_reply_needs_comes_first(cloud: Cloud, boot: Boot, images: Images, site: Site) -> None:
    """Of one server; another one, side by side with it, does not answer as it should."""
    begun = boot.begin("recorded", image=BASE, metadata={"overlay_url": f"glance:{site.overlay}"})
    (silent, other_address), (server, address) = boot("silent", image=BASE), cloud.answers(begun)
    for one in (silent, server):
        images.arrived(one)
    assert cloud.fetched(address, "/secret").strip() == site.secret
    before = networks(cloud)
    never = images.begin(silent, wish("never", "http://:80/none"))
    made = images.ended(images.begin(server, wish("recorded", "http://:80/secret")))
    assert_recorded(made)
    assert cloud.fetched(address, "/secret").strip() == site.secret, "the original goes on"
    operation = images.ended(never, state="failed")
    assert "404" in operation["error"], operation["error"]
    assert cloud.fetched(other_address) == site.nonce
    wait_until("networks are as before", lambda: networks(cloud) == before, seen=lambda: (before, networks(cloud)))

    url = f"glance:{made['images']['overlay']}"
    likeness, its_address = boot("likeness", image=BASE, metadata={"overlay_url": url})
    images.ended(likeness.id)
    assert cloud.fetched(its_address, "/secret").strip() == site.secret


def assert_recorded(made: dict[str, dict[str, int]]) -> None:
    """A part of the overlay was needed, and was put first before anybody saw it."""
    # Far from all of it: there are 6 MiB that nobody asked for.
    assert 50 < made["result"]["working_set_chunks"] < 1500, made["result"]
    stages = [stage["name"] for stage in made["stages"]]
    assert stages.index("record") < stages.index("reorder") < stages.index("upload")


def test_a_probe_of_the_console(cloud: Cloud, boot: Boot, images: Images, site: Site) -> None:
    server, address = boot("talks", image=BASE)
    images.arrived(server)
    cloud.shell(address, "(while :; do echo still here; sleep 1; done) >/dev/ttyS0 2>/dev/null </dev/null &")
    made = images.capture(server, wish("talks", "console:still here"))
    assert made["result"]["working_set_chunks"] > 0, made["result"]
