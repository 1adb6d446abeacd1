# SPDX-License-Identifier: Apache-2.0
"""Disk images, as qemu-img sees them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cloudlet_ext.hypervisor import images
from cloudlet_ext.hypervisor.errors import ImageUnusable, QemuImgMissing


def create(path: Path, *arguments: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", *arguments[:-1], f"file:{path}", arguments[-1]], check=True)
    return path


def test_formats(tmp_path: Path) -> None:
    qcow2 = create(tmp_path / "a.img", "-f", "qcow2", "5M")
    assert images.inspect(qcow2) == images.ImageInfo(qcow2, "qcow2", 5 << 20)
    raw = tmp_path / "b.qcow2"
    raw.write_bytes(bytes(1 << 20))
    assert images.inspect(raw) == images.ImageInfo(raw, "raw", 1 << 20)


def test_a_format_inside_a_raw_image_is_not_looked_for(tmp_path: Path) -> None:
    vmdk = create(tmp_path / "disk.vmdk", "-f", "vmdk", "5M")
    assert images.inspect(vmdk).image_format == "raw"


def test_relative_names_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("nbd:localhost:10809", "-f", "json:{}"):
        (tmp_path / name).write_bytes(bytes(4096))
        assert images.inspect(Path(name)) == images.ImageInfo(tmp_path / name, "raw", 4096)


def test_images_that_refer_to_others_are_refused(tmp_path: Path) -> None:
    below = create(tmp_path / "below", "-f", "qcow2", "5M")
    above = create(tmp_path / "above", "-f", "qcow2", "-F", "qcow2", "-b", str(below), "5M")
    with pytest.raises(ImageUnusable, match=f"refers to another file, {below}; flatten it"):
        images.inspect(above)
    outside = create(tmp_path / "outside", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", "5M")
    with pytest.raises(ImageUnusable, match=f"refers to another file, {tmp_path / 'data'}"):
        images.inspect(outside)
    # Not even named, and not there any more: nothing is opened.
    below.unlink()
    (tmp_path / "data").unlink()
    with pytest.raises(ImageUnusable):
        images.inspect(above)
    with pytest.raises(ImageUnusable):
        images.inspect(outside)


def test_what_cannot_be_an_image_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    damaged = create(tmp_path / "damaged", "-f", "qcow2", "5M")
    with damaged.open("r+b") as file:
        file.truncate(50)
    for path, reason in (
        (tmp_path / "missing", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (empty, "it is empty"),
        (damaged, "qemu-img: "),
    ):
        with pytest.raises(ImageUnusable, match=reason) as caught:
            images.inspect(path)
        assert caught.value.path == str(path)
        assert caught.value.exit_code == 3


def test_qemu_img_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image").write_bytes(bytes(4096))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(QemuImgMissing, match="qemu-img"):
        images.inspect(tmp_path / "image")


def test_flatten(tmp_path: Path) -> None:
    below = create(tmp_path / "below", "-f", "qcow2", "5M")
    above = create(tmp_path / "above", "-f", "qcow2", "-F", "qcow2", "-b", str(below), "5M")
    for image, pattern in ((below, "1"), (above, "2")):
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", f"write -P {pattern} {pattern}M 1M", str(image)], check=True)
    images.flatten(above, tmp_path / "flat")
    below.unlink()
    assert images.inspect(tmp_path / "flat").virtual_bytes == 5 << 20
    checks = [part for pattern in "12" for part in ("-c", f"read -P {pattern} {pattern}M 1M")]
    done = subprocess.run(["qemu-io", "-f", "qcow2", *checks, str(tmp_path / "flat")], check=True, capture_output=True)
    assert b"failed" not in done.stdout
