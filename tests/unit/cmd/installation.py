# SPDX-License-Identifier: Apache-2.0
"""What an installation is put into: a Nova, a paste file, and a user without rights."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PASTE = b"""\
[composite:openstack_compute_api_v21]
use = call:nova.api.auth:pipeline_factory_v21
keystone = cors authtoken keystonecontext osapi_compute_app_v21

[composite:openstack_compute_api_v21_legacy_v2_compatible]
use = call:nova.api.auth:pipeline_factory_v21
keystone = cors authtoken keystonecontext legacy_v2_compatible osapi_compute_app_v21

# caf\xe9
[filter:keystonecontext]
paste.filter_factory = nova.api.auth:NovaKeystoneContext.factory
"""


def make_nova(parent: Path) -> Path:
    """A package that looks like Nova from outside."""
    for package in ("nova", "nova/virt", "nova/virt/libvirt"):
        (parent / package).mkdir(parents=True)
        (parent / package / "__init__.py").write_text("")
    return parent / "nova"


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that others can pass through; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


def as_another_user(
    *words: object, command: str = "manage", rehearsed: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run cloudlet-manage, or another command, as somebody without rights where the tests have all.

    That user may not be able to read this Python: ``rehearsed`` runs a command that changes nothing once before, so
    that all that it imports is there.
    """
    code = f"""\
import contextlib, io, os, sys
from cloudlet_ext.cmd.{command} import main
if {rehearsed}:
    with contextlib.redirect_stdout(io.StringIO()):
        main(sys.argv[2:])
os.setuid(int(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""
    uid = 65534 if os.geteuid() == 0 else os.geteuid()
    whole = [sys.executable, "-c", code, str(uid), *map(str, words)]
    return subprocess.run(whole, capture_output=True, text=True, check=False)
