# SPDX-License-Identifier: Apache-2.0
"""What is measured in a cloud: starts of the app in several ways, captures, the guest's size, many servers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import cloud_app
from benchmarks.bench import USUAL
from benchmarks.cloud_bench import CloudBench, Reply, Start, stage_seconds, stage_text, wall
from benchmarks.cloud_probe import digest_of
from benchmarks.file_server import FileServer
from benchmarks.link import Link, download
from benchmarks.measure import ProcessFailed, proportional_bytes
from benchmarks.shaper import Shaper

SMALL_GUEST = "minicloud-guest"
FLAVOR, MEMORY_MIB = "m1.small", 256
SIZES = {"m1.tiny": 128, "m1.small": 256, "m1.large": 2048}
MANY = 5
SETTLE_S = 5.0

FIRST, ACTIVE = "first reply", "active"
COLD, WARM = "image through the link + boot", "cached image + boot"
RESUME = "base resume"
PLACEMENTS = ("early", "mapped")


def synthesis(placement: str) -> str:
    """The name of this way to start the app."""
    return f"synthesis, {placement}"


STARTS = (COLD, WARM, RESUME, *map(synthesis, PLACEMENTS))
"""The ways to start the app."""


@dataclass(frozen=True)
class Made:
    """What all figures use: the base with what its guest knows, the overlay's file, the app's image as a file.

    ``page``: what every server with the app answers; ``nonce``: what only one that was synthesised does.
    """

    base: str
    base_reply: Reply
    page: Reply
    nonce: Reply
    overlay: Path
    image: Path
    properties: Mapping[str, str]


class Arriving:
    """The body of an upload that is itself just being downloaded: ``curl URL | openstack image create``."""

    def __init__(self, url: str, size: int) -> None:
        self._pieces, self._size, self._left = download(url), size, b""

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(1 << 16):
            yield piece

    def read(self, size: int = -1) -> bytes:
        """Some bytes, none at the end."""
        if not self._left:
            self._left = next(self._pieces, b"")
        size = len(self._left) if size < 0 else size
        given, self._left = self._left[:size], self._left[size:]
        return given


@contextlib.contextmanager
def link_to(bench: CloudBench, folder: Path) -> Iterator[Link]:
    """The files of a folder, through the link, for this machine and for the compute hosts."""
    from tests.cloud.cloud import WAN

    with (
        FileServer(folder) as server,
        Shaper(server.address, rate_mbit=USUAL.mbit, rtt_ms=USUAL.rtt_ms, listen=f"{WAN}:0") as shaper,
    ):
        yield Link(server, shaper.address)


def boot(bench: CloudBench, name: str, flavor: str = FLAVOR) -> tuple[str, Reply]:
    """A server of the small guest that answers, its time not taken; and what only its memory holds."""
    from tests.cloud.cloud import address_of

    server = bench.cloud.active(bench.cloud.create(f"{bench.prefix}-{name}", image=SMALL_GUEST, flavor=flavor))
    nonce = bench.cloud.fetched(address_of(server))
    return str(server.id), Reply("/nonce", digest_of(nonce.encode()))


def boot_debian(bench: CloudBench, name: str) -> tuple[str, Reply]:
    """The same of the guest of the app, when it has settled."""
    from tests.cloud.cloud import address_of

    server = bench.cloud.active(bench.cloud.create(f"{bench.prefix}-{name}", image=cloud_app.GUEST, flavor=FLAVOR))
    return str(server.id), cloud_app.serve_nonce(bench, address_of(server))


# ----------------------------------------------------------------------- captures
def capture_bases(bench: CloudBench, server: str, name: str, times: int) -> tuple[str, list[float]]:
    """The image of the last base, and how long each took."""
    took = []
    for _ in range(times):
        seconds, operation = bench.capture(server, {"cloudlet-base": {"name": f"{bench.prefix}-{name}"}})
        took.append(seconds)
    return str(operation["images"]["base-disk"]), took


def capture_overlays(bench: CloudBench, server: str) -> Path:
    """Note how overlays are made; the file of the last one, which has a recorded working set."""
    took, pauses, name = [], [], f"{bench.prefix}-app"
    operations: list[Mapping[str, Any]] = []
    for _ in range(bench.repeats):
        seconds, operation = bench.capture(server, {"cloudlet-overlay-finish": {"overlay-name": name}})
        operations.append(operation)
        took.append(seconds)
        pauses.append(float(operation["result"]["pause_s"]))
    bench.note("overlay create", "creation", took)
    bench.note("overlay create", "pause", pauses)
    bench.rows.stages["creation", "overlay create"] = stage_text(operations)
    wanted = {"overlay-name": name, "record": f"http://:80{cloud_app.PAGE_PATH}"}
    seconds, operation = bench.capture(server, {"cloudlet-overlay-finish": wanted})
    bench.note("overlay create, recorded", "creation", [seconds])
    bench.rows.add("web", "overlay create, recorded", "size", operation["result"]["overlay_bytes"], "bytes")
    out = bench.scratch / "app.cloudlet"
    bench.glance.download_image(operation["images"]["overlay"], output=str(out))
    return out


def prepare(bench: CloudBench) -> Made:
    """Make the base, the overlay and the app's image; how long the captures take is noted."""
    properties = cloud_app.image_properties(bench)
    bench.say("a base")
    source, base_reply = boot_debian(bench, "source")
    base, took = capture_bases(bench, source, "base", bench.repeats)
    bench.note("base create", "creation", took)
    bench.delete(source)
    bench.say("the app")
    server = bench.start("app", base, FLAVOR, base_reply)
    bench.ended(server.server)
    page, nonce = cloud_app.set_up(bench, server.address)
    bench.say("an overlay")
    overlay = capture_overlays(bench, server.server)
    bench.say("the app's image")
    image = bench.scratch / "app.qcow2"
    cloud_app.make_image(bench, server.server, image)
    bench.rows.add("web", COLD, "size", image.stat().st_size, "bytes")
    bench.delete(server.server)
    return Made(base, base_reply, page, nonce, overlay, image, properties)


