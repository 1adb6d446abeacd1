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

# A boot sector that enters long mode and uses memory there before it writes "K" to port 0xe9: accelerator_probe.S.
# One that stays in real mode succeeds on hosts where every kernel hangs.
_BOOT_SECTOR = (
    bytes.fromhex(
        "fa31c08ed88ec08ed0bc007ce4920c02e69266bf001000000f22df6631c066b9000c0000fc66f3ab66c70600100320000066c706"
        "00200330000066bf0030000066b88300000066b920000000676689076605000020006683c708e2f00f20e06683c8200f22e066b9"
        "800000c00f32660d000100000f300f20c0660d010000800f22c0660f0116007d66ea907c00000800b8100000008ed88ec08ed0bf"
        "00004000b90000200048b8efcdab8967452301f348abbe00004000b90000200031d248ad4801c2ffc975f748c704251030000000"
        "0000000f20d80f22d80fa2b04be6e9f4ebfd660f1f4400000000000000000000ffff0000009aaf00ffff00000092cf001700e87c"
    ).ljust(510, b"\0")
    + b"\x55\xaa"
)


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


def works(binary: str, accelerator: str = KVM) -> bool:
    """Whether a guest of one sector, run under ``accelerator``, writes its letter within five seconds."""
    if accelerator == KVM and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with tempfile.TemporaryDirectory(prefix="cloudlet-kvm-") as folder:
        disk, said = Path(folder, "boot"), Path(folder, "said")
        disk.write_bytes(_BOOT_SECTOR)
        arguments = [
            "-machine",
            f"pc,accel={accelerator}",
            "-m",
            "64",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ]
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
