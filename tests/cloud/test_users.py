# SPDX-License-Identifier: Apache-2.0
"""Who runs as whom on a compute host, and that a third user of it finds nothing open while the extension works."""

from __future__ import annotations

from pathlib import Path

from tests.cloud.cloud import Cloud, wait_until
from tests.cloud.host_side import Freezer, state_folder
from tests.cloud.images import Images
from tests.cloud.servers import Boot
from tests.cloud.site import BASE, Site, slow_link

STRANGER = "games"
"""A user of every Debian, in no group of Nova's, libvirt's or QEMU's."""

_FIND = """
find {state} /run/cloudlet -mindepth 1 -print0 |
  setpriv --reuid={user} --regid={user} --clear-groups xargs -0 sh -c '
    for path; do if [ -r "$path" ] || [ -w "$path" ]; then echo "$path"; fi; done' sh
"""


def open_to_others(cloud: Cloud, host: str) -> list[str]:
    """What of the extension's files and sockets on a host a third user could open or connect to."""
    script = _FIND.format(state=state_folder(cloud, host), user=STRANGER)
    return cloud.run("sh", "-c", script, host=host).splitlines()


def sockets(cloud: Cloud, host: str) -> list[str]:
    """Sockets that workers and QEMU share."""
    return cloud.run("find", "/run/cloudlet", "-type", "s", host=host).splitlines()


def owners_of(word: str) -> set[str]:
    """Users of processes that have a word in their command line."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if any(word in one for one in words):
                found.add(process.owner())
        except OSError:
            continue
    return found


def test_users(cloud: Cloud, boot: Boot, site: Site) -> None:
    server, _ = boot("owned", image=BASE)
    domain = cloud.admin.compute.get_server(server.id).instance_name
    assert owners_of(f"guest={domain}") == {"libvirt-qemu"}
    assert wait_until("a worker", lambda: owners_of("cloudlet_ext.cmd.worker")) == {"nova"}
    assert Path(f"/proc/{(cloud.folder / 'pids/compute').read_text().split()[0]}").owner() == "nova"


def test_nothing_is_open_while_an_overlay_arrives(
    cloud: Cloud, boot: Boot, images: Images, site: Site, freeze: Freezer, tmp_path: Path
) -> None:
    with slow_link(cloud, site, tmp_path, rate_mbit=5) as url:
        server = cloud.active(boot.begin("private", image=BASE, metadata={"overlay_url": url}))
        worker = freeze(server.id, "run")
        host = str(cloud.admin.compute.get_server(server.id).compute_host)
        assert "layer.sock" in [Path(name).name for name in sockets(cloud, host)]
        assert open_to_others(cloud, host) == []
        assert cloud.operation(server.id)["state"] == "running"
        freeze.release(worker)
        images.ended(server.id)
    wait_until("no socket is left", lambda: not sockets(cloud, host), seen=lambda: sockets(cloud, host))
    assert open_to_others(cloud, host) == []


def test_nothing_is_open_while_a_base_is_made(
    cloud: Cloud, boot: Boot, images: Images, site: Site, freeze: Freezer
) -> None:
    server, _ = boot("model", image=BASE)
    images.arrived(server)
    host = str(cloud.admin.compute.get_server(server.id).compute_host)
    operation = images.begin(server, {"cloudlet-base": {"name": "private-base"}})
    for stage in ("capture", "index", "upload"):
        worker = freeze(operation, stage)
        assert open_to_others(cloud, host) == []
        freeze.release(worker)
    images.ended(operation)


def test_nothing_is_open_while_a_working_set_is_recorded(
    cloud: Cloud, boot: Boot, images: Images, site: Site, freeze: Freezer
) -> None:
    server, address = boot("recorded", image=BASE, metadata={"overlay_url": f"glance:{site.overlay}"})
    images.arrived(server)
    host = str(cloud.admin.compute.get_server(server.id).compute_host)
    wanted = {"overlay-name": "private", "record": "http://:80/secret"}
    operation = images.begin(server, {"cloudlet-overlay-finish": wanted})
    worker = freeze(operation, "run")
    assert owners_of("guest=cloudlet-") == {"libvirt-qemu"}
    assert owners_of("cloudlet_ext.privsep.context") == {"root"}
    # Nova looks at the disks of all domains of a host, as nova.
    for disk in cloud.run("sh", "-c", f"ls {state_folder(cloud, host)}/scratch/*/scratch.qcow2", host=host).split():
        cloud.run("setpriv", "--reuid=nova", "--regid=nova", "--init-groups", "qemu-img", "info", "-U", disk, host=host)
    assert open_to_others(cloud, host) == []
    freeze.release(worker)
    images.ended(operation)
    wait_until("nobody is root", lambda: not owners_of("cloudlet_ext.privsep.context"))
    assert cloud.fetched(address, "/secret").strip() == site.secret
