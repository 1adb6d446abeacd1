# SPDX-License-Identifier: Apache-2.0
"""Which accelerator to use: KVM where it really works, else emulation.

``/dev/kvm`` may open and still hang every guest (nested virtualisation on some clouds), so a tiny machine is started
and given a few seconds to say something.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path

from cloudlet_ext.hypervisor import errors

KVM, TCG = "kvm", "tcg"
_PROBE_TIMEOUT_S = 5.0

# A boot sector: write "K" to the debug port 0xe9 until told otherwise, then halt.
#   mov al,'K' ; out 0xe9,al ; cli ; hlt ; jmp $-1
_BOOT_SECTOR = bytes([0xB0, 0x4B, 0xE6, 0xE9, 0xFA, 0xF4, 0xEB, 0xFD]).ljust(510, b"\0") + b"\x55\xaa"


def choose(binary: str, cache: Path) -> str:
    """``$CLOUDLET_ACCEL`` if set, else the probed answer; ``cache`` remembers it for this boot of this host."""
    forced = os.environ.get("CLOUDLET_ACCEL")
    if forced is not None:
        if forced not in (KVM, TCG):
            raise errors.AcceleratorUnknown(found=forced)
        return forced
    host = {"boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(), "binary": binary}
    try:
        remembered = json.loads(cache.read_text())
        if remembered["host"] == host and remembered["accelerator"] in (KVM, TCG):
            return str(remembered["accelerator"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    accelerator = KVM if works(binary) else TCG
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps({"host": host, "accelerator": accelerator}))
    return accelerator


def works(binary: str) -> bool:
    """Whether a guest of one sector, run under KVM, writes its letter within five seconds."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with tempfile.TemporaryDirectory(prefix="cloudlet-kvm-") as folder:
        disk, said = Path(folder, "boot"), Path(folder, "said")
        disk.write_bytes(_BOOT_SECTOR)
        arguments = ["-machine", "pc,accel=kvm", "-m", "16", "-nodefaults", "-no-user-config", "-display", "none"]
        arguments += ["-drive", f"file={disk},format=raw,if=ide,readonly=off,snapshot=on"]
        arguments += ["-debugcon", f"file:{said}"]
        child = subprocess.Popen(
            [binary, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            for _ in range(int(_PROBE_TIMEOUT_S / 0.05)):
                try:
                    child.wait(0.05)
                    return False
                except subprocess.TimeoutExpired:
                    pass
                if said.exists() and b"K" in said.read_bytes():
                    return True
            return False
        finally:
            child.kill()
            child.wait()
