# SPDX-License-Identifier: Apache-2.0
"""The network of a scratch guest, lent by a real daemon of oslo.privsep to a process without privileges."""

from __future__ import annotations

import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_config import cfg
from oslo_rootwrap import filters, wrapper

from cloudlet_ext import privsep
from cloudlet_ext.hypervisor import errors as hypervisor_errors
from cloudlet_ext.job import errors, guest_probe, scratch

ROOT = Path(__file__).parents[2]

BORROWER = """
import fcntl, os, socket, struct, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from oslo_privsep.priv_context import Method
from cloudlet_ext import privsep
from cloudlet_ext.hypervisor.errors import NetworkFailed
from cloudlet_ext.hypervisor.scratch_network import Neighbour
from cloudlet_ext.job import guest_probe, scratch

tap = sys.argv[1]
holder = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(holder, 0x400454CA, struct.pack("16sH22x", tap.encode(), 0x1002))
# As the helper would, which would have to be root's; from here on it is a process without privileges.
privsep.context.start(Method.FORK)
os.setgroups([])
os.setgid(65534)
os.setuid(65534)

network = scratch.LentNetwork()

def refused(what, *arguments):
    try:
        what(*arguments)
    except NetworkFailed as failure:
        print(f"refused: {failure.reason}")
    else:
        print("not refused")

refused(scratch.LentNetwork)
refused(network.take, Neighbour("eth0", "192.0.2.1/24"))
refused(network.take, Neighbour("clr000000001", "192.0.2.1/24"))
refused(network.take, Neighbour(tap, "192.0.2.1/24 dev lo"))
refused(network.open_socket, socket.AF_UNIX)
refused(network.open_dhcp_socket, "eth0")
network.take(Neighbour(tap, "192.0.2.1/24"))
dhcp = network.open_dhcp_socket(tap)
print(dhcp.getsockname()[1], dhcp.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\\0").decode())

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/here" else 404)
        self.end_headers()
    def log_message(self, *words):
        pass

server = HTTPServer(("192.0.2.1", 0), Handler, bind_and_activate=False)
server.socket.close()
server.socket = network.open_socket(socket.AF_INET)
server.socket.bind(("192.0.2.1", 8080))
server.server_activate()
threading.Thread(target=server.serve_forever, daemon=True).start()
print(guest_probe.parse("http://:8080/here", "192.0.2.1", None)(network))
print(guest_probe.parse("tcp:8080", "192.0.2.1", None)(network))
try:
    guest_probe.parse("http://:8080/none", "192.0.2.1", None)(network)
except OSError as failure:
    print(failure)
for name in ("self", privsep.context.channel and open(f"/proc/self/task/{os.getpid()}/children").read().split()[0]):
    lines = dict(line.split(":", 1) for line in open(f"/proc/{name}/status").read().splitlines())
    print(lines["CapEff"].strip(), lines["Uid"].split()[0])
network.close()
"""


def test_a_process_without_privileges_borrows_a_network() -> None:
    tap = f"clr{secrets.token_hex(4)}0"
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BORROWER, tap], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout.splitlines()
    assert said[0] == "refused: there is one already"
    assert said[1] == "refused: 'eth0' is no tap device of a scratch guest"
    assert "Cannot find device" in said[2]
    assert "does not appear to be an IPv4 or IPv6 interface" in said[3]
    assert said[4] == "refused: family 1"
    assert said[5] == "refused: 'eth0' is no tap device of a scratch guest"
    assert said[6] == f"67 {tap}"
    assert said[7:10] == ["True", "True", "HTTP status 404"]
    assert said[10] == f"{0:016x} 65534"
    # CAP_SYS_ADMIN is 21, CAP_NET_ADMIN is 12.
    assert said[11] == f"{1 << 21 | 1 << 12:016x} 0"


@pytest.fixture
def _own_helper() -> Iterator[None]:
    yield
    cfg.CONF.clear_override("helper_command", group=privsep.GROUP)


@pytest.mark.usefixtures("_own_helper")
def test_a_helper_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 64055)
    with pytest.raises(errors.NotPrivileged, match=r"false nova-rootwrap does not start .*exited non-zero \(1\)"):
        scratch.prepare("false nova-rootwrap")
    with pytest.raises(errors.NotPrivileged, match="No such file"):
        scratch.prepare("/none/sudo")
    with pytest.raises(hypervisor_errors.NetworkFailed):
        scratch.LentNetwork()


def test_rootwrap_lets_pass_what_the_guide_says() -> None:
    page = (ROOT / "doc/source/admin/install.rst").read_text()
    found = re.search(r"^ +privsep-rootwrap-cloudlet: (.*)$", page, re.MULTILINE)
    assert found is not None
    words = [word.strip() for word in found[1].split(",")]
    assert words[0] == "RegExpFilter"
    known = filters.RegExpFilter(*words[1:])

    def passes(*command: str) -> bool:
        try:
            return bool(wrapper.match_filter([known], list(command), exec_dirs=[str(Path(sys.executable).parent)]))
        except (wrapper.NoFilterMatched, wrapper.FilterMatchNotExecutable) as refused:
            return isinstance(refused, wrapper.FilterMatchNotExecutable)

    own = ["--privsep_context", privsep.CONTEXT, "--privsep_sock_path", "/tmp/tmpabc/privsep.sock"]
    assert passes("privsep-helper", "--config-file", "/etc/nova/nova.conf", *own)
    assert not passes("privsep-helper", "--config-file", "/etc/../tmp/nova.conf", *own)
    other = [word.replace(privsep.CONTEXT, "nova.privsep.sys_admin_pctxt") for word in own]
    assert not passes("privsep-helper", "--config-file", "/etc/nova/nova.conf", *other)


def test_the_helper_is_nova_s_own_way() -> None:
    words = shlex.split(privsep.helper())
    assert words[-1] == "privsep-helper" or "--config-file" in words
    assert privsep.CONTEXT not in words


def test_probes_that_are_none() -> None:
    with pytest.raises(errors.BadJob, match="is no probe"):
        guest_probe.parse("ping", "192.0.2.1", None)
