# SPDX-License-Identifier: Apache-2.0
"""Commands that need no guest, on the golden files: what they write, and their exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cmd.conftest import GOLDEN, CommandLine

FACTS = json.loads((GOLDEN / "facts.json").read_text())


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private key, and the public part of it."""
    private, public = tmp_path / "key.pem", tmp_path / "trusted.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True)
    return private, public


def test_nothing_is_there(cloudlet: CommandLine) -> None:
    assert cloudlet("base", "list", "--json").document == {"bases": [], "unfinished_imports": []}
    assert cloudlet("server", "list", "--json").document == {"servers": []}
    assert cloudlet("server", "stop", "--all", "--json").document == {"stopped": []}
    assert cloudlet("base", "list").output.startswith("no bases in ")


def test_base_list_and_show(cloudlet: CommandLine, base: str) -> None:
    (listed,) = cloudlet("base", "list", "--json").document["bases"]
    shown = cloudlet("base", "show", base, "--json").document
    assert shown["base_id"] == listed["base_id"] == FACTS["base_id"]
    assert listed.items() <= shown.items()
    assert shown["disk_bytes"] == 32 * 4096 and shown["memory_bytes"] == 48 * 4096
    assert 0 < shown["memory_content_bytes"] <= 52 * 4096
    assert "IDENTITY" in cloudlet("base", "list").output
    assert FACTS["base_id"] in cloudlet("base", "show", base).output


def test_a_broken_base_is_listed_too(cloudlet: CommandLine, base: str) -> None:
    memory = cloudlet.home / "bases" / base / "memory"
    memory.chmod(0o600)
    memory.unlink()
    (listed,) = cloudlet("base", "list", "--json").document["bases"]
    assert listed["name"] == base and "memory" in listed["error"]
    assert "unusable" in cloudlet("base", "list").output
    assert cloudlet("base", "show", base).code == 3


def test_base_verify(cloudlet: CommandLine, base: str) -> None:
    assert cloudlet("base", "verify", base, "--json").document["is_intact"] is True
    memory = cloudlet.home / "bases" / base / "memory"
    memory.chmod(0o600)
    with memory.open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    ended = cloudlet("base", "verify", base)
    assert ended.code == 3
    assert "is damaged at region pc.ram, chunk 0" in ended.error


def test_base_export_import_delete(cloudlet: CommandLine, base: str, tmp_path: Path) -> None:
    out = tmp_path / "again.base"
    exported = cloudlet("base", "export", base, out, "--json", "--level", 3).document
    assert exported["file_bytes"] == out.stat().st_size
    assert cloudlet("base", "export", base, out).code == 9
    assert cloudlet("base", "export", base, out, "--force").code == 0
    assert cloudlet("base", "import", out, "--name", base).code == 9
    assert cloudlet("base", "import", out, "--json").document["name"] == "again"
    assert cloudlet("base", "delete", base, "--json").document["freed_bytes"] > 0
    assert cloudlet("base", "delete", base).code == 4
    (left,) = cloudlet("base", "list", "--json").document["bases"]
    assert (left["name"], left["base_id"]) == ("again", FACTS["base_id"])
    assert [path.name for path in (cloudlet.home / "bases").iterdir()] == ["again"]


def test_overlay_show(cloudlet: CommandLine, overlay: Path) -> None:
    shown = cloudlet("overlay", "show", overlay, "--json").document
    assert shown["overlay_id"] == FACTS["overlay_id"] and shown["base_id"] == FACTS["base_id"]
    assert shown["base"] is None and shown["signer"] is None
    assert shown["file_bytes"] == overlay.stat().st_size
    assert sum(shown["stored_bytes"].values()) < shown["file_bytes"]
    assert sum(shown["chunks"].values()) == 32 + 48 + 4
    assert shown["working_set_chunks"] == len(FACTS["order"])
    assert "is not on this host" in cloudlet("overlay", "show", overlay).output


@pytest.mark.parametrize(("name", "magic"), [("m.svg", b"<?xml"), ("m.png", b"\x89PNG\r\n")])
def test_overlay_map(cloudlet: CommandLine, overlay: Path, base: str, tmp_path: Path, name: str, magic: bytes) -> None:
    out = tmp_path / name
    shown = cloudlet("overlay", "show", overlay, "--map", out, "--json").document
    assert shown["base"] == base and shown["map"] == str(out)
    assert out.read_bytes().startswith(magic)
    # A picture may be drawn again.
    assert cloudlet("overlay", "show", overlay, "--map", out).code == 0


def test_overlay_sign_and_verify(cloudlet: CommandLine, overlay: Path, keys: tuple[Path, Path]) -> None:
    private, public = keys
    assert cloudlet("overlay", "verify", overlay, "--json").document["signer"] is None
    ended = cloudlet("overlay", "verify", overlay, "--key", public, "--json")
    assert (ended.code, ended.told["kind"]) == (11, "Unsigned")
    signed = cloudlet("overlay", "sign", overlay, "--key", private, "--json").document
    assert signed["overlay_id"] == FACTS["overlay_id"]
    assert cloudlet("overlay", "verify", overlay, "--key", public, "--json").document["signer"] == signed["signer"]
    assert cloudlet("overlay", "sign", overlay, "--key", public).code == 11
    ended = cloudlet("overlay", "verify", GOLDEN / "overlay-signed", "--key", public, "--json")
    assert (ended.code, ended.told["kind"]) == (11, "UnknownSigner")
    assert ended.told["facts"]["keyring"] == str(public)


def test_overlay_verify_with_its_base(cloudlet: CommandLine, overlay: Path, base: str) -> None:
    assert cloudlet("overlay", "verify", overlay, "--json").document["base"] == base


