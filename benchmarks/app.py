# SPDX-License-Identifier: Apache-2.0
"""A workload's server: a plain base, resumed, and the app set up in it through the guest agent."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import bases, data, tool
from benchmarks.bench import GUESTS, Bench, SetupFailed
from benchmarks.file_server import FileServer
from benchmarks.workloads import Workload
from cloudlet_ext.hypervisor.agent import GuestAgent
from cloudlet_ext.worker import probe, server

APPS = Path(__file__).parent / "apps"
_HOST = "10.0.2.2"
"""This machine, in QEMU's user network."""

_SETUP_TIMEOUT_S = 180.0
_REPLY_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class App:
    """A running server with a workload's app.

    ``expected``: its answer to the probe; ``nonce``: what only its memory knows.
    """

    base: str
    server: str
    expected: bytes
    nonce: str


def share(data_folder: Path, workload: Workload, folder: Path) -> None:
    """Links to all that the set-up script fetches, and the script; data are made in ``data_folder``."""
    for name in (*workload.files, workload.script or ""):
        if name in data.MAKERS:
            target = data.made(data_folder, name)
        else:
            target = next(place / name for place in (APPS, GUESTS) if (place / name).exists())
        (folder / name).symlink_to(target)


def set_up_command(workload: Workload, host: str, port: int, nonce: str) -> list[str]:
    """What is to be run in the guest, which finds what is shared at ``host`` and ``port``."""
    settings = {"HOST": host, "PORT": port, "NONCE": nonce, **workload.settings}
    fetch = f"busybox wget -q -O /run/setup http://{host}:{port}/{workload.script} && bash /run/setup"
    environment = [f"{name}={value}" for name, value in settings.items()]
    return ["/usr/bin/env", *environment, "/bin/bash", "-c", f"{fetch}; end=$?; rm -f /run/setup; exit $end"]


def _set_up(bench: Bench, workload: Workload, guest: server.Server, nonce: str) -> None:
    with tempfile.TemporaryDirectory(dir=bench.scratch) as shared:
        folder = Path(shared).resolve()
        share(bench.folder / "data", workload, folder)
        with FileServer(folder) as files, GuestAgent(guest.agent_path) as agent:
            port = int(files.address.rpartition(":")[2])
            done = agent.run(set_up_command(workload, _HOST, port, nonce), _SETUP_TIMEOUT_S)
    if done.status:
        said = (done.output + done.error).decode(errors="replace")[-1000:]
        raise SetupFailed(f"{workload.script} in the guest ended with status {done.status}: {said}")


def ask(bench: Bench, name: str, probe_text: str, timeout_s: float = _REPLY_TIMEOUT_S) -> bytes:
    """A server's answer to a probe."""
    guest = server.load_running(bench.home, name)
    waiting = probe.parse(probe_text)
    waiting.prepare(guest)
    try:
        return probe.wait(waiting, guest, timeout_s).content
    finally:
        guest.close()


def start(bench: Bench, workload: Workload, memory_mib: int | None = None) -> App:
    """Start a server of a plain base (of another size, if given) and set the app up in it."""
    memory_mib = memory_mib or workload.memory_mib
    base = bases.base(bench, workload.guest, memory_mib)
    name = re.sub(r"[^A-Za-z0-9]", "", workload.name) + f"-{memory_mib}"
    bench.stop(name)
    nonce = secrets.token_hex(16)
    with bench.section(f"{workload.name}, {memory_mib} MiB: app"):
        tool.run(bench, "start_server", base=base, name=name, wait_for=None, timeout_s=60.0)
        if workload.script is not None:
            guest = server.load_running(bench.home, name)
            _set_up(bench, workload, guest, nonce)
            guest.close()
        expected = ask(bench, name, workload.probe)
    return App(base, name, expected, nonce)


def free_space(bench: Bench) -> int:
    """Bytes left where the benchmarks keep their files."""
    return shutil.disk_usage(bench.folder).free
