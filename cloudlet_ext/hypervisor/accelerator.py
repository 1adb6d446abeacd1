# SPDX-License-Identifier: Apache-2.0
"""Which accelerator to use: KVM where it really works, else emulation; and why.

``/dev/kvm`` may open and still hang every guest (nested virtualisation on some clouds), so a tiny machine is started
and given a few seconds to say something.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cloudlet_ext.hypervisor import errors

KVM, TCG = "kvm", "tcg"
DEVICE = Path("/dev/kvm")
PROBE_TIMEOUT_S = 5.0

_FIRST_RETRY_S, _LAST_RETRY_S = 600.0, 86400.0
"""How long it is remembered that KVM does not work: each time twice as long. The machine may only have been busy; and
where every guest hangs, a server that is to start within a second must not often wait for another look."""

_MOST_FAILURES = 16
_LOOK_EVERY_S = 0.05
_TOLD_CHARACTERS = 200
_PERMISSION = os.strerror(errno.EACCES)

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


@dataclass(frozen=True)
class Choice:
    """An accelerator, KVM or TCG, and why it is that one, in a person's words."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def choose(binary: str, cache: Path, device: Path = DEVICE, timeout_s: float = PROBE_TIMEOUT_S) -> Choice:
    """``$CLOUDLET_ACCEL`` if set (:class:`errors.AcceleratorUnknown`), else KVM where it works, else emulation.

    ``cache`` remembers what a guest showed, for this boot of this host and this ``binary``: that KVM works until the
    next boot, that it does not for a limited time. Whether ``device`` may be opened is looked at each time.
    """
    forced = os.environ.get("CLOUDLET_ACCEL")
    if forced is not None:
        if forced not in (KVM, TCG):
            raise errors.AcceleratorUnknown(found=forced)
        return Choice(forced, "CLOUDLET_ACCEL asks for it")
    closed = _why_closed(device)
    if closed is not None:
        return Choice(TCG, closed)
    host = [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), binary, str(device)]
    known = _recall(cache, host)
    if known is not None and (known.until is None or known.until > _now_s()):
        return Choice(known.accelerator, f"{known.reason}; {_where(known, cache)}")
    failure = try_guest(binary, KVM, timeout_s)
    if failure is None:
        found = _Known(KVM, "a guest ran under KVM", None, 0)
    else:
        failures = min(known.failures + 1, _MOST_FAILURES) if known is not None else 1
        found = _Known(TCG, failure, _now_s() + min(_FIRST_RETRY_S * 2 ** (failures - 1), _LAST_RETRY_S), failures)
    # Rights are given from one moment to the next, and that they are missing is found out at once.
    if _PERMISSION in found.reason or not _remember(cache, host, found):
        return Choice(found.accelerator, found.reason)
    return Choice(found.accelerator, f"{found.reason}; {_where(found, cache)}")


class _Known(NamedTuple):
    """What is remembered. ``until``: seconds since boot (None: until the next); ``failures``: one after the other."""

    accelerator: str
    reason: str
    until: float | None
    failures: int


def _now_s() -> float:
    """Seconds since boot: nobody sets this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _why_closed(device: Path) -> str | None:
    """Why the device cannot be opened; None when it can."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"there is no {device}"
    except PermissionError:
        return f"{device} may not be opened by this user; its group is {_group(device)}"
    except OSError as failure:
        return f"{device} cannot be opened: {failure.strerror}"
    return None


def _group(device: Path) -> str:
    try:
        return device.group()
    except (OSError, KeyError):
        return "unknown"


def _recall(cache: Path, host: list[str]) -> _Known | None:
    try:
        remembered = json.loads(cache.read_text())
        if remembered["host"] != host:
            return None
        known = _Known(*(remembered[field] for field in _Known._fields))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_sound = (
        known.accelerator in (KVM, TCG)
        and isinstance(known.reason, str)
        and (known.until is None or isinstance(known.until, float))
        and isinstance(known.failures, int)
        and 0 <= known.failures <= _MOST_FAILURES
    )
    return known if is_sound else None


def _remember(cache: Path, host: list[str], known: _Known) -> bool:
    """Write it down; False where that is not possible."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps({"host": host, **known._asdict()}))
    except OSError:
        return False
    return True


def _where(known: _Known, cache: Path) -> str:
    left = "until the next boot"
    if known.until is not None:
        left = f"for {max(1, round((known.until - _now_s()) / 60))} min"
    return f"remembered {left} in {cache}, without which KVM is tried again"


def try_guest(binary: str, accelerator: str = KVM, timeout_s: float = PROBE_TIMEOUT_S) -> str | None:
    """Run a guest of one sector, which writes a letter; None when it does within the time, else what it did."""
    with tempfile.TemporaryDirectory(prefix="cloudlet-kvm-") as folder:
        disk, letter, said = Path(folder, "boot"), Path(folder, "letter"), Path(folder, "said")
        disk.write_bytes(_BOOT_SECTOR)
        arguments = ["-machine", f"pc,accel={accelerator}", "-m", "64", "-nodefaults", "-no-user-config"]
        arguments += ["-display", "none", "-debugcon", f"file:{letter}"]
        arguments += ["-drive", f"file={disk},format=raw,if=ide,readonly=off,snapshot=on"]
        with said.open("wb") as messages:
            child = subprocess.Popen(
                [binary, *arguments], stdin=subprocess.DEVNULL, stdout=messages, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + timeout_s
        try:
            while time.monotonic() < deadline:
                if letter.exists() and b"K" in letter.read_bytes():
                    return None
                try:
                    child.wait(_LOOK_EVERY_S)
                except subprocess.TimeoutExpired:
                    continue
                lines = said.read_text(errors="replace").split("\n")
                last = " ".join(next((line for line in reversed(lines) if line.strip()), "no message").split())
                return f"QEMU ended under {accelerator.upper()}: {last[:_TOLD_CHARACTERS]}"
            return f"a guest under {accelerator.upper()} did nothing within {timeout_s:g} s"
        finally:
            child.kill()
            child.wait()
