# SPDX-License-Identifier: Apache-2.0
"""``openstack cloudlet overlay``."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.file_server import FileServer
from cloudlet_ext.engine.errors import Damaged
from cloudlet_ext.sdk import overlay_transfer
from tests.osc.cloud import BASE_ID, OVERLAY, OVERLAY_ID, Cloud
from tests.osc.conftest import Command
from tests.osc.service import Answer

GOLDEN = Path(__file__).parents[1] / "golden/v1/overlay"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("", {"overlay-name": "face-app", "on-finish": "resume"}),
        ("--on-finish delete", {"overlay-name": "face-app", "on-finish": "delete"}),
        ("--record 80", {"overlay-name": "face-app", "on-finish": "resume", "record": "tcp:80"}),
        ("--record http://:80/a", {"overlay-name": "face-app", "on-finish": "resume", "record": "http://:80/a"}),
    ],
)
def test_create_asks_for_what_was_given(cloud: Cloud, run: Command, given: str, sent: object) -> None:
    server = cloud.add_server("dev")
    told = run(f"cloudlet overlay create dev --name face-app {given} -f json").json
    (asked,) = cloud.asked("POST", f"/compute/v2.1/servers/{server}/action")
    assert asked.json == {"cloudlet-overlay-finish": sent}
    assert cloud.operations[told["operation"]]["images"] == {"overlay": told["id"]}


@pytest.mark.parametrize("record", ["0", "70000", "http://example.org/", "command:reboot", "tcp:80/a", "console:"])
def test_create_refuses_what_is_no_probe(cloud: Cloud, run: Command, record: str) -> None:
    cloud.add_server("dev")
    err = run(f"cloudlet overlay create dev --name x --record {record}", fails=True).err
    assert "expected a port of the guest" in err
    assert not cloud.asked("POST", ".*/action")


def test_create_waits(cloud: Cloud, run: Command) -> None:
    cloud.add_server("dev")
    told = run("cloudlet overlay create dev --name face-app --wait -f json").json
    assert (told["status"], told["size_bytes"]) == ("active", len(OVERLAY))
    cloud.failure = "The guest did not stop writing."
    assert "did not stop" in run("cloudlet overlay create dev --name other --wait", fails=True).err


def test_list_show_set_delete(cloud: Cloud, run: Command) -> None:
    overlay = cloud.add_overlay()
    assert run("cloudlet overlay list -f json").json == [
        {"ID": overlay, "Name": "face-app", "Status": "active", "Size": len(OVERLAY), "RAM": 256, "VCPUs": 1,
         "Visibility": "private"}
    ]  # fmt: skip
    assert run("cloudlet overlay show face-app -f value -c overlay_id").out.strip() == OVERLAY_ID
    run("cloudlet overlay set face-app --public --name face")
    assert run("cloudlet overlay show -f value -c visibility", overlay).out.strip() == "public"
    run("cloudlet overlay delete face")
    assert not cloud.images
    assert "no overlay with the name" in run("cloudlet overlay delete face", fails=True).err


def test_save(cloud: Cloud, run: Command, tmp_path: Path) -> None:
    overlay = cloud.add_overlay(data=GOLDEN.read_bytes())
    run("cloudlet overlay save face-app", tmp_path / "face.cloudlet")
    assert (tmp_path / "face.cloudlet").read_bytes() == GOLDEN.read_bytes()
    cloud.add("GET", f"/image/v2/images/{overlay}/file", lambda request: Answer(200, b"short"))
    assert "arrived damaged" in run("cloudlet overlay save face-app", tmp_path / "two", fails=True).err
    assert not (tmp_path / "two").exists()


def test_import_of_a_file(cloud: Cloud, run: Command) -> None:
    base = cloud.add_base("ubuntu")
    told = run(f"cloudlet overlay import {GOLDEN} --name face-app -f json").json
    assert (told["overlay_id"], told["base_id"], told["base_image_id"]) == (OVERLAY_ID, BASE_ID, base)
    assert cloud.data[told["id"]] == GOLDEN.read_bytes()
    assert cloud.images[told["id"]]["disk_format"] == "raw"


def test_import_without_its_base_says_so(cloud: Cloud, run: Command) -> None:
    result = run(f"cloudlet overlay import {GOLDEN} -f json")
    assert result.json["name"] == "overlay"
    assert result.json["base_image_id"] is None
    assert f"was made for base {BASE_ID}" in result.err


def test_import_of_a_url(cloud: Cloud, run: Command) -> None:
    with FileServer(GOLDEN.parent) as files:
        told = run(f"cloudlet overlay import {files.url('overlay')} --name face-app -f json").json
        assert cloud.data[told["id"]] == GOLDEN.read_bytes()
        cloud.images.clear()
        assert "does not exist" in run(f"cloudlet overlay import {files.url('none')}", fails=True).err
    for url in ("file:///etc/passwd", "ftp://example.org/face"):
        assert "refused" in run(f"cloudlet overlay import {url}", fails=True).err
    assert not cloud.images


def test_import_of_what_is_no_overlay_leaves_nothing(cloud: Cloud, run: Command, tmp_path: Path) -> None:
    path, whole = tmp_path / "face", GOLDEN.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    for content in (b"hello", whole[:-1], whole + b"x", bytes(flipped)):
        path.write_bytes(content)
        run("cloudlet overlay import", path, fails=True)
        assert not cloud.images


def test_import_notices_what_changes_meanwhile(tmp_path: Path) -> None:
    path, whole = tmp_path / "face", bytearray(GOLDEN.read_bytes())
    for at in (20, 300, len(whole) - 3):
        path.write_bytes(whole)
        with overlay_transfer.opened(str(path)) as (overlay, source):
            changed = whole[:]
            changed[at] ^= 1
            path.write_bytes(changed)
            with pytest.raises(Damaged):
                list(overlay_transfer._checked(overlay, source))