# ----------------------------------------------------------------------- starts
def upload(bench: CloudBench, made: Made, url: str | None) -> str:
    """A new image of the user's, from a file or from a URL as it arrives."""
    facts = {"disk_format": "qcow2", "container_format": "bare", "os_shutdown_timeout": "2", **made.properties}
    answer = bench.glance.post("/images", json={"name": f"{bench.prefix}-image", **facts})
    if answer.status_code != 201:
        raise ProcessFailed(f"no image was made: {answer.text}")
    image_id = str(answer.json()["id"])
    bench.images.add(image_id)
    content: Any = Arriving(url, made.image.stat().st_size) if url else made.image.read_bytes()
    headers = {"Content-Type": "application/octet-stream"}
    sent = bench.glance.put(f"/images/{image_id}/file", data=content, headers=headers)
    if sent.status_code != 204:
        raise ProcessFailed(f"image {image_id} was not taken: {sent.text}")
    return image_id


def note_starts(bench: CloudBench, tool: str, starts: list[Start], *, linked: bool = False) -> None:
    """Rows of one way to start the app."""
    bench.note(tool, FIRST, [start.first_reply_s for start in starts], linked=linked)
    bench.note(tool, ACTIVE, [start.active_s for start in starts], linked=linked)


def ordinary_starts(bench: CloudBench, made: Made) -> None:
    """Boots, from an image that must come first and from one that the host has; resumes of the base. By turns."""
    cold: list[Start] = []
    warm: list[Start] = []
    resumed: list[Start] = []
    cached = upload(bench, made, None)
    bench.delete(bench.start("first", cached, FLAVOR, made.page).server)
    with link_to(bench, made.image.parent) as link:
        url = link.url(made.image)
        for number in range(bench.repeats):
            bench.say(f"ordinary starts, {number + 1} of {bench.repeats}")
            cold.append(bench.start("cold", "", FLAVOR, made.page, bring_image=lambda: upload(bench, made, url)))
            bench.delete(cold[-1].server)
            warm.append(bench.start("warm", cached, FLAVOR, made.page))
            bench.delete(warm[-1].server)
            resumed.append(bench.start("resumed", made.base, FLAVOR, made.base_reply))
            bench.ended(resumed[-1].server)
            bench.delete(resumed[-1].server)
    note_starts(bench, COLD, cold, linked=True)
    note_starts(bench, WARM, warm)
    note_starts(bench, RESUME, resumed)


