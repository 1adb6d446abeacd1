# SPDX-License-Identifier: Apache-2.0
"""Debian with systemd, sshd and the guest agent, from its image to a clone of an overlay."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from cloudlet_ext.worker import overlay_creation, server, starting, synthesis
from cloudlet_ext.worker.home import Home
from cloudlet_ext.worker.report import Report
from cloudlet_ext.worker.server import Server
from cloudlet_ext.worker.synthesis import SynthesisRequest
from tests.functional import guest as tools
from tests.functional.guest import in_guest
from tests.functional.test_cli import CommandLine

KEPT_MIB, DELETED_MIB = 6, 24
DIGESTS = "sha256sum /root/kept /dev/shm/kept | cut -d' ' -f1"


def address(guest: Server) -> str:
    return in_guest(guest, "cat /sys/class/net/eth0/address")


def exec_without_streams(home: Home, name: str, line: str) -> int:
    """``server exec`` of a shell's line with all three standard streams closed; its exit code."""
    words = CommandLine(home.path.parent).command("server", "exec", name, "--stdin", "--", "/bin/sh", "-c", line)
    closed = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *words]
    return subprocess.run(closed, check=False, timeout=tools.WAIT_S).returncode


def test_the_whole_way(home: Home, debian: str, tmp_path: Path) -> None:
    started = starting.start_server(home, debian, "source", {}, "tcp:22", tools.WAIT_S, Report())
    path = tmp_path / "debian.cloudlet"
    with tools.loaded(home, "source") as source:
        assert started.clone.clock and started.clone.address, started.clone.reason
        assert address(source) == source.record.mac != source.record.machine["mac"]
        mib = f"bs=1M count={KEPT_MIB}"
        in_guest(source, f"dd if=/dev/urandom of=/root/kept {mib}; dd if=/dev/urandom of=/dev/shm/kept {mib}")
        assert exec_without_streams(home, "source", 'echo said; test -z "$(cat)" && exit 3') == 3
        # What was written and deleted is trimmed away.
        in_guest(source, f"dd if=/dev/urandom of=/root/gone bs=1M count={DELETED_MIB} conv=fsync; rm /root/gone; sync")
        in_guest(source, "echo 3 >/proc/sys/vm/drop_caches")
        digests = in_guest(source, DIGESTS)
        made = overlay_creation.create_overlay(home, "source", path, keep="running", level=1, report=Report())
        assert 2 * KEPT_MIB << 20 < made.summary.file_bytes < (2 * KEPT_MIB + DELETED_MIB) << 20
        assert in_guest(source, DIGESTS) == digests
        time.sleep(2)
        for placement in ("mapped", "early"):
            wanted = SynthesisRequest(str(path), placement, placement=placement, probe="tcp:22", timeout_s=tools.WAIT_S)
            result = synthesis.synthesize(home, wanted, Report())
            with tools.loaded(home, placement) as clone:
                assert result.clone.clock and result.clone.address, result.clone.reason
                assert in_guest(clone, DIGESTS) == digests
                assert len({address(clone), clone.record.mac, source.record.mac, source.machine.mac}) == 3
                began = time.time()
                assert began - 2 < float(in_guest(clone, "date +%s.%N")) < time.time() + 2
                in_guest(clone, "touch /root/mine; sync; systemctl is-active ssh")
        in_guest(source, "test ! -e /root/mine")
    assert server.names(home) == []
