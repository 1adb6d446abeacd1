# SPDX-License-Identifier: Apache-2.0
"""What one run of the cloud's benchmarks shares: the cloud, the clock, and all that it makes there and removes."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.bench import USUAL
from benchmarks.cloud_probe import Prober, Question
from benchmarks.measure import ProcessFailed
from benchmarks.rows import Rows

if TYPE_CHECKING:
    from tests.cloud.cloud import Cloud

ROOT = Path(__file__).parent.parent
MINICLOUD = ROOT / "tools" / "minicloud"
ACCOUNT = "member"
_POLL_S = 0.1
_LIMIT_S = 180.0
_END_S = 60.0


@dataclass(frozen=True)
class Reply:
    """What a server must answer, first of all."""

    path: str
    digest: str
    port: int = 80


@dataclass(frozen=True)
class Start:
    """A server that was asked for and has answered. ``posted_at``: seconds since the epoch; the rest are durations."""

    server: str
    address: str
    posted_at: float
    active_s: float
    first_reply_s: float


def wall(text: str) -> float:
    """Seconds since the epoch, of a time as operations tell it."""
    return datetime.fromisoformat(text).timestamp()


def stage_seconds(operation: Mapping[str, Any]) -> dict[str, float]:
    """How long each stage of an operation took; of one that came twice, both together."""
    begins = [wall(stage["started_at"]) for stage in operation["stages"]]
    ends = [*begins[1:], wall(operation["updated_at"])]
    seconds: dict[str, float] = {}
    for stage, begin, end in zip(operation["stages"], begins, ends, strict=True):
        seconds[stage["name"]] = seconds.get(stage["name"], 0.0) + end - begin
    return seconds


def stage_text(operations: list[Mapping[str, Any]]) -> str:
    """Where the time of several operations went, for a person: medians, in the order of the first one."""
    told = [stage_seconds(operation) for operation in operations]
    names = list(dict.fromkeys(name for one in told for name in one))
    parts = [f"{name} {statistics.median(one.get(name, 0.0) for one in told):.2f}" for name in names]
    return f"{', '.join(parts)} s"


def only_address(server: Mapping[str, Any]) -> str | None:
    """The address of a server with one port, as soon as Nova tells it."""
    found = [entry["addr"] for entries in server["addresses"].values() for entry in entries]
    return str(found[0]) if found else None


@dataclass
class CloudBench:
    """One run. Everything that it makes in the cloud has a name that begins with ``prefix``."""

    cloud: Cloud
    prober: Prober
    scratch: Path
    prefix: str
    quick: bool
    rows: Rows = field(default_factory=Rows)
    failures: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    images: set[str] = field(default_factory=set)
    bases: set[str] = field(default_factory=set)
    operations: set[str] = field(default_factory=set)

    @property
    def repeats(self) -> int:
        """Measurements of which the median is taken."""
        return 2 if self.quick else 5

    @property
    def compute(self) -> Any:
        """Nova, for the user."""
        return self.cloud.connect(ACCOUNT).compute

    @property
    def within(self) -> list[str]:
        """The command that runs another one in the tenants' network."""
        return [str(MINICLOUD), "net", self.cloud.name]

    @property
    def tenant_address(self) -> str:
        """This machine's address in the tenants' network."""
        port = self.cloud.admin.network.find_port("minicloud", ignore_missing=False)
        return str(port.fixed_ips[0]["ip_address"])

    @property
    def glance(self) -> Any:
        """Glance, for the user."""
        return self.cloud.connect(ACCOUNT).image

    def say(self, text: str) -> None:
        """Tell a person what happens."""
        print(f"[{time.monotonic() - self.began:6.1f} s] {text}", flush=True)

    def note(self, tool: str, figure: str, values: list[float], *, workload: str = "web", linked: bool = False) -> None:
        """Rows of seconds; ``linked``: through the link."""
        rate, rtt = (USUAL.mbit, USUAL.rtt_ms) if linked else (None, None)
        self.rows.add(workload, tool, figure, values, "s", rate_mbit=rate, rtt_ms=rtt)

    # ------------------------------------------------------------------- servers
    def body(self, name: str, image: str, flavor: str, metadata: Mapping[str, str]) -> dict[str, Any]:
        """Of ``POST /servers``."""
        network = self.cloud.admin.network.find_network("lab", ignore_missing=False).id
        server = {
            "name": f"{self.prefix}-{name}",
            "imageRef": image,
            "flavorRef": self.compute.find_flavor(flavor, ignore_missing=False).id,
            "networks": [{"uuid": network}],
            "metadata": dict(metadata),
        }
        return {"server": server}

    def start(
        self,
        name: str,
        image: str,
        flavor: str,
        reply: Reply,
        metadata: Mapping[str, str] | None = None,
        *,
        bring_image: Callable[[], str] | None = None,
    ) -> Start:
        """Ask for a server, wait until it is ACTIVE and has answered. ``bring_image`` makes its image; that counts."""
        body = self.body(name, image, flavor, metadata or {})
        posted_at, posted = time.time(), time.monotonic()
        if bring_image is not None:
            body["server"]["imageRef"] = bring_image()
        answer = self.compute.post("/servers", json=body)
        if answer.status_code != 202:
            raise ProcessFailed(f"{name}: {answer.text}")
        server = str(answer.json()["server"]["id"])
        try:
            address, active = self._watch(name, server, reply)
            replied = self.prober.answered()
        except BaseException:
            # It may still ask for what will never come.
            self.prober.restart()
            raise
        return Start(server, address, posted_at, active - posted, replied - posted)

    def question(self, address: str, reply: Reply) -> Question:
        """To be asked at a server's address."""
        return Question(address, reply.path, reply.digest, _LIMIT_S, reply.port)

    def _watch(self, name: str, server: str, reply: Reply) -> tuple[str, float]:
        """Have the app asked as soon as Nova tells the address; that, and when the server was ACTIVE."""
        deadline = time.monotonic() + _LIMIT_S
        asked: str | None = None
        while time.monotonic() < deadline:
            shown = self.compute.get(f"/servers/{server}").json()["server"]
            now = time.monotonic()
            if shown["status"] == "ERROR":
                raise ProcessFailed(f"{name}: {shown.get('fault')}")
            if asked is None and (asked := only_address(shown)):
                self.prober.begin(self.question(asked, reply))
            if asked and shown["status"] == "ACTIVE":
                return asked, now
            time.sleep(_POLL_S)
        raise ProcessFailed(f"{name}: not ACTIVE within {_LIMIT_S:.0f} s")

    def delete(self, *servers: str) -> None:
        """Delete servers, and wait until they have gone."""
        compute = self.cloud.admin.compute
        for server in servers:
            compute.delete_server(server, ignore_missing=True)
        deadline = time.monotonic() + _LIMIT_S
        for server in servers:
            while compute.get(f"/servers/{server}").status_code != 404:
                if time.monotonic() > deadline:
                    raise ProcessFailed(f"server {server} was not deleted within {_LIMIT_S:.0f} s")
                time.sleep(_POLL_S)

    # ------------------------------------------------------------------- operations
    def ended(self, operation_id: str) -> dict[str, Any]:
        """An operation once it has ended; :class:`ProcessFailed` with its error when that was not well."""
        operation = self.cloud.operation_ended(operation_id, ACCOUNT, _LIMIT_S)
        self.images |= set(operation["images"].values())
        self.operations.discard(operation_id)
        if operation["state"] != "succeeded":
            raise ProcessFailed(f"{operation['type']} {operation['state']}: {operation['error']}")
        return operation

    def capture(self, server: str, body: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """Make a base or an overlay of a server: the seconds from the request to its end, and the operation."""
        self._idle(server)
        posted_at = time.time()
        answer = self.compute.post(f"/servers/{server}/action", json=body)
        if answer.status_code != 202:
            raise ProcessFailed(answer.text)
        operation_id = str(answer.json()["operation"])
        self.operations.add(operation_id)
        operation = self.ended(operation_id)
        if base_id := operation["result"].get("base_id"):
            self.bases.add(base_id)
        return wall(operation["updated_at"]) - posted_at, operation

    def _idle(self, server: str) -> None:
        """Nova tells a little later than the operation that a server is busy no more."""
        deadline = time.monotonic() + _END_S
        while self.compute.get(f"/servers/{server}").json()["server"]["OS-EXT-STS:task_state"]:
            if time.monotonic() > deadline:
                raise ProcessFailed(f"server {server} stays busy")
            time.sleep(_POLL_S)

    @contextlib.contextmanager
    def placement(self, kind: str) -> Iterator[None]:
        """``[cloudlet] placement`` of the compute host, whose nova-compute is started again with it and without it."""
        path = self.cloud.folder / "etc" / "nova-cpu.conf"
        before = path.read_text()
        try:
            path.write_text(f"{before}\n[cloudlet]\nplacement = {kind}\n")
            self.cloud.minicloud("restart", self.cloud.name, "compute")
            yield
        finally:
            path.write_text(before)
            self.cloud.minicloud("restart", self.cloud.name, "compute")

    # ------------------------------------------------------------------- the end
    def clean(self) -> None:
        """Remove all that was made: servers, images, what hosts keep of them. One failure does not end it."""
        for step in (self._end_servers, self._end_operations, self._end_images, self._end_caches):
            try:
                step()
            except Exception as failure:  # noqa: BLE001 - the rest is to go, too
                self.failures.append(f"cleaning up: {type(failure).__name__}: {failure}")

    def _end_servers(self) -> None:
        servers = self.cloud.admin.compute.servers(all_projects=True, details=False)
        self.delete(*[one.id for one in servers if one.name.startswith(f"{self.prefix}-")])

    def _end_operations(self) -> None:
        """What makes an image must have ended before the image can be deleted for good."""
        for operation_id in list(self.operations):
            with contextlib.suppress(ProcessFailed):
                self.ended(operation_id)

    def _end_images(self) -> None:
        glance = self.cloud.admin.image
        for image in [*glance.images(), *glance.images(is_hidden=True)]:
            if (image.name or "").startswith(f"{self.prefix}-"):
                self.images.add(image.id)
        for image_id in self.images:
            glance.delete_image(image_id, ignore_missing=True)

    def _end_caches(self) -> None:
        for state in self.cloud.folder.glob("hosts/*/state"):
            for base_id in self.bases:
                shutil.rmtree(state / "cloudlet" / "bases" / base_id, ignore_errors=True)
            for image_id in self.images:
                name = hashlib.sha1(image_id.encode(), usedforsecurity=False).hexdigest()
                for path in (state / "nova" / "instances" / "_base").glob(f"{name}*"):
                    path.unlink()