def test_a_damaged_overlay(cloudlet: CommandLine, overlay: Path) -> None:
    content = bytearray(overlay.read_bytes())
    content[-1] ^= 1
    overlay.write_bytes(content)
    ended = cloudlet("overlay", "verify", overlay, "--json")
    assert (ended.code, ended.told["kind"]) == (3, "Damaged")
    assert "segment" in ended.told["facts"]["place"]


def test_overlay_delete_takes_overlays_only(cloudlet: CommandLine, overlay: Path, tmp_path: Path) -> None:
    other = tmp_path / "letter.txt"
    other.write_text("Dear all,\n")
    assert cloudlet("overlay", "delete", overlay, other).code == 3
    assert cloudlet("overlay", "delete", overlay, tmp_path / "none").code == 4
    assert overlay.exists() and other.exists()
    assert (
        cloudlet("overlay", "delete", overlay, "--json").document["freed_bytes"] == (GOLDEN / "overlay").stat().st_size
    )
    assert not overlay.exists()


@pytest.mark.parametrize(
    ("line", "code", "kind"),
    [
        ("base show nobody", 4, "NotFound"),
        ("base show ../etc", 2, "NameInvalid"),
        ("server show nobody", 4, "NotFound"),
        ("server stop nobody", 4, "NotFound"),
        ("server resume nobody", 4, "NotFound"),
        ("server console nobody", 4, "NotFound"),
        ("server exec nobody -- true", 4, "NotFound"),
        ("server start --base nobody", 4, "NotFound"),
        ("server start --base nobody --wait-for http://:x/", 2, "ProbeInvalid"),
        ("overlay create /tmp/o --server nobody", 4, "NotFound"),
        ("overlay create /no/where --server nobody", 4, "FileMissing"),
        ("overlay create /tmp/o --server nobody --record nonsense", 2, "ProbeInvalid"),
        ("overlay show /no/file", 4, "SourceNotFound"),
        ("overlay show gopher://host/file", 6, "SourceRefused"),
        ("overlay sign /no/file --key /no/key", 4, "FileMissing"),
        ("overlay verify /etc/hostname", 3, "WrongMagic"),
        ("base import /etc/hostname", 3, "WrongMagic"),
        ("base create /no/image --name x", 4, "FileMissing"),
        ("base create /etc/hostname --name x --wait-for tcp:none", 2, "ProbeInvalid"),
        ("synthesize /no/file", 4, "SourceNotFound"),
    ],
)
def test_errors(cloudlet: CommandLine, line: str, code: int, kind: str) -> None:
    words = line.split()
    at = words.index("--") if "--" in words else len(words)
    ended = cloudlet(*words[:at], "--json", *words[at:])
    assert (ended.code, ended.told["kind"], ended.told["exit_code"]) == (code, kind, code)
    assert ended.output == ""
    plain = cloudlet(*words, "--quiet")
    assert plain.code == code
    assert plain.error == f"cloudlet: {' '.join(ended.told['message'].split())}\n"


def test_synthesis_without_its_base(cloudlet: CommandLine, overlay: Path) -> None:
    ended = cloudlet("synthesize", overlay, "--json")
    assert (ended.code, ended.told["kind"]) == (5, "BaseMissing")
    assert ended.told["facts"]["base_id"] == FACTS["base_id"][:12]


def test_local_trouble_is_told_by_its_place(cloudlet: CommandLine) -> None:
    ended = cloudlet("base", "list", "--home", "/proc/nowhere", "--json")
    assert ended.code == 8
    assert ended.told["facts"]["path"].startswith("/proc/nowhere")


def test_an_error_of_ours_is_one_line_unless_asked(cloudlet: CommandLine) -> None:
    folder = cloudlet.home / "servers/odd"
    folder.mkdir(parents=True)
    (folder / "server.json").write_text("{}")
    ended = cloudlet("server", "show", "odd")
    assert ended.code == 1
    assert ended.error.count("\n") == 1 and "--debug" in ended.error
    command = [sys.executable, "-m", "cloudlet_ext.cmd.cloudlet", "--home", cloudlet.home, "--debug"]
    done = subprocess.run([*command, "server", "show", "odd"], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_output_that_nobody_reads(cloudlet: CommandLine) -> None:
    command = [sys.executable, "-m", "cloudlet_ext.cmd.cloudlet", "--home", cloudlet.home, "base", "list"]
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    assert reader.stdin
    reader.wait()
    done = subprocess.run(command, check=False, stdout=reader.stdin, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 141
    assert done.stderr == ""


def test_standard_error_is_closed(cloudlet: CommandLine) -> None:
    """An error is not output."""
    command = [sys.executable, "-m", "cloudlet_ext.cmd.cloudlet", "--home", cloudlet.home, "server", "show", "nothing"]
    shell = ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    done = subprocess.run(shell, check=False, stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (4, "")


def test_a_child_gets_no_file_of_ours_as_its_standard_output(tmp_path: Path) -> None:
    """The first file that is opened would get the number of what was closed."""
    script = (
        "import subprocess, sys\nfrom cloudlet_ext.cmd.streams import replace_closed\nreplace_closed()\n"
        "file = open(sys.argv[1], 'wb')\nsubprocess.run(['/bin/echo', 'said'], check=True)\n"
        "sys.exit(file.fileno())"
    )
    out = tmp_path / "file"
    shell = ["/bin/sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-c", script, str(out)]
    assert subprocess.run(shell, check=False).returncode > 2
    assert out.read_bytes() == b""


def test_start_is_fast(cloudlet: CommandLine) -> None:
    """No library is read for help: numpy alone takes as long as all of it."""
    script = (
        "import sys; from cloudlet_ext.cmd.cloudlet import main\ntry: main(['--help'])\nfinally: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"numpy", "urllib3", "cryptography", "PIL", "qemu"} & set(done.stdout.split())
