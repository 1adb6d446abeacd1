# SPDX-License-Identifier: Apache-2.0
"""Exclusive use of overlay files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloudlet_ext.engine.errors import FileMissing, FormatError
from cloudlet_ext.worker import overlay_care
from cloudlet_ext.worker.errors import Busy

GOLDEN = Path(__file__).parents[2] / "golden/v1"
HOLDER = """
import sys
from pathlib import Path
from cloudlet_ext.worker import overlay_care
with overlay_care.changing(Path(sys.argv[1])):
    print("has it", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    return Path(shutil.copy(GOLDEN / "overlay", tmp_path / "golden.cloudlet"))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "key.pem"], check=True)
    return tmp_path / "key.pem"


def test_another_process_has_it(overlay: Path, key: Path) -> None:
    """It is named; when it is killed, nothing keeps the file from others."""
    before = overlay.read_bytes()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, overlay], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout and holder.stdout.readline() == "has it\n"
        with pytest.raises(Busy, match=rf"process {holder.pid}\)") as caught:
            overlay_care.sign(overlay, key)
        assert caught.value.exit_code == 9
        assert overlay.read_bytes() == before
        holder.kill()
    overlay_id, signer = overlay_care.sign(overlay, key)
    assert overlay.read_bytes() != before
    assert (len(overlay_id), len(signer)) == (64, 64)


def test_what_has_the_name_now_is_locked(overlay: Path, tmp_path: Path) -> None:
    """Not the file that had it before: a writer who puts another one in its place leaves that one to others."""
    with overlay_care.changing(overlay):
        (tmp_path / "new").write_bytes(b"new")
        (tmp_path / "new").rename(overlay)
        with overlay_care.changing(overlay), pytest.raises(Busy), overlay_care.changing(overlay):
            pass
    with overlay_care.changing(overlay):
        overlay.unlink()
    with pytest.raises(FileMissing), overlay_care.changing(overlay):
        pass


def test_what_is_no_overlay(tmp_path: Path, key: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with overlay_care.changing(pipe):
        pass
    with pytest.raises(FileMissing):
        overlay_care.sign(tmp_path / "none", key)
    with pytest.raises(FormatError):
        overlay_care.sign(key, key)
