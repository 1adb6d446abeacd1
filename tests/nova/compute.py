# SPDX-License-Identifier: Apache-2.0
"""A compute host's own side, real: manager, operations and worker processes, on the cloud's database and Glance.

Libvirt is stood in for: there are no guests, and ends of guests are noted. Workers say what a test has them say.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libvirt
from nova import context as nova_context
from nova.conf import CONF

from cloudlet_ext import operation_id
from cloudlet_ext.nova import jobs
from cloudlet_ext.nova.manager import CloudletManager
from cloudlet_ext.nova.runner import Task
from cloudlet_ext.nova.spare_workers import SpareWorkers
from tests.nova.cloud import MEMBER, MINE, Cloud

HOST = "real"

WORKER = """
import json, signal, sys, time
from pathlib import Path
line = sys.stdin.readline()
if not line:
    sys.exit()
job = json.loads(line)
def say(event, **facts):
    print(json.dumps(dict(facts, event=event)), flush=True)
def keep(event, **facts):
    Path(job["last_word"]).write_text(json.dumps(dict(facts, event=event)))
{body}
"""
WHEN_TOLD = """
end = time.monotonic() + 60
while not Path(job["last_word"] + ".go").exists():
    if time.monotonic() > end:
        sys.exit("nobody has told")
    time.sleep(0.02)
"""
"""Until :meth:`Compute.tell`."""
DONE = 'say("done", result=dict(base_id="b"))'
WAITS = 'say("stage", name="capture"); time.sleep(60)'


class Domain:
    """A guest of this host, as libvirt would know it."""

    def __init__(self, ended: list[str], server_id: str, paused: set[str]) -> None:
        self._ended, self._server_id, self._paused = ended, server_id, paused

    def destroy(self) -> None:
        self._ended.append(self._server_id)

    def state(self) -> list[int]:
        paused = self._server_id in self._paused
        return [libvirt.VIR_DOMAIN_PAUSED if paused else libvirt.VIR_DOMAIN_RUNNING, 0]

    def resume(self) -> None:
        self._paused.remove(self._server_id)


class Compute:
    """One nova-compute.

    ``guests``: servers whose domains are here; ``paused``: those that stand still; ``ended``: whose domains were ended.
    """

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        self._cloud, self.folder = cloud, folder
        self.guests: set[str] = set()
        self.paused: set[str] = set()
        self.ended: list[str] = []
        self.context = nova_context.RequestContext("alice", MINE, auth_token=MEMBER, service_catalog=[])
        connection = SimpleNamespace(lookupByUUIDString=self._domain)
        self.driver = SimpleNamespace(_host=SimpleNamespace(get_connection=lambda: connection))
        self.manager = CloudletManager(self.driver, HOST)
        self.work(DONE)

    def _domain(self, server_id: str) -> Domain:
        if server_id not in self.guests:
            raise libvirt.libvirtError("no domain")
        return Domain(self.ended, server_id, self.paused)

    def work(self, body: str) -> None:
        """What workers do from now on: a script that may ``say`` events and ``keep`` its last word."""
        command = [sys.executable, "-c", WORKER.format(body=body)]
        self.manager._runner.spares = SpareWorkers(command, 0)

    @contextmanager
    def serving(self) -> Iterator[Compute]:
        """It has started, and sees what became of the operations of the one before."""
        self.manager.start()
        try:
            yield self
        finally:
            self.manager.stop()

    @property
    def operations(self) -> Path:
        """The folder of the records of operations."""
        return self.folder / "operations"

    def restarted(self) -> Compute:
        """A nova-compute that comes after this one, which was killed. It has yet to start."""
        after = Compute(self._cloud, self.folder)
        after.guests, after.ended, after.paused = self.guests, self.ended, self.paused
        return after

    def server(self, **facts: Any) -> Any:
        """A server of this host."""
        return self._cloud.server(host=HOST, **facts)

    def image(self, name: str) -> str:
        """An image that waits for its content."""
        return self._cloud.glance.create(MEMBER, name=name)

    def create_base(self, server: Any, operation: str | None = None) -> tuple[str, dict[str, str]]:
        """What nova-api asks for: the operation's id and its images."""
        images = {name: self.image(name) for name in ("base-disk", "base-memory")}
        identifier = operation or operation_id.new(HOST)
        self.manager.create_base(self.context, server, identifier, "b", images)
        return identifier, images

    def begin(self, server: Any, kind: str, body: str) -> Task:
        """An operation on a server, whose worker runs."""
        self.work(body)
        identifier = server.uuid if kind in ("synthesis", "base-resume") else operation_id.new(HOST)
        task = self.manager._runner.task(self.context, kind, identifier, instance=server)
        task.begin(lambda: {"last_word": str(jobs.last_word(identifier))})
        return task

    def tell(self, identifier: str) -> None:
        """Let the worker of an operation go on."""
        Path(f"{jobs.last_word(identifier)}.go").touch()

    def left(self, images: dict[str, str]) -> list[str]:
        """Those of these images that are still there."""
        return [name for name, image in images.items() if self._cloud.glance.get(MEMBER, image) is not None]

    def shown(self, identifier: str) -> dict[str, Any]:
        found = self.manager.get_operation(self.context, identifier)
        assert found is not None
        return found

    def wait(self, identifier: str, *states: str, limit_s: float = 30.0) -> dict[str, Any]:
        """The operation, once it is in one of these states."""
        wait_until(lambda: (self.manager.get_operation(self.context, identifier) or {}).get("state") in states, limit_s)
        return self.shown(identifier)


def wait_until(holds: Callable[[], Any], limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def set_up(**options: Any) -> Iterator[None]:
    """Options of the group [cloudlet]."""
    for name, value in options.items():
        CONF.set_override(name, value, group="cloudlet")
    try:
        yield
    finally:
        for name in options:
            CONF.clear_override(name, group="cloudlet")
