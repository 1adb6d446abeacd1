# SPDX-License-Identifier: Apache-2.0
"""What a user finds in a minicloud: accounts, catalogue, flavors, images, a network; and clouds.yaml.

One process with the SDK: each ``openstack`` command would take seconds to start.

    content.py catalog | content | clouds-yaml NAME=ADDRESS...
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from openstack.connection import Connection

WORK = Path(os.environ["WORK"])
GUESTS = Path(os.environ["GUESTS"])
PASSWORD = os.environ["PASSWORD"]
TENANT_PREFIX = os.environ["TENANT_PREFIX"]

USERS = {
    "member": ("demo-member", "demo", "member"),
    "reader": ("demo-reader", "demo", "reader"),
    "manager": ("demo-manager", "demo", "manager"),
    "other": ("other-member", "other", "member"),
}
"""Entry of clouds.yaml, after the cloud's name and a dash -> user, project, role."""

PORTS = {"image": ("glance", "9292"), "placement": ("placement", "8778"), "network": ("neutron", "9696")}
FLAVORS = {"m1.tiny": (128, 1), "m1.small": (256, 3), "m1.large": (2048, 3)}
"""Name -> memory in MB, disk in GB; one processor each."""


def login(address: str, region: str, user: str = "admin", project: str = "admin") -> dict[str, Any]:
    """An entry of clouds.yaml."""
    return {
        "auth": {
            "auth_url": f"http://{address}:5000/v3",
            "username": user,
            "password": PASSWORD,
            "project_name": project,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        },
        "region_name": region,
        "identity_api_version": 3,
    }


def make_user(cloud: Connection, name: str, project_name: str, roles: list[str]) -> None:
    """A user with these roles in a project; both are made where they are not there."""
    domain = cloud.identity.find_domain("default", ignore_missing=False).id
    project = cloud.identity.find_project(project_name, domain_id=domain)
    project = project or cloud.identity.create_project(name=project_name, domain_id=domain)
    user = cloud.identity.find_user(name, domain_id=domain)
    user = user or cloud.identity.create_user(name=name, domain_id=domain, password=PASSWORD)
    for role_name in roles:
        role = cloud.identity.find_role(role_name) or cloud.identity.create_role(name=role_name)
        cloud.identity.assign_project_role_to_user(project, user, role)


def catalog(cloud: Connection, address: str, region: str) -> None:
    """The services' own account, and where they are."""
    make_user(cloud, "service", "service", ["admin", "service"])
    urls = {kind: (name, f"http://{address}:{port}") for kind, (name, port) in PORTS.items()}
    urls["compute"] = ("nova", f"http://{address}:8774/v2.1")
    for kind, (name, url) in urls.items():
        service = cloud.identity.find_service(name) or cloud.identity.create_service(type=kind, name=name)
        have = {endpoint.interface for endpoint in cloud.identity.endpoints(service_id=service.id)}
        for interface in sorted({"public", "internal", "admin"} - have):
            cloud.identity.create_endpoint(service_id=service.id, interface=interface, url=url, region_id=region)


def make_image(cloud: Connection, name: str, path: Path, kind: str, **properties: str) -> str:
    """A public image of a file; its id. One that was made of another file is replaced."""
    made_of = f"{path.stat().st_size}-{path.stat().st_mtime_ns}"
    for image in list(cloud.image.images(name=name, visibility="public")):
        if image.properties.get("minicloud_made_of") == made_of and image.status == "active":
            return str(image.id)
        cloud.image.delete_image(image)
    container = kind if kind in ("aki", "ari") else "bare"
    image = cloud.image.create_image(
        name=name,
        filename=str(path),
        wait=True,
        disk_format=kind,
        container_format=container,
        visibility="public",
        allow_duplicates=True,
        use_import=False,
        meta={"minicloud_made_of": made_of, **properties},
    )
    return str(image.id)


