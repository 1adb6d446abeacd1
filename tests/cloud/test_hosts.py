# SPDX-License-Identifier: Apache-2.0
"""Compute hosts and their bases: who holds which, who gets a server, how much many servers of one base cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cloud import host_side
from tests.cloud.cloud import Cloud, address_of, wait_until
from tests.cloud.conftest import Boot
from tests.cloud.images import Images, Site

MANY = 20
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


def test_servers_go_where_their_base_is(cloud: Cloud, boot: Boot, site: Site) -> None:
    for host in cloud.hosts:
        # Above all else Nova prefers hosts that did not fail to build the last server.
        with cloud.only_host(host):
            boot(f"good-{host}")
    for holder in cloud.hosts:
        host_side.forget_bases(cloud)
        precache(cloud, site, host=holder)
        assert {host for host in cloud.hosts if host_side.cached_bases(cloud, host)} == {holder}
        (base_id,) = host_side.cached_bases(cloud, holder)
        cloud.wait_for_holders(base_id, {holder})
        for number in range(2):
            server, _ = boot(f"{holder}-{number}", image="site-base")
            assert host_of(cloud, server.id) == holder


def test_all_hosts_at_once(cloud: Cloud, site: Site) -> None:
    host_side.forget_bases(cloud)
    assert len(precache(cloud, site, all=True)) == len(cloud.hosts)
    bases = [set(host_side.cached_bases(cloud, host)) for host in cloud.hosts]
    assert all(one == bases[0] and len(one) == 1 for one in bases), bases


def test_a_damaged_base_is_fetched_again(cloud: Cloud, boot: Boot, site: Site, images: Images) -> None:
    host_side.forget_bases(cloud)
    precache(cloud, site, all=True)
    first, _ = boot("whole", image="site-base")
    host = host_of(cloud, first.id)
    assert "base" not in stages(cloud, first.id), "what is held is not fetched"
    cloud.delete(first)
    for one in cloud.hosts:
        (folder,) = host_side.cached_bases(cloud, one).values()
        damage(folder / "memory")
    with cloud.only_host(host):
        second, address = boot("again", image="site-base")
        assert "base" in stages(cloud, second.id)
        assert cloud.fetched(address) == site.nonce
        cloud.delete(second)


def stages(cloud: Cloud, operation_id: str) -> list[str]:
    return [stage["name"] for stage in cloud.operation(operation_id)["stages"]]


def damage(path: Path) -> None:
    """Flip a bit of a page that is there."""
    with path.open("r+b") as file:
        content = file.read(1 << 20)
        place = next(number for number, value in enumerate(content) if value)
        file.seek(place)
        file.write(bytes([content[place] ^ 1]))


def test_servers_of_a_base_share_its_pages(
    cloud: Cloud, boot: Boot, site: Site, record_property: Callable[[str, object], None]
) -> None:
    host = cloud.hosts[0]
    with cloud.only_host(host):
        servers = [boot(f"shared-{number}", image="site-base")[0] for number in range(5)]
    (folder,) = host_side.cached_bases(cloud, host).values()
    mapped = []
    for server in servers:
        name = cloud.admin.compute.get_server(server.id).instance_name
        pid = int(cloud.run("cat", f"/run/libvirt/qemu/{name}.pid", host=host))
        mapped.append(sizes_of(pid, str(folder / "memory")))
    resident = sum(sizes["Rss"] for sizes in mapped)
    own = sum(sizes["Pss"] for sizes in mapped)
    record_property("mapped_kib", resident)
    record_property("memory_kib", own)
    # Were nothing shared, both would be the same.
    assert own < 0.6 * resident, mapped


def sizes_of(pid: int, path: str) -> dict[str, int]:
    """Resident and proportional size, in KiB, of a process's maps of a file."""
    sizes, inside = {"Rss": 0, "Pss": 0}, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = line.endswith(path)
        elif inside and line.split(":")[0] in sizes:
            sizes[line.split(":")[0]] += int(line.split()[1])
    return sizes


@pytest.mark.timeout(900)
def test_many_at_once(cloud: Cloud, boot: Boot, site: Site, record_property: Callable[[str, object], None]) -> None:
    """None is lost, and workers stay small, however many are asked for."""
    host = cloud.hosts[0]
    metadata = {"overlay_url": f"glance:{site.overlay}"}
    peak = 0.0
    with cloud.only_host(host):
        servers = [boot.begin(f"many-{number}", image="site-base", metadata=metadata) for number in range(MANY)]

        def all_ended() -> bool:
            nonlocal peak
            peak = max(peak, *workers_mib(), 0.0)
            ended = [cloud.operation(server.id)["state"] for server in servers]
            assert not {"failed", "cancelled"} & set(ended), ended
            return set(ended) == {"succeeded"}

        wait_until(f"{MANY} syntheses", all_ended, limit_s=600, every_s=0.5)
    addresses = [address_of(cloud.settled(server, "ACTIVE")) for server in servers]
    assert len(set(addresses)) == MANY
    for address in addresses:
        assert cloud.fetched(address, "/secret").strip() == site.secret
    record_property("largest_worker_mib", peak)
    assert peak < WORKER_LIMIT_MIB


def workers_mib() -> list[float]:
    """Anonymous memory of every worker process of this machine, in MiB."""
    found = [0.0]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"cloudlet-worker" in (entry / "cmdline").read_bytes():
                status = (entry / "status").read_text()
                found.append(int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1024)  # type: ignore[index]
        except (OSError, TypeError):
            continue
    return found
