# SPDX-License-Identifier: Apache-2.0
"""A running minicloud, as tests use it: connections, servers, their apps, their operations."""

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
PATIENCE = float(os.environ.get("MINICLOUD_PATIENCE", "1"))
WAIT_S = 180.0 * PATIENCE
"""Long enough for an emulated boot on a busy machine."""

POLL_S = 0.25

WAN = "10.77.0.1"
"""This side of the bridge that joins the clouds."""

T = TypeVar("T")


def wait_until(
    what: str,
    check: Callable[[], T],
    limit_s: float = WAIT_S,
    every_s: float = POLL_S,
    seen: Callable[[], object] = lambda: "",
) -> T:
    """The first true answer of ``check``; TimeoutError with ``what``, and what was ``seen`` last, after ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not (answer := check()):
        if time.monotonic() > deadline:
            last = seen()
            raise TimeoutError(f"{what}: not within {limit_s:.0f} s{f'; seen last: {last}' if last else ''}")
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

    def fetched(
        self, address: str, path: str = "/nonce", limit_s: float = WAIT_S, seen: Callable[[], object] = lambda: ""
    ) -> str:
        """The first answer of an app."""
        what = f"http://{address}{path}"
        return wait_until(what, lambda: self.fetch(address, path, limit_s=2.0), limit_s, seen=seen)

    def shell(self, address: str, script: str, limit_s: float = 30.0) -> str:
        """Run a script in a server of ``minicloud-guest``; what it printed."""
        answer = self.fetch(address, "/cgi-bin/sh", post=script, limit_s=limit_s)
        assert answer is not None, f"the guest at {address} did not answer"
        return answer

    @cache  # noqa: B019
    def _lab(self) -> str:
        return str(self.admin.network.find_network("lab", ignore_missing=False).id)

    @cache  # noqa: B019
    def flavor(self, name: str) -> str:
        """The id of a flavor."""
        return str(self.admin.compute.find_flavor(name, ignore_missing=False).id)

    def create(self, name: str, account: str = "member", **words: Any) -> Server:
        """Ask for a server (``m1.tiny``, ``minicloud-guest``, network ``lab`` if nothing else is said)."""
        connection = self.connect(account)
        image = connection.image.find_image(words.pop("image", "minicloud-guest"), ignore_missing=False)
        flavor = self.flavor(words.pop("flavor", "m1.tiny"))
        words.setdefault("networks", [{"uuid": self._lab()}])
        return connection.compute.create_server(name=name, image_id=image.id, flavor_id=flavor, **words)

    def _until(self, server: Server, status: str, is_idle: bool, limit_s: float) -> Server:
        """The server once it has a status, and perhaps nothing is being done with it; fails with its fault."""
        now = server

        def check() -> bool:
            nonlocal now
            now = self.admin.compute.get_server(server.id)
            assert status == "ERROR" or now.status != "ERROR", f"{now.name}: {json.dumps(now.fault)}"
            return now.status == status and (not is_idle or now.task_state is None)

        def seen() -> str:
            return f"{now.status} on {now.compute_host}, task {now.task_state}"

        wait_until(f"server {server.name} {status}", check, limit_s, seen=seen)
        return now

    def active(self, server: Server, limit_s: float = WAIT_S) -> Server:
        """The server once it is ACTIVE; fails with its fault when it gets into ERROR."""
        return self._until(server, "ACTIVE", False, limit_s)

    def settled(self, server: Server, status: str, limit_s: float = WAIT_S) -> Server:
        """The server once it has a status and nothing is being done with it."""
        return self._until(server, status, True, limit_s)

    def answers(self, server: Server) -> tuple[Server, str]:
        """A server that was asked for once its app answers, and its address."""
        active = self.active(server)
        address = address_of(active)
        self.fetched(address, seen=lambda: self.console(server))
        return active, address

    def console(self, server: Server) -> str:
        """The end of what a server has said on its console."""
        files = self.folder.glob(f"hosts/*/state/nova/instances/{server.id}/console.log")
        return "".join(file.read_text(errors="replace")[-1500:] for file in files)

    def delete(self, *servers: Server, limit_s: float = WAIT_S) -> None:
        """Delete servers, all at once, and wait until they have gone."""
        compute = self.admin.compute
        for server in servers:
            compute.delete_server(server.id, ignore_missing=True)
        ids = {server.id for server in servers}

        def left() -> list[str]:
            known = compute.servers(details=False, all_projects=True) if ids else []
            return [server.name for server in known if server.id in ids]

        wait_until("deleted servers are gone", lambda: not left(), limit_s, seen=left)

    # ------------------------------------------------------------------- servers and their operations
    def operation(self, operation_id: str, account: str = "member") -> dict[str, Any]:
        """An operation as its user sees it."""
        answer = self.connect(account).compute.get(f"/os-cloudlet/operations/{operation_id}")
        assert answer.status_code == 200, answer.text
        shown: dict[str, Any] = answer.json()["operation"]
        return shown

    def operation_ended(self, operation_id: str, account: str = "member", limit_s: float = WAIT_S) -> dict[str, Any]:
        """An operation once it has ended, however."""

        operation: dict[str, Any] = {}

        def ended() -> bool:
            nonlocal operation
            answer = self.connect(account).compute.get(f"/os-cloudlet/operations/{operation_id}")
            if answer.status_code in (503, 504):
                # Its host is being started again.
                return False
            assert answer.status_code == 200, answer.text
            operation = answer.json()["operation"]
            return operation["state"] in ("succeeded", "failed", "cancelled")

        wait_until(f"end of operation {operation_id}", ended, limit_s, seen=lambda: operation)
        return operation

    # ------------------------------------------------------------------- the operator's side
    def restart(self, *services: str) -> None:
        """Have services of the minicloud started again, all at once; those that do not run, too."""
        self.minicloud("restart", self.name, *services)

    @contextlib.contextmanager
    def only_host(self, host: str) -> Iterator[None]:
        """The scheduler may choose no other compute host."""
        known = self.admin.compute.services(binary="nova-compute")
        others = [one for one in known if one.host != host and one.status == "enabled"]
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
            self.restart(*services)
            yield
        finally:
            path.write_text(before)
            self.restart(*services)

    def wait_for_holders(self, base_id: str, image_id: str, holders: set[str]) -> None:
        """Wait until the scheduler knows that these hosts hold a base and by which image, and that no others do.

        A host that tells of its bases in the moment in which it has got one does not know the image yet.
        """
        query = f"select hypervisor_hostname, stats from compute_nodes where deleted = 0 and stats like '%{base_id}%'"
        words = ("mariadb", "-S", "/run/minicloud/mysql.sock", "nova", "-N", "-e", query)

        def known() -> dict[str, bool]:
            rows = [line.split("\t", 1) for line in self.run(*words).splitlines()]
            return {host: f"{image_id}={base_id}" in stats for host, stats in rows}

        wanted = dict.fromkeys(holders, True)
        wait_until(f"the scheduler knows the holders {sorted(holders)}", lambda: known() == wanted, seen=known)


def address_of(server: Server) -> str:
    """The address that Nova reports for a server with one port."""
    addresses = [entry["addr"] for entries in server.addresses.values() for entry in entries]
    assert len(addresses) == 1, f"{server.name} has the addresses {addresses}"
    return str(addresses[0])