def images(cloud: Connection) -> None:
    """``minicloud-guest``; ``debian-guest`` where it is built."""
    guest = WORK / "cache" / "guest"
    # It hears no power button: asking it for long to shut down is of no use.
    make_image(cloud, "minicloud-guest", guest / "guest.raw", "raw", hw_rng_model="virtio", os_shutdown_timeout="2")
    disk = GUESTS / "debian.qcow2"
    if not disk.exists():
        return
    kernel = make_image(cloud, "debian-guest-kernel", GUESTS / "vmlinuz", "aki")
    ramdisk = make_image(cloud, "debian-guest-ramdisk", guest / "debian.initrd", "ari")
    make_image(
        cloud,
        "debian-guest",
        disk,
        "qcow2",
        kernel_id=kernel,
        ramdisk_id=ramdisk,
        os_command_line=(GUESTS / "debian.cmdline").read_text().strip(),
        hw_rng_model="virtio",
        hw_qemu_guest_agent="yes",
    )


def open_security_groups(cloud: Connection) -> None:
    """Let everything into servers with a project's default security group, made already or not.

    Their apps are asked from the machines, which are in no group of the project's.
    """
    rule = {"direction": "ingress", "ethertype": "IPv4"}
    wanted = {"used_in_default_sg": True, "used_in_non_default_sg": False, **rule}
    templates = cloud.network.default_security_group_rules(**rule)
    if not any(each.remote_group_id is None and each.used_in_default_sg for each in templates):
        cloud.network.create_default_security_group_rule(**wanted)
    for group in cloud.network.security_groups(name="default"):
        rules = cloud.network.security_group_rules(security_group_id=group.id, **rule)
        if not any(each.remote_group_id is None and each.remote_ip_prefix is None for each in rules):
            cloud.network.create_security_group_rule(security_group_id=group.id, **rule)


def network(cloud: Connection, name: str) -> None:
    """Network ``lab``, with a port in it for the machine of cloud ``name`` itself."""
    net = cloud.network.find_network("lab") or cloud.network.create_network(name="lab", shared=True)
    subnet = cloud.network.find_subnet("lab") or cloud.network.create_subnet(
        name="lab",
        network_id=net.id,
        ip_version=4,
        cidr=f"{TENANT_PREFIX}.0/24",
        gateway_ip=f"{TENANT_PREFIX}.1",
        is_dhcp_enabled=True,
    )
    port = cloud.network.find_port("minicloud") or cloud.network.create_port(
        name="minicloud",
        network_id=net.id,
        device_owner="minicloud",
        binding_host_id=name,
        fixed_ips=[{"subnet_id": subnet.id, "ip_address": f"{TENANT_PREFIX}.2"}],
    )
    line = f"{port.id} {port.mac_address} {port.fixed_ips[0]['ip_address']}\n"
    (WORK / "clouds" / name / "state" / "tenant-port").write_text(line)


def content(cloud: Connection, name: str) -> None:
    """All that a user finds."""
    for user, project, role in USERS.values():
        make_user(cloud, user, project, [role])
    for flavor, (ram, disk) in FLAVORS.items():
        if not cloud.compute.find_flavor(flavor):
            cloud.compute.create_flavor(name=flavor, ram=ram, vcpus=1, disk=disk)
    images(cloud)
    open_security_groups(cloud)
    network(cloud, name)


def clouds_yaml(addresses: dict[str, str]) -> None:
    """Every account of every cloud, for its administrator NAME, for the others NAME-WORD."""
    entries = {}
    for name, address in addresses.items():
        entries[name] = login(address, name)
        for word, (user, project, _role) in USERS.items():
            entries[f"{name}-{word}"] = login(address, name, user, project)
    new = WORK / "clouds.yaml.new"
    new.write_text(yaml.safe_dump({"clouds": entries}))
    new.chmod(0o600)
    new.rename(WORK / "clouds.yaml")


def main(what: str, *arguments: str) -> None:
    """Do what the command line says."""
    if what == "clouds-yaml":
        clouds_yaml(dict(argument.split("=", 1) for argument in arguments))
        return
    import openstack  # takes a second or two

    name, address = os.environ["CLOUD"], os.environ["CONTROLLER"]
    began = time.monotonic()
    cloud = openstack.connect(load_yaml_config=False, load_envvars=False, **login(address, name))
    if what == "catalog":
        catalog(cloud, address, name)
    else:
        content(cloud, name)
    sys.stdout.write(f"{what}: {time.monotonic() - began:.1f} s\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
