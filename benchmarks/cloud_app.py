# SPDX-License-Identifier: Apache-2.0
"""The app of the cloud's benchmarks: the workload W1, set up by ssh in a server of ``debian-guest``; and as an image.

A page of fixed content is the first reply of servers with the app, since one that boots has nothing else in common with
one that is synthesised. What only the captured server's memory knows is asked for besides.
"""

from __future__ import annotations

import secrets
import shlex
import subprocess
import tempfile
from pathlib import Path

from benchmarks import app, data
from benchmarks.bench import GUESTS, WORK, SetupFailed
from benchmarks.cloud_bench import CloudBench, Reply
from benchmarks.cloud_probe import digest_of
from benchmarks.file_server import FileServer
from benchmarks.measure import ProcessFailed
from benchmarks.workloads import WORKLOADS

WEB = WORKLOADS["W1"]
GUEST = "debian-guest"
PAGE_PATH = "/page"
PAGE_BYTES = 256 << 10

DATA = WORK / "benchmarks" / "data"
_PLAIN_PORT = 8000
_PROPERTIES = ("kernel_id", "ramdisk_id", "os_command_line", "hw_rng_model", "hw_qemu_guest_agent")
_SETUP_TIMEOUT_S, _BOOT_TIMEOUT_S, _IMAGE_TIMEOUT_S = 180.0, 240.0, 180.0
_OPTIONS = {
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
    "LogLevel": "ERROR",
    "BatchMode": "yes",
    "ConnectTimeout": "10",
    "ConnectionAttempts": "60",
}
PLAIN = f"""
until systemctl -q is-active cloudlet-ready; do sleep 0.5; done
mkdir /run/plain && head -c 16 /dev/urandom | od -An -v -tx1 | tr -d ' \\n' >/run/plain/nonce
systemd-run --quiet --unit=plain busybox httpd -f -p {_PLAIN_PORT} -h /run/plain && sync && cat /run/plain/nonce
"""
PAGE = f"cd /var/www/html && head -c {PAGE_BYTES} data >{PAGE_PATH.lstrip('/')} && sync && cat /run/app-nonce"


def ssh(bench: CloudBench, address: str, command: str, limit_s: float) -> str:
    """Run a shell's command line in a server of ``debian-guest``, as soon as that lets one in; what it printed."""
    options = [word for name, value in _OPTIONS.items() for word in ("-o", f"{name}={value}")]
    words = [*bench.within, "ssh", *options, "-i", str(GUESTS / "ssh_key"), f"root@{address}", command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode:
        raise ProcessFailed(f"ssh to {address} ended with status {done.returncode}: {done.stderr[-1000:]}")
    return done.stdout


def image_properties(bench: CloudBench) -> dict[str, str]:
    """What an image of this guest needs to boot, and to be known to have an agent."""
    found = bench.glance.find_image(GUEST)
    if found is None:
        raise SetupFailed(f"The cloud has no image {GUEST}. Run: tools/minicloud up {bench.cloud.name}")
    shown = bench.glance.get(f"/images/{found.id}").json()
    return {name: shown[name] for name in _PROPERTIES if shown.get(name)}


def serve_nonce(bench: CloudBench, address: str) -> Reply:
    """Have a plain guest serve what only its memory holds, once it has booted."""
    nonce = ssh(bench, address, PLAIN, _BOOT_TIMEOUT_S)
    return Reply("/nonce", digest_of(nonce.encode()), _PLAIN_PORT)


def set_up(bench: CloudBench, address: str) -> tuple[Reply, Reply]:
    """Set the app up in a server: the page that a reply must be, and what only its memory knows."""
    host = bench.tenant_address
    with tempfile.TemporaryDirectory(dir=bench.scratch) as shared:
        folder = Path(shared).resolve()
        app.share(DATA, WEB, folder)
        with FileServer(folder, f"{host}:0", bench.within) as files:
            port = int(files.address.rpartition(":")[2])
            command = app.set_up_command(WEB, host, port, secrets.token_hex(16))
            ssh(bench, address, shlex.join(command), _SETUP_TIMEOUT_S)
    nonce = ssh(bench, address, PAGE, _SETUP_TIMEOUT_S)
    return page(), Reply("/nonce", digest_of(nonce.encode()))


def page() -> Reply:
    """The beginning of the app's data."""
    with data.made(DATA, "web.data").open("rb") as file:
        return Reply(PAGE_PATH, digest_of(file.read(PAGE_BYTES)))


def make_image(bench: CloudBench, server: str, out: Path) -> None:
    """The app's server as an image, as its user would make it: Nova's snapshot, compressed before it is sent away."""
    name = f"{bench.prefix}-snapshot"
    image = bench.compute.create_server_image(server, name, wait=True, timeout=int(_IMAGE_TIMEOUT_S))
    bench.images.add(image.id)
    plain = out.with_suffix(".snapshot")
    bench.glance.download_image(image.id, output=str(plain))
    bench.glance.delete_image(image.id)
    convert = ["qemu-img", "convert", "-c", "-f", "qcow2", "-O", "qcow2", "-o", "compression_type=zstd"]
    subprocess.run([*convert, str(plain), str(out)], check=True, timeout=_IMAGE_TIMEOUT_S)
    plain.unlink()
