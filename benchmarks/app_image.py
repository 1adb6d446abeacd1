# SPDX-License-Identifier: Apache-2.0
"""The web workload's server as one bootable image, kept from run to run: what a user without overlays would send."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from benchmarks import app, bases, data
from benchmarks.bench import GUESTS, Bench
from benchmarks.workloads import WORKLOADS
from cloudlet_ext.worker import server

WEB = WORKLOADS["W1"]
_TIMEOUT_S = 120.0


def _key() -> str:
    inputs = [app.APPS / (WEB.script or ""), Path(data.__file__), GUESTS / ".debian.stamp", GUESTS / ".web.stamp"]
    digest = hashlib.sha256()
    for path in inputs:
        digest.update(path.read_bytes() if path.exists() else str(path).encode())
    return digest.hexdigest()[:10]


def app_image(bench: Bench, running: app.App | None = None) -> Path:
    """The image; made, if it is not there, of a running server of the workload (or one that is started for it).

    It is made as an operator would: the disk is flattened. The app starts at boot and draws another nonce.
    """
    image = bench.folder / f"app-{_key()}.qcow2"
    if image.exists():
        return image
    for old in bench.folder.glob("app-*.qcow2*"):
        old.unlink()
    ours = running or app.start(bench, WEB)
    try:
        layer = server.load_running(bench.home, ours.server).folder / server.DISK_NAME
        partial = bench.scratch / "app.qcow2"
        with bench.section("whole image"):
            convert = ["qemu-img", "convert", "-U", "-f", "qcow2", "-O", "qcow2", str(layer), str(partial)]
            subprocess.run(convert, check=True, timeout=_TIMEOUT_S)
        partial.rename(image)
    finally:
        if running is None:
            bench.stop(ours.server)
    return image


def app_base(bench: Bench, memory_mib: int) -> str:
    """A base of that image: a plain base in which the app already runs."""
    return bases.base(bench, "debian", memory_mib, image=app_image(bench), kind="app", wait_for=WEB.probe)
