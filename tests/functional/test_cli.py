# SPDX-License-Identifier: Apache-2.0
"""The command line as its users have it: real processes, a real guest, from its image to its end."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.file_server import FileServer
from tests.functional import leaks

PROBE = "http://:80/nonce"
LIMIT_S = 120


@dataclass(frozen=True)
class CommandLine:
    """``cloudlet(...)`` runs a command in a home of its own and gives its JSON document."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def command(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "cloudlet_ext.cmd.cloudlet", "--home", str(self.home), *map(str, words)]

    def __call__(self, *words: object, code: int = 0) -> Any:
        done = subprocess.run(
            self.command(*words, "--json"), check=False, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if code == 0 else json.loads(done.stderr.splitlines()[-1])["error"]

    def interrupted(self, stage: str, number: signal.Signals, *words: object) -> None:
        """Run a command and send it a signal when the stage begins."""
        with subprocess.Popen(
            self.command(*words, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as running:
            assert running.stderr and running.stdout
            for line in running.stderr:
                if json.loads(line).get("stage", {}).get("name") == stage:
                    break
            else:
                pytest.fail(f"it ended before {stage}")
            running.send_signal(number)
            _, error = running.communicate(timeout=LIMIT_S)
        assert running.returncode == 128 + number, error
        assert '"Interrupted"' in error and "Traceback" not in error

    def state(self, name: str) -> str:
        """What a server is doing."""
        return str(self("server", "show", name)["state"])


def boot(guests: Path, name: str) -> list[object]:
    """The words that make a base of the busybox guest."""
    words: list[object] = ["base", "create", guests / "busybox.qcow2", "--name", name, "--memory", 128]
    words += ["--kernel", guests / "vmlinuz", "--initrd", guests / "busybox.initrd", "--settle", 0.3]
    return [*words, "--append", (guests / "busybox.cmdline").read_text().strip(), "--wait-for", PROBE]


@pytest.fixture(scope="module")
def home_with_base(guests: Path, tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """A home that has the base "null"; booted once for all tests here."""
    cloudlet = CommandLine(tmp_path_factory.mktemp("cli"))
    made = cloudlet(*boot(guests, "null"))
    assert made["name"] == "null" and made["memory_content_bytes"] > 10_000_000
    return cloudlet


@pytest.fixture
def cloudlet(home_with_base: CommandLine) -> Iterator[CommandLine]:
    yield home_with_base
    subprocess.run(home_with_base.command("server", "stop", "--all", "--quiet"), check=False, timeout=LIMIT_S)


def fetch(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return str(answer.read().decode())


def sign(folder: Path, cloudlet: CommandLine, overlay: Path) -> Path:
    """Sign an overlay; the keyring."""
    private, public = folder / "key.pem", folder / "trusted.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    refused = cloudlet("synthesize", overlay, "--require-signature", public, code=11)
    assert refused["kind"] == "Unsigned"
    signed = cloudlet("overlay", "sign", overlay, "--key", private)
    assert cloudlet("overlay", "verify", overlay, "--key", public)["signer"] == signed["signer"]
    return public


def test_the_whole_way(cloudlet: CommandLine, tmp_path: Path) -> None:
    overlay = tmp_path / "shop.cloudlet"
    base = cloudlet("base", "verify", "null")
    started = cloudlet("server", "start", "--base", "null", "--name", "shop", "--forward", "80", "--wait-for", PROBE)
    nonce = fetch(started["forwards"]["80"], "/nonce")
    port = cloudlet("server", "forward", "shop", "80")["host_port"]
    assert port == started["forwards"]["80"]

    made = cloudlet("overlay", "create", "--server", "shop", overlay, "--record", PROBE, "--keep", "stopped")
    assert made["base_id"] == base["base_id"]
    assert made["recording"]["working_set_chunks"] > 100
    assert (made["kept"], made["server_state"]) == ("stopped", "paused")
    assert overlay.stat().st_size == made["file_bytes"] < 1_000_000
    assert cloudlet.state("shop") == "paused"
    assert cloudlet("server", "resume", "shop")["was_paused"] is True
    assert fetch(port, "/nonce") == nonce
    assert cloudlet("overlay", "create", "--server", "shop", overlay, code=9)["kind"] == "OutputExists"
    assert cloudlet("base", "delete", "null", code=9)["kind"] == "BaseInUse"
    cloudlet("server", "stop", "shop")

    shown = cloudlet("overlay", "show", overlay, "--map", tmp_path / "shop.svg")
    assert shown["base"] == "null" and shown["overlay_id"] == made["overlay_id"]
    assert ET.parse(tmp_path / "shop.svg").getroot().tag.endswith("svg")
    keyring = sign(tmp_path, cloudlet, overlay)
    synthesise(cloudlet, overlay, keyring, nonce)
    cloudlet("overlay", "delete", overlay)
    assert not overlay.exists()


def synthesise(cloudlet: CommandLine, overlay: Path, keyring: Path, nonce: str) -> None:
    """From the file over a mapped base, and over HTTP with early start: both servers know the nonce."""
    near = cloudlet("synthesize", overlay, "--name", "near", "--probe", PROBE, "--require-signature", keyring)
    assert near["reply"] == nonce
    assert near["placement"] == "mapped" and near["signer"]
    with FileServer(overlay.parent) as server:
        far = cloudlet(
            "synthesize", server.url(overlay.name), "--name", "far", "--probe", PROBE, "--placement", "early"
        )
        assert cloudlet("synthesize", server.url("none"), code=4)["kind"] == "SourceNotFound"
    assert far["reply"] == nonce and far["placement"] == "early"
    assert 0 < far["running_s"] <= far["first_reply_s"] <= far["resident_s"]
    listed = cloudlet("server", "list")["servers"]
    assert [(one["name"], one["state"]) for one in listed] == [("far", "running"), ("near", "running")]
    assert fetch(far["forwards"]["80"], "/nonce") == fetch(near["forwards"]["80"], "/nonce") == nonce
    assert cloudlet("server", "stop", "--all")["stopped"] == ["far", "near"]


def test_a_base_travels(cloudlet: CommandLine, tmp_path: Path) -> None:
    """Export, import elsewhere, start: the guest there has the same memory."""
    first = cloudlet("server", "start", "--base", "null", "--wait-for", PROBE)
    nonce = fetch(first["forwards"]["80"], "/nonce")
    cloudlet("server", "stop", first["name"])
    cloudlet("base", "export", "null", tmp_path / "null.base", "--level", 1)
    elsewhere = CommandLine(tmp_path / "elsewhere")
    with FileServer(tmp_path) as server:
        there = elsewhere("base", "import", server.url("null.base"))
    assert (there["name"], there["base_id"]) == ("null", cloudlet("base", "show", "null")["base_id"])
    second = elsewhere("server", "start", "--base", "null", "--wait-for", PROBE)
    try:
        assert fetch(second["forwards"]["80"], "/nonce") == nonce
    finally:
        elsewhere("server", "stop", second["name"])
    elsewhere("base", "delete", "null")
    assert elsewhere("base", "list") == {"bases": [], "unfinished_imports": []}


@pytest.mark.timeout(60)
def test_console(cloudlet: CommandLine) -> None:
    """On a terminal: what is typed reaches the guest's shell, what it says is shown, Ctrl-] leaves."""
    cloudlet("server", "start", "--base", "null", "--name", "shop")
    child, terminal = pty.fork()
    if not child:
        words = cloudlet.command("server", "console", "shop")
        os.execv(words[0], words)
    shown = b""
    typed = [(b"Ctrl-] leaves", b"\r"), (b"# ", b"echo $((6 * 7))\r"), (b"\n42", b"\x1d")]
    with os.fdopen(terminal, "r+b", buffering=0) as screen, contextlib.suppress(OSError):
        while piece := screen.read(4096):
            shown += piece
            if typed and typed[0][0] in shown:
                screen.write(typed.pop(0)[1])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not typed and b"left the console of shop" in shown
    assert "42" in cloudlet("server", "console", "shop")["console"]


def left(cloudlet: CommandLine, *expected: Path) -> dict[str, list[str]]:
    """What operations left, but for what belongs to the servers in the folders ``expected``."""
    found = leaks.all_of(cloudlet.folder)
    kept = {kind: [name for name in names if not _belongs(name, expected)] for kind, names in found.items()}
    return {kind: names for kind, names in kept.items() if names}


def _belongs(name: str, expected: tuple[Path, ...]) -> bool:
    pid = name.partition(":")[0]
    place = Path(f"/proc/{pid}/cwd").readlink() if pid.isdecimal() else Path(name)
    return any(place.is_relative_to(folder) for folder in expected)


@pytest.mark.parametrize(("stage", "number"), [("boot", signal.SIGINT), ("capture", signal.SIGTERM)])
def test_interrupted_base_creation(cloudlet: CommandLine, guests: Path, stage: str, number: signal.Signals) -> None:
    cloudlet.interrupted(stage, number, *boot(guests, "other"))
    assert not left(cloudlet)
    assert [base["name"] for base in cloudlet("base", "list")["bases"]] == ["null"]


def test_interrupted_overlay_creation_and_synthesis(cloudlet: CommandLine, tmp_path: Path) -> None:
    port = cloudlet("server", "start", "--base", "null", "--name", "shop", "--wait-for", PROBE)["forwards"]["80"]
    nonce = fetch(port, "/nonce")
    shop = cloudlet.home / "servers/shop"
    overlay = tmp_path / "shop.cloudlet"
    for stage, number in (("capture", signal.SIGINT), ("compare", signal.SIGTERM), ("compress", signal.SIGINT)):
        cloudlet.interrupted(stage, number, "overlay", "create", "--server", "shop", overlay)
        assert not list(tmp_path.iterdir()) and not left(cloudlet, shop)
        # The server goes on as before.
        assert cloudlet.state("shop") == "running" and fetch(port, "/nonce") == nonce

    cloudlet("overlay", "create", "--server", "shop", overlay, "--keep", "deleted")
    before = overlay.read_bytes()
    words = ("synthesize", overlay, "--probe", PROBE)
    for stage, placement in (("start", "mapped"), ("reply", "mapped"), ("start", "early"), ("run", "early")):
        cloudlet.interrupted(stage, signal.SIGINT, *words, "--placement", placement)
        assert not left(cloudlet)
    cloudlet.interrupted("run", signal.SIGTERM, "overlay", "record", overlay, PROBE)
    assert not left(cloudlet) and overlay.read_bytes() == before
    assert list(tmp_path.iterdir()) == [overlay]
