# SPDX-License-Identifier: Apache-2.0
"""Compute hosts and their bases: who holds which, who gets a server, how much many servers of one base cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from openstack.compute.v2.server import Server

from tests.cloud import host_side
from tests.cloud.cloud import PATIENCE, Cloud, address_of, wait_until
from tests.cloud.images import Images
from tests.cloud.servers import Boot
from tests.cloud.site import BASE, Site

RESUMED, SYNTHESISED = 5, 10
"""At once on one host: more than Nova builds side by side (10), and far more than there are workers (2)."""

MANY_LIMIT_S = 600 * PATIENCE
WORKER_LIMIT_MIB = 300.0


def precache(cloud: Cloud, site: Site, **where: object) -> list[str]:
    """Have hosts fetch the site's base; the ids of the operations."""
    answer = cloud.admin.compute.post(f"/os-cloudlet/bases/{site.base}/precache", json={"precache": where})
    assert answer.status_code == 202, answer.text
    operations = list(answer.json()["operations"])
    for operation_id in operations:
        ended = cloud.operation_ended(operation_id, account="")
        assert ended["state"] == "succeeded", ended
        assert [one["name"] for one in ended["stages"]] == ["verify", "base"][: 1 + ended["result"]["fetched"]]
    return operations


def host_of(cloud: Cloud, server_id: str) -> str:
    return str(cloud.admin.compute.get_server(server_id).compute_host)


def stages(cloud: Cloud, operation_id: str) -> list[str]:
    return [stage["name"] for stage in cloud.operation(operation_id)["stages"]]


def test_servers_go_where_their_base_is(cloud: Cloud, boot: Boot, images: Images, site: Site) -> None:
    for holder in cloud.hosts:
        host_side.forget_bases(cloud)
        precache(cloud, site, host=holder)
        assert {host for host in cloud.hosts if host_side.cached_bases(cloud, host)} == {holder}
        cloud.wait_for_holders(site.base_id, site.base, {holder})
        for server, _ in boot.all(f"{holder}-1", f"{holder}-2", image=BASE):
            assert host_of(cloud, server.id) == holder
            images.arrived(server)


def test_a_base_is_fetched_once_and_again_when_it_is_damaged(
    cloud: Cloud, boot: Boot, images: Images, site: Site
) -> None:
    host_side.forget_bases(cloud)
    assert len(precache(cloud, site, all=True)) == len(cloud.hosts)
    bases = [set(host_side.cached_bases(cloud, host)) for host in cloud.hosts]
    assert all(one == {site.base_id} for one in bases), bases

    first, _ = boot("whole", image=BASE)
    host = host_of(cloud, first.id)
    assert "base" not in stages(cloud, first.id), "what is held is not fetched"
    cloud.delete(first)
    for one in cloud.hosts:
        damage(host_side.cached_bases(cloud, one)[site.base_id] / "memory")
    with cloud.only_host(host):
        second, address = boot("again", image=BASE)
    assert "base" in stages(cloud, second.id)
    assert cloud.fetched(address) == site.nonce
    images.arrived(second)
    # Nobody shall meet the other host's.
    host_side.forget_bases(cloud)


def damage(path: Path) -> None:
    """Flip a bit of a page that is there."""
    with path.open("r+b") as file:
        content = file.read(1 << 20)
        place = next(number for number, value in enumerate(content) if value)
        file.seek(place)
        file.write(bytes([content[place] ^ 1]))


def test_many_at_once(
    cloud: Cloud, boot: Boot, images: Images, site: Site, record_property: Callable[[str, object], None]
) -> None:
    """None is lost, workers stay small, and those that nothing was added to share the base's pages."""
    host, metadata = cloud.hosts[0], {"overlay_url": f"glance:{site.overlay}"}
    with cloud.only_host(host):
        resumed = [boot.begin(f"shared-{number}", image=BASE) for number in range(RESUMED)]
        servers = [boot.begin(f"many-{number}", image=BASE, metadata=metadata) for number in range(SYNTHESISED)]
        peak = largest_worker(cloud, [*resumed, *servers])
    addresses = [address_of(cloud.settled(server, "ACTIVE")) for server in servers]
    assert len(set(addresses)) == len(addresses)
    for address in addresses:
        assert cloud.fetched(address, "/secret").strip() == site.secret
    record_property("largest_worker_mib", peak)
    assert 0 < peak < WORKER_LIMIT_MIB
    own, all_of_it = shared_kib(cloud, host_side.cached_bases(cloud, host)[site.base_id] / "memory", resumed)
    record_property("mapped_kib", all_of_it)
    record_property("memory_kib", own)
    # Were nothing shared, both would be the same.
    assert own < 0.6 * all_of_it


def largest_worker(cloud: Cloud, servers: list[Server]) -> float:
    """The most memory, in MiB, that a worker has had until all of these servers are whole."""
    peak, left = 0.0, {server.id for server in servers}

    def all_ended() -> bool:
        nonlocal peak
        peak = max(peak, *workers_mib())
        lost = [now for now in cloud.admin.compute.servers(all_projects=True, status="ERROR") if now.id in left]
        assert not lost, [now.fault for now in lost]
        for server_id in tuple(left):
            answer = cloud.connect("member").compute.get(f"/os-cloudlet/operations/{server_id}")
            # It has none as long as it waits for Nova itself.
            operation = answer.json()["operation"] if answer.status_code == 200 else {"state": "queued"}
            assert operation["state"] not in ("failed", "cancelled"), operation
            if operation["state"] == "succeeded":
                left.remove(server_id)
        return not left

    wait_until(f"{len(servers)} servers", all_ended, MANY_LIMIT_S, every_s=1.0, seen=lambda: left)
    return peak


def shared_kib(cloud: Cloud, memory: Path, servers: list[Server]) -> tuple[int, int]:
    """Their share, and all, of what is resident of a base's memory in the processes of servers, in KiB."""
    mapped = []
    for server in servers:
        now = cloud.settled(server, "ACTIVE")
        pid = int(cloud.run("cat", f"/run/libvirt/qemu/{now.instance_name}.pid", host=now.compute_host))
        mapped.append(sizes_of(pid, str(memory)))
    return sum(sizes["Pss"] for sizes in mapped), sum(sizes["Rss"] for sizes in mapped)


def sizes_of(pid: int, path: str) -> dict[str, int]:
    """Resident and proportional size, in KiB, of a process's maps of a file."""
    sizes, inside = {"Rss": 0, "Pss": 0}, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(path)
        elif inside and line.split(":")[0] in sizes:
            sizes[line.split(":")[0]] += int(line.split()[1])
    return sizes


def workers_mib() -> list[float]:
    """Anonymous memory of every worker process of this machine, in MiB."""
    found = [0.0]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"cloudlet_ext.cmd.worker" in (entry / "cmdline").read_bytes():
                status = (entry / "status").read_text()
                found.append(int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1024)  # type: ignore[index]
        except (OSError, TypeError):
            continue
    return found
