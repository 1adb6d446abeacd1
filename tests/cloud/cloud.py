# SPDX-License-Identifier: Apache-2.0
"""A running minicloud, as tests use it: connections, servers, their apps, and what must not be left."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import openstack
from openstack.compute.v2.server import Server
from openstack.connection import Connection

ROOT = Path(__file__).parents[2]
MINICLOUD = ROOT / "tools" / "minicloud"
WORK = Path(os.environ.get("CLOUDLET_WORK", "/var/tmp/cloudlet")) / "minicloud"
HOW_TO_START = "run tools/minicloud up as root"
WAIT_S = 120.0
"""Long enough for an emulated boot on a busy machine."""

WAN = "10.77.0.1"
"""This side of the bridge that joins the clouds."""

T = TypeVar("T")


def wait_until(what: str, check: Callable[[], T], limit_s: float = WAIT_S, every_s: float = 0.3) -> T:
    """The first true answer of ``check``; TimeoutError with ``what`` after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not (answer := check()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {limit_s:.0f} s")
        time.sleep(every_s)
    return answer


class Cloud:
    """One cloud of the minicloud by its name in ``clouds.yaml``."""

    def __init__(self, name: str = "one") -> None:
        self.name = name
        self.folder = WORK / "clouds" / name

    @cache  # noqa: B019 - a cloud lives as long as the tests
    def connect(self, account: str = "") -> Connection:
        """A connection of the administrator, or of ``member``, ``reader``, ``manager``, ``other``."""
        os.environ["OS_CLIENT_CONFIG_FILE"] = str(WORK / "clouds.yaml")
        return openstack.connect(cloud=f"{self.name}-{account}" if account else self.name)

    @property
    def admin(self) -> Connection:
        """The administrator's connection."""
        return self.connect()

    @property
    def hosts(self) -> list[str]:
        """Names of the machines, the controller first."""
        return sorted(path.name for path in (self.folder / "hosts").iterdir())

    def minicloud(self, *arguments: str, timeout_s: float = 300.0) -> str:
        """Run ``tools/minicloud`` with these arguments; what it printed."""
        done = subprocess.run([MINICLOUD, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
        assert done.returncode == 0, f"minicloud {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def run(self, *command: str, host: str = "", timeout_s: float = 60.0) -> str:
        """Run a command on a machine of the cloud, the controller if no other is named; what it printed."""
        return self.minicloud("run", host or self.name, *command, timeout_s=timeout_s)

    def fetch(self, address: str, path: str = "/", post: str | None = None, limit_s: float = 5.0) -> str | None:
        """What an app in a guest answers to a request from the tenants' network; None when it does not."""
        words = [MINICLOUD, "net", self.name, "curl", "-sS", "-f", "-m", str(limit_s), f"http://{address}{path}"]
        if post is not None:
            words += ["--data-binary", "@-", "-H", "Content-Type: text/plain"]
        done = subprocess.run(words, input=post, capture_output=True, text=True, timeout=limit_s + 30, check=False)
        return done.stdout if done.returncode == 0 else None

    def fetched(self, address: str, path: str = "/nonce", limit_s: float = WAIT_S) -> str:
        """The first answer of an app."""
        return wait_until(f"http://{address}{path}", lambda: self.fetch(address, path, limit_s=2.0), limit_s)

    def shell(self, address: str, script: str, limit_s: float = 30.0) -> str:
        """Run a script in a server of ``minicloud-guest``; what it printed."""
        answer = self.fetch(address, "/cgi-bin/sh", post=script, limit_s=limit_s)
        assert answer is not None, f"the guest at {address} did not answer"
        return answer

    def create(self, name: str, account: str = "member", **words: Any) -> Server:
        """Ask for a server (``m1.tiny``, ``minicloud-guest``, network ``lab`` if nothing else is said)."""
        compute = self.connect(account).compute
        image = words.pop("image", "minicloud-guest")
        flavor = words.pop("flavor", "m1.tiny")
        found = self.connect(account).image.find_image(image, ignore_missing=False)
        words.setdefault("networks", [{"uuid": self.admin.network.find_network("lab", ignore_missing=False).id}])
        flavor_id = compute.find_flavor(flavor, ignore_missing=False).id
        return compute.create_server(name=name, image_id=found.id, flavor_id=flavor_id, **words)

    def active(self, server: Server, limit_s: float = WAIT_S) -> Server:
        """The server once it is ACTIVE; fails with its fault when it gets into ERROR."""

        def check() -> Server | None:
            now = self.admin.compute.get_server(server.id)
            assert now.status != "ERROR", f"{now.name}: {json.dumps(now.fault)}"
            return now if now.status == "ACTIVE" else None

        return wait_until(f"{server.name} active", check, limit_s)

    def boot(self, name: str, account: str = "member", **words: Any) -> tuple[Server, str]:
        """A server whose app answers, and its address."""
        server = self.active(self.create(name, account, **words))
        address = address_of(server)
        self.fetched(address)
        return server, address

    def delete(self, server: Server, limit_s: float = WAIT_S) -> None:
        """Delete a server, and wait until it has gone."""
        self.admin.compute.delete_server(server.id, ignore_missing=True)
        self.admin.compute.wait_for_delete(server, wait=limit_s)

    # ------------------------------------------------------------------- servers and their operations
    def operation(self, operation_id: str, account: str = "member") -> dict[str, Any]:
        """An operation as its user sees it."""
        answer = self.connect(account).compute.get(f"/os-cloudlet/operations/{operation_id}")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()["operation"]
        return shown

    def operation_ended(self, operation_id: str, account: str = "member", limit_s: float = WAIT_S) -> dict[str, Any]:
        """An operation once it has ended, however."""

        def ended() -> dict[str, Any] | None:
            answer = self.connect(account).compute.get(f"/os-cloudlet/operations/{operation_id}")
            if answer.status_code in (503, 504):
                # Its host is being started again.
                return None
            assert answer.status_code == 200, answer.text
            operation: dict[str, Any] = answer.json()["operation"]
            return operation if operation["state"] in ("succeeded", "failed", "cancelled") else None

        return wait_until(f"operation {operation_id}", ended, limit_s)

    def at_stage(self, operation_id: str, stage: str, limit_s: float = WAIT_S) -> dict[str, Any]:
        """An operation once it has reached a stage; fails when it ends before."""

        def reached() -> dict[str, Any] | None:
            operation = self.operation(operation_id)
            assert operation["state"] in ("queued", "running"), operation
            return operation if stage in [one["name"] for one in operation["stages"]] else None

        return wait_until(f"stage {stage} of operation {operation_id}", reached, limit_s, every_s=0.05)

    def settled(self, server: Server, status: str, limit_s: float = WAIT_S) -> Server:
        """The server once it has a status and nothing is being done with it."""

        def check() -> Server | None:
            now = self.admin.compute.get_server(server.id)
            assert status == "ERROR" or now.status != "ERROR", f"{now.name}: {json.dumps(now.fault)}"
            return now if now.status == status and now.task_state is None else None

        return wait_until(f"{server.name} {status}", check, limit_s)

    # ------------------------------------------------------------------- the operator's side
    @contextlib.contextmanager
    def only_host(self, host: str) -> Iterator[None]:
        """The scheduler may choose no other compute host."""
        others = [one for one in self.admin.compute.services(binary="nova-compute") if one.host != host]
        for service in others:
            self.admin.compute.disable_service(service)
        try:
            yield
        finally:
            for service in others:
                self.admin.compute.enable_service(service)

    @contextlib.contextmanager
    def option(self, section: str, name: str, value: str, *services: str) -> Iterator[None]:
        """Another value of an option of Nova's, for services that are started again, with it and without it."""
        path = self.folder / "etc" / "nova.conf"
        before = path.read_text()
        path.write_text(f"{before}\n[{section}]\n{name} = {value}\n")
        try:
            for service in services:
                self.minicloud("restart", self.name, service)
            yield
        finally:
            path.write_text(before)
            for service in services:
                self.minicloud("restart", self.name, service)

    def wait_for_holders(self, base_id: str, holders: set[str]) -> None:
        """Wait until the scheduler knows that these hosts hold a base, and no others."""
        query = f"select hypervisor_hostname from compute_nodes where deleted = 0 and stats like '%{base_id}%'"
        words = ("mariadb", "-S", "/run/minicloud/mysql.sock", "nova", "-N", "-e", query)
        wait_until("the scheduler knows the bases", lambda: set(self.run(*words).split()) == holders)

    # ------------------------------------------------------------------- what is there
    def running_domains(self) -> set[str]:
        """Host and name of every domain that runs."""
        return {
            f"{host} {name}"
            for host in self.hosts
            for name in self.run("virsh", "-q", "list", "--name", host=host).split()
        }

    def domains(self) -> set[str]:
        """Host and name of every domain of libvirt."""
        return {
            f"{host} {name}"
            for host in self.hosts
            for name in self.run("virsh", "-q", "list", "--all", "--name", host=host).split()
        }

    def ports(self) -> set[str]:
        """Every port of Neutron."""
        return {f"{port.id} {port.name} {port.device_id}" for port in self.admin.network.ports()}

    def images(self) -> set[str]:
        """Every image of Glance, hidden ones too."""
        found = [*self.admin.image.images(), *self.admin.image.images(is_hidden=True)]
        return {f"{image.id} {image.name} {image.status}" for image in found}

    def allocations(self) -> set[str]:
        """Every consumer of something of a compute host."""
        consumers = set()
        for provider in self.admin.placement.resource_providers():
            answer = self.admin.placement.get(f"/resource_providers/{provider.id}/allocations")
            consumers |= {f"{provider.name} {consumer}" for consumer in answer.json()["allocations"]}
        return consumers

    def instance_files(self) -> set[str]:
        """Folders of servers on the compute hosts."""
        folders = self.folder.glob("hosts/*/state/nova/instances/*-*-*-*-*")
        return {str(folder.relative_to(self.folder)) for folder in folders}

    def inventory(self) -> dict[str, set[str]]:
        """All of that, by kind."""
        kinds = (self.domains, self.ports, self.images, self.allocations, self.instance_files)
        return {kind.__name__: kind() for kind in kinds}


def address_of(server: Server) -> str:
    """The address that Nova reports for a server with one port."""
    addresses = [entry["addr"] for entries in server.addresses.values() for entry in entries]
    assert len(addresses) == 1, f"{server.name} has the addresses {addresses}"
    return str(addresses[0])