def syntheses(bench: CloudBench, made: Made, placement: str) -> None:
    """The overlay through the link, with one placement."""
    tool = synthesis(placement)
    starts: list[Start] = []
    operations: list[dict[str, Any]] = []
    with bench.placement(placement), link_to(bench, made.overlay.parent) as link:
        metadata = {"overlay_url": link.url(made.overlay)}
        for number in range(bench.repeats):
            bench.say(f"{tool}, {number + 1} of {bench.repeats}")
            starts.append(bench.start("synthesised", made.base, FLAVOR, made.page, metadata))
            operations.append(bench.ended(starts[-1].server))
            bench.prober.ask(bench.question(starts[-1].address, made.nonce))
            bench.delete(starts[-1].server)
    found = {operation["result"]["placement"] for operation in operations}
    if found != {placement}:
        raise ProcessFailed(f"placement {placement} was asked for, {found} was taken")
    note_starts(bench, tool, starts, linked=True)
    begins = [wall(operation["stages"][0]["started_at"]) for operation in operations]
    before = [begin - start.posted_at for start, begin in zip(starts, begins, strict=True)]
    bench.note(tool, "before the engine", before, linked=True)
    running = [float(operation["result"]["running_s"]) for operation in operations]
    bench.note(tool, "engine: guest runs", running, linked=True)
    whole = [
        wall(operation["updated_at"]) - start.posted_at for start, operation in zip(starts, operations, strict=True)
    ]
    bench.note(tool, "fully resident", whole, linked=True)
    bench.rows.stages[FIRST, tool] = stage_text(list(operations))


# ----------------------------------------------------------------------- size, density
def sizes(bench: CloudBench) -> None:
    """Resume of bases of guests of several sizes, by turns."""
    bases: dict[str, tuple[str, Reply]] = {}
    for flavor, mib in SIZES.items():
        bench.say(f"a base of {mib} MiB")
        bases[flavor] = small_base(bench, flavor)
        # The first one has Nova fetch the base's disk.
        first = bench.start("first", bases[flavor][0], flavor, bases[flavor][1])
        bench.ended(first.server)
        bench.delete(first.server)
    starts: dict[str, list[Start]] = {flavor: [] for flavor in SIZES}
    stages: dict[str, list[dict[str, float]]] = {flavor: [] for flavor in SIZES}
    for number in range(bench.repeats):
        bench.say(f"resume by size, {number + 1} of {bench.repeats}")
        for flavor, (base, reply) in bases.items():
            start = bench.start("sized", base, flavor, reply)
            stages[flavor].append(stage_seconds(bench.ended(start.server)))
            starts[flavor].append(start)
            bench.delete(start.server)
    for flavor, mib in SIZES.items():
        workload = size_name(mib)
        bench.note(RESUME, FIRST, [start.first_reply_s for start in starts[flavor]], workload=workload)
        for stage in ("start", "load"):
            values = [one.get(stage, 0.0) for one in stages[flavor]]
            bench.note(RESUME, f"stage {stage}", values, workload=workload)


def small_base(bench: CloudBench, flavor: str) -> tuple[str, Reply]:
    """A base of the small guest, and what only its memory holds."""
    server, reply = boot(bench, f"source-{flavor}", flavor)
    base, _ = capture_bases(bench, server, f"base-{flavor}", 1)
    bench.delete(server)
    return base, reply


def size_name(mib: int) -> str:
    """The workload of a guest of so much memory."""
    return f"guest of {mib} MiB"


def density(bench: CloudBench) -> None:
    """Memory of idle servers on one host, a page that they share counted once: booted ones, and those of one base."""
    base, reply = small_base(bench, FLAVOR)
    for tool in ("boot", RESUME):
        bench.say(f"{MANY} servers: {tool}")
        servers = []
        for number in range(MANY):
            name = f"dense-{number}"
            if tool == "boot":
                servers.append(boot(bench, name)[0])
            else:
                servers.append(bench.start(name, base, FLAVOR, reply).server)
                bench.ended(servers[-1])
        time.sleep(SETTLE_S)
        total = sum(proportional_bytes(process_of(bench, server)) for server in servers)
        bench.rows.add(f"{MANY} servers of {MEMORY_MIB} MiB", tool, "memory", total, "bytes")
        bench.delete(*servers)


def process_of(bench: CloudBench, server: str) -> int:
    """The pid of a server's QEMU."""
    shown = bench.cloud.admin.compute.get_server(server)
    path = f"/run/libvirt/qemu/{shown.instance_name}.pid"
    return int(bench.cloud.run("cat", path, host=shown.compute_host))
