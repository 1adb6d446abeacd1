# SPDX-License-Identifier: Apache-2.0
"""Disk images, by QEMU's own tool: what is to be read in any format, once."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudlet_ext.hypervisor import errors

_QCOW2_MAGIC = b"QFI\xfb"


@dataclass(frozen=True)
class ImageInfo:
    """An image: ``image_format`` is ``qcow2`` or ``raw``."""

    path: Path
    image_format: str
    virtual_bytes: int


def _qemu_img(*arguments: str) -> str:
    binary = shutil.which("qemu-img")
    if binary is None:
        raise errors.QemuImgMissing
    done = subprocess.run(
        [binary, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
    )
    if "No space left on device" in done.stderr:
        raise errors.ScratchFull(path=str(Path(arguments[-1]).parent), what="the disk")
    if done.returncode:
        raise errors.ImageUnusable(path=arguments[-1], reason=done.stderr.strip() or "qemu-img failed")
    return done.stdout


def inspect(path: Path) -> ImageInfo:
    """What an image is. The format is told by its magic, never guessed by QEMU.

    An image that refers to other files is refused: whoever made it would choose what is read here.
    """
    # A relative name with a colon would be the address of a server, or worse, to QEMU.
    path = path.absolute()
    try:
        with path.open("rb") as file:
            image_format = "qcow2" if file.read(4) == _QCOW2_MAGIC else "raw"
    except OSError as failure:
        raise errors.ImageUnusable(path=str(path), reason=failure.strerror or str(failure)) from failure
    info: dict[str, Any] = json.loads(_qemu_img("info", "--output=json", "-f", image_format, "-U", str(path)))
    data = info.get("format-specific", {}).get("data", {})
    other = info.get("backing-filename") or data.get("data-file")
    if other:
        raise errors.ImageUnusable(
            path=str(path), reason=f"it refers to another file, {other}; flatten it with qemu-img convert"
        )
    if info["virtual-size"] == 0:
        raise errors.ImageUnusable(path=str(path), reason="it is empty")
    return ImageInfo(path, image_format, int(info["virtual-size"]))


def flatten(layer: Path, target: Path) -> None:
    """Write the content of ``layer`` and of all that is below it to ``target``, a qcow2 image of its own."""
    _qemu_img("convert", "-U", "-f", "qcow2", "-O", "qcow2", "-t", "writeback", str(layer), str(target))
