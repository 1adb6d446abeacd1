# SPDX-License-Identifier: Apache-2.0
"""A DevStack in a folder: the files that the plugin edits, and its functions run in a shell of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WORK = Path(os.environ.get("CLOUDLET_WORK", "/var/tmp/cloudlet"))

PASTE = """\
[composite:osapi_compute]
use = call:nova.api.openstack.urlmap:urlmap_factory
/v2/+: openstack_compute_api_v21_legacy_v2_compatible
/v2.1/+: openstack_compute_api_v21

[composite:openstack_compute_api_v21]
use = call:nova.api.auth:pipeline_factory_v21
keystone = cors faultwrap authtoken keystonecontext osapi_compute_app_v21

[composite:openstack_compute_api_v21_legacy_v2_compatible]
use = call:nova.api.auth:pipeline_factory_v21
keystone = cors faultwrap authtoken keystonecontext legacy_v2_compatible osapi_compute_app_v21

[filter:keystonecontext]
paste.filter_factory = nova.api.auth:NovaKeystoneContext.factory
"""
"""Of the same form as Nova's own, for where no Nova is installed."""

NOVA_CONF = """\
[DEFAULT]
compute_driver = libvirt.LibvirtDriver
state_path = /opt/stack/data/nova

[filter_scheduler]
enabled_filters = ComputeFilter,SameHostFilter

[libvirt]
virt_type = qemu
"""


def stock_paste() -> str:
    """Nova's api-paste.ini, as its package installs it, else one of the same form."""
    for prefix in (Path(sys.prefix), WORK / "minicloud/venv"):
        path = prefix / "etc/nova/api-paste.ini"
        if path.is_file():
            return path.read_text()
    return PASTE


class DevStack:
    """Runs the plugin's functions as ``stack.sh`` does, under errexit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.etc, self.nova = folder / "etc/nova", folder / "nova"
        self.etc.mkdir(parents=True)
        for package in ("nova", "nova/virt", "nova/virt/libvirt"):
            (self.nova / package).mkdir(parents=True)
            (self.nova / package / "__init__.py").touch()
        self.conf = self.etc / "nova.conf"
        self.conf.write_text(NOVA_CONF)
        self.paste = self.etc / "api-paste.ini"
        self.paste.write_text(stock_paste())
        self.apparmor = folder / "apparmor"
        self.state, self.run_dir = folder / "data/nova/cloudlet", folder / "run/cloudlet"
        self.tmpfiles, self.sysctl = folder / "etc/tmpfiles.d", folder / "etc/sysctl.d"
        self.link = self.nova / "nova/virt/cloudlet.py"
        self.prefix = folder / "bin"
        self.prefix.mkdir()
        self._calls = folder / "calls"
        self.variables = {
            "DEST": folder,
            "CLOUDLET_DIR": ROOT,
            "NOVA_DIR": self.nova,
            "NOVA_CONF": self.conf,
            "NOVA_CPU_CONF": self.etc / "nova-cpu.conf",
            "NOVA_API_PASTE_INI": self.paste,
            "NOVA_STATE_PATH": folder / "data/nova",
            "GLANCE_API_CONF": folder / "etc/glance/glance-api.conf",
            "CLOUDLET_APPARMOR_DIR": self.apparmor,
            "CLOUDLET_RUN_DIR": self.run_dir,
            "CLOUDLET_TMPFILES_DIR": self.tmpfiles,
            "CLOUDLET_SYSCTL_DIR": self.sysctl,
            "STACK_USER": subprocess.check_output(["id", "-un"], text=True).strip(),
            "VIRT_DRIVER": "libvirt",
            "ENABLED_SERVICES": "n-api,n-cpu,n-sch,g-api",
            "PREFIX": self.prefix,
            "CALLS": self._calls,
        }

    def program(self, name: str, *, exit_code: int = 0) -> None:
        """Put a program that writes its words into the calls where DevStack's environment has its programs."""
        path = self.prefix / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self._calls}"\nexit {exit_code}\n')
        path.chmod(0o755)

    def run(self, script: str, *, errexit: bool = True) -> subprocess.CompletedProcess[str]:
        """Run lines of a shell that has DevStack's functions and the plugin's settings and library."""
        lines = [
            "set -o errexit" if errexit else "",
            f'source "{Path(__file__).parent / "functions"}"',
            f'source "{ROOT}/devstack/settings"',
            f'source "{ROOT}/devstack/lib/cloudlet"',
            script,
        ]
        environment = {"PATH": os.environ["PATH"], **{name: str(value) for name, value in self.variables.items()}}
        return subprocess.run(
            ["bash", "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    def do(self, script: str) -> None:
        """Run lines that must end well."""
        ended = self.run(script)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    @property
    def calls(self) -> list[str]:
        """What was called since the last look."""
        lines = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return lines

    def files(self) -> dict[str, bytes]:
        """Content of all files that the plugin may edit or make."""
        places = (self.etc, self.nova, self.apparmor, self.tmpfiles, self.sysctl)
        files = [file for place in places for file in place.rglob("*") if file.is_file()]
        return {str(file.relative_to(self.folder)): file.read_bytes() for file in files}


@pytest.fixture
def devstack(tmp_path: Path) -> DevStack:
    """A DevStack whose Nova has been installed and configured."""
    assert shutil.which("bash")
    return DevStack(tmp_path)
