# SPDX-License-Identifier: Apache-2.0
"""``openstack cloudlet base save`` and ``import``: a base goes from one cloud to another in a file."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import tarfile
import time
from pathlib import Path

import pytest

from cloudlet_ext.sdk.base_archive import Archive
from cloudlet_ext.sdk.errors import ArchiveError
from tests.osc.cloud import BASE_ID, DISK, MEMORY, Cloud
from tests.osc.conftest import Command
from tests.osc.service import Answer, Request


@pytest.fixture
def saved(cloud: Cloud, run: Command, tmp_path: Path) -> Path:
    """A base in a file; the cloud is empty again."""
    cloud.add_base("ubuntu", hw_machine_type="q35", os_distro="ubuntu", image_location="here", os_hash_algo="sha512")
    result = run("cloudlet base save ubuntu", tmp_path / "base.tar")
    assert "Base ubuntu is in" in result.err
    cloud.images.clear()
    return tmp_path / "base.tar"


def test_saved_is_a_tar_that_anybody_can_read(saved: Path) -> None:
    with tarfile.open(saved) as tar:
        assert tar.getnames() == ["manifest.json", "disk.qcow2", "memory"]
        manifest = json.load(tar.extractfile("manifest.json"))
        assert tar.extractfile("disk.qcow2").read() == DISK
    assert manifest["base_id"] == BASE_ID
    assert manifest["images"]["memory"]["sha256"] == hashlib.sha256(MEMORY).hexdigest()
    properties = manifest["images"]["disk.qcow2"]["properties"]
    assert properties["hw_machine_type"] == "q35"
    assert not {"image_location", "os_hash_algo", "cloudlet_memory_image"} & properties.keys()


def test_imported_is_the_base_that_was_saved(cloud: Cloud, run: Command, saved: Path) -> None:
    told = run("cloudlet base import --name edge -f json", saved).json
    disk = cloud.images[told["id"]]
    memory = cloud.images[told["memory_image_id"]]
    assert (told["base_id"], told["memory_mb"], told["min_disk_gb"]) == (BASE_ID, 256, 2)
    assert (cloud.data[disk["id"]], cloud.data[memory["id"]]) == (DISK, MEMORY)
    assert (disk["name"], memory["name"]) == ("edge", "edge memory")
    assert (disk["disk_format"], disk["hw_machine_type"], disk["os_hidden"]) == ("qcow2", "q35", False)
    assert memory["os_hidden"] is True
    assert memory["cloudlet_base_image"] == disk["id"]
    assert disk["trait:CUSTOM_CLOUDLET"] == "required"
    assert "trait:CUSTOM_CLOUDLET" not in memory
    assert memory["cloudlet_type"] == "base-memory"
    assert run("cloudlet base import -f value -c name", saved).out.strip() == "ubuntu"


def test_both_ways_use_little_memory(cloud: Cloud, run: Command, saved: Path) -> None:
    with Archive(saved) as archive:
        assert max(len(piece) for piece in archive.pieces("memory")) <= 1 << 20
    run("cloudlet base import", saved)
    sent = [each.headers for each in cloud.asked("PUT", ".*/file")]
    assert [int(headers["Content-Length"]) for headers in sent] == [len(MEMORY), len(DISK)]


def test_save_leaves_no_half_a_file(cloud: Cloud, run: Command, tmp_path: Path) -> None:
    base = cloud.add_base("ubuntu")
    memory = cloud.images[base]["cloudlet_memory_image"]
    path = f"/image/v2/images/{memory}/file"
    for answer in (Answer(200, MEMORY, cut=1_500_000), Answer(200, MEMORY[:-1] + b"!"), Answer(200, MEMORY[:-1])):
        cloud.add("GET", path, lambda request, answer=answer: answer)
        err = run("cloudlet base save ubuntu", tmp_path / "base.tar", fails=True).err
        assert memory in err
        assert "Try again" in err
    assert not list(tmp_path.glob("*base*")) + list(tmp_path.glob(".*base*"))


def test_save_overwrites_only_when_told(cloud: Cloud, run: Command, tmp_path: Path) -> None:
    cloud.add_base("ubuntu")
    path = tmp_path / "base.tar"
    path.write_bytes(b"mine")
    assert "exists already" in run("cloudlet base save ubuntu", path, fails=True).err
    assert path.read_bytes() == b"mine"
    run("cloudlet base save ubuntu --force", path)
    assert path.stat().st_size > len(DISK) + len(MEMORY)


def test_save_wants_a_whole_base(cloud: Cloud, run: Command, tmp_path: Path) -> None:
    base = cloud.add_base("ubuntu", filled=False)
    err = run("cloudlet base save ubuntu", tmp_path / "base.tar", fails=True).err
    assert f"its image {base} is queued, expected active" in err


def test_import_of_what_was_damaged_leaves_nothing(cloud: Cloud, run: Command, saved: Path) -> None:
    whole = saved.read_bytes()
    for part, at in (("disk.qcow2", whole.index(DISK) + len(DISK) // 2), ("memory", whole.index(MEMORY) + 7)):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        saved.write_bytes(damaged)
        assert f"is damaged: the SHA-256 of {part} is" in run("cloudlet base import", saved, fails=True).err
        assert not cloud.images


@pytest.mark.parametrize("status", [500, 413])
def test_import_that_is_refused_leaves_nothing(cloud: Cloud, run: Command, saved: Path, status: int) -> None:
    cloud.refuse("PUT", ".*/file", status, "The store is full.")
    assert "The store is full." in run("cloudlet base import", saved, fails=True).err
    assert not cloud.images


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_import_that_is_interrupted_leaves_nothing(
    cloud: Cloud, run: Command, saved: Path, number: signal.Signals, code: int
) -> None:
    def interrupt(request: Request) -> None:
        if request.method == "PUT":
            os.kill(os.getpid(), number)
            time.sleep(0.2)

    cloud.watch = interrupt
    result = run("cloudlet base import", saved, fails=True)
    assert result.code == code
    assert not cloud.images
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_save_that_is_interrupted_leaves_nothing(cloud: Cloud, run: Command, tmp_path: Path) -> None:
    cloud.add_base("ubuntu")
    cloud.watch = lambda request: os.kill(os.getpid(), signal.SIGINT) if request.path.endswith("/file") else None
    result = run("cloudlet base save ubuntu", tmp_path / "base.tar", fails=True)
    assert result.code == 130
    assert "what was begun is undone" in result.err
    assert not [path for path in tmp_path.iterdir() if "base" in path.name]


def test_what_could_not_be_deleted_again_is_told(cloud: Cloud, run: Command, saved: Path) -> None:
    cloud.refuse("PUT", ".*/file", 500, "The store is full.")
    cloud.refuse("DELETE", ".*", 500, "Not now.")
    err = run("cloudlet base import", saved, fails=True).err
    for image_id in cloud.images:
        assert f"openstack image delete {image_id}" in err


def test_files_that_are_no_archive(run: Command, tmp_path: Path) -> None:
    path = tmp_path / "base.tar"
    for content in (b"", b"x" * 5000, _tar({"manifest.json": b"{}", "memory": b""}), _tar({"a": b""})):
        path.write_bytes(content)
        assert "is no base archive" in run("cloudlet base import", path, fails=True).err
    assert "No such file" in run("cloudlet base import", tmp_path / "none", fails=True).err


def test_every_truncation_is_noticed(saved: Path, tmp_path: Path) -> None:
    whole, short = saved.read_bytes(), tmp_path / "short"
    for length in [0, 100, 511, 512, 700, 1024, 2048, 4096, len(DISK), len(whole) // 2, len(whole) - 2000]:
        short.write_bytes(whole[:length])
        with pytest.raises(ArchiveError), Archive(short) as archive:
            for part in archive.manifest.images:
                list(archive.pieces(part))


def test_manifests_that_lie_are_refused(saved: Path, tmp_path: Path) -> None:
    manifest = json.loads(saved.read_bytes()[512:].split(b"\0", 1)[0])
    image = manifest["images"]["memory"]
    lies = [
        manifest | {"version": 2},
        manifest | {"more": 1},
        manifest | {"base_id": "../" * 20},
        manifest | {"images": {"memory": image}},
        manifest | {"images": manifest["images"] | {"memory": image | {"bytes": True}}},
        manifest | {"images": manifest["images"] | {"memory": image | {"bytes": image["bytes"] - 1}}},
        manifest | {"images": manifest["images"] | {"memory": image | {"properties": {"a": 1}}}},
    ]
    for lie in lies:
        path = tmp_path / "lie"
        path.write_bytes(_tar({"manifest.json": json.dumps(lie).encode(), "disk.qcow2": DISK, "memory": MEMORY}))
        with pytest.raises(ArchiveError):
            Archive(path)


def _tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()
