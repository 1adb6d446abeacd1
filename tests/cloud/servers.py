# SPDX-License-Identifier: Apache-2.0
"""Servers that tests start, and servers that tests share."""

from __future__ import annotations

from typing import Any

from openstack import exceptions
from openstack.compute.v2.server import Server

from tests.cloud.cloud import Cloud


class Boot:
    """``boot(name, account="member", **create)``: a server whose app answers, and its address."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud, self.made = cloud, list[Server]()

    def begin(self, name: str, account: str = "member", **words: Any) -> Server:
        """A server that was asked for."""
        self.made.append(self._cloud.create(name, account, **words))
        return self.made[-1]

    def __call__(self, name: str, account: str = "member", **words: Any) -> tuple[Server, str]:
        return self._cloud.answers(self.begin(name, account, **words))

    def all(self, *names: str, **words: Any) -> list[tuple[Server, str]]:
        """Several alike, which start side by side."""
        begun = [self.begin(name, **words) for name in names]
        return [self._cloud.answers(server) for server in begun]


class Shared:
    """Servers that the tests of a module share, by name; ``wanted`` is what each of them is asked for with.

    A test takes them as they run, and leaves them running. One that it has left otherwise is made anew for the next.
    """

    def __init__(self, cloud: Cloud, wanted: dict[str, dict[str, Any]]) -> None:
        self._cloud, self._wanted = cloud, wanted
        self._made: dict[str, Server] = {}
        self._addresses: dict[str, str] = {}

    def servers(self) -> dict[str, tuple[Server, str]]:
        """All of them with their addresses; each runs, has arrived whole, and answers."""
        broken = [name for name in self._made if not self._is_well(name)]
        self._delete(*broken)
        begun = [name for name in self._wanted if name not in self._made]
        for name in begun:
            self._made[name] = self._cloud.create(name, **self._wanted[name])
        for name in begun:
            self._made[name], self._addresses[name] = self._cloud.answers(self._made[name])
            if self._wanted[name].get("image"):
                operation = self._cloud.operation_ended(self._made[name].id)
                assert operation["state"] == "succeeded", operation
                self._cloud.settled(self._made[name], "ACTIVE")
        return {name: (self._made[name], self._addresses[name]) for name in self._wanted}

    def delete(self) -> None:
        """All of them go."""
        self._delete(*self._made)

    def _delete(self, *names: str) -> None:
        self._cloud.delete(*(self._made[name] for name in names))
        for name in names:
            del self._made[name]
            self._addresses.pop(name, None)

    def _is_well(self, name: str) -> bool:
        try:
            now = self._cloud.admin.compute.get_server(self._made[name].id)
        except exceptions.NotFoundException:
            return False
        is_idle = now.status == "ACTIVE" and now.task_state is None
        same = now.flavor.original_name == self._made[name].flavor.original_name
        address = self._addresses.get(name)
        return is_idle and same and address is not None and self._cloud.fetch(address, "/nonce") is not None
