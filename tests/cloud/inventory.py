# SPDX-License-Identifier: Apache-2.0
"""What there is in a cloud: a test must not leave anything behind."""

from __future__ import annotations

from tests.cloud.cloud import Cloud


def running_domains(cloud: Cloud) -> set[str]:
    """Host and name of every domain that runs."""
    return _domains(cloud)


def domains(cloud: Cloud) -> set[str]:
    """Host and name of every domain of libvirt."""
    return _domains(cloud, "--all")


def _domains(cloud: Cloud, *words: str) -> set[str]:
    return {
        f"{host} {name}"
        for host in cloud.hosts
        for name in cloud.run("virsh", "-q", "list", *words, "--name", host=host).split()
    }


def ports(cloud: Cloud) -> set[str]:
    """Every port of Neutron."""
    return {f"{port.id} {port.name} {port.device_id}" for port in cloud.admin.network.ports()}


def images(cloud: Cloud) -> set[str]:
    """Every image of Glance, hidden ones too."""
    found = [*cloud.admin.image.images(), *cloud.admin.image.images(is_hidden=True)]
    return {f"{image.id} {image.name} {image.status}" for image in found}


def allocations(cloud: Cloud) -> set[str]:
    """Every consumer of something of a compute host."""
    consumers = set()
    for provider in cloud.admin.placement.resource_providers():
        answer = cloud.admin.placement.get(f"/resource_providers/{provider.id}/allocations")
        consumers |= {f"{provider.name} {consumer}" for consumer in answer.json()["allocations"]}
    return consumers


def instance_files(cloud: Cloud) -> set[str]:
    """Folders of servers on the compute hosts."""
    return _files(cloud, "nova/instances/*-*-*-*-*")


def scratch_files(cloud: Cloud) -> set[str]:
    """What operations keep on the compute hosts as long as they last."""
    return _files(cloud, "cloudlet/scratch/*") | _files(cloud, "cloudlet/operations/*.partial")


def _files(cloud: Cloud, pattern: str) -> set[str]:
    return {str(path.relative_to(cloud.folder)) for path in cloud.folder.glob(f"hosts/*/state/{pattern}")}


def networks(cloud: Cloud) -> str:
    """Namespaces and devices on all hosts."""
    return "".join(cloud.run("ip", *words, host=host) for host in cloud.hosts for words in (["netns"], ["-br", "link"]))


def inventory(cloud: Cloud) -> dict[str, set[str]]:
    """All of what a test must not leave, by kind."""
    kinds = (domains, ports, images, allocations, instance_files, scratch_files)
    return {kind.__name__: kind(cloud) for kind in kinds}
