# SPDX-License-Identifier: Apache-2.0
"""The app of the cloud's benchmarks, like W1: a web server with data in memory; in a server, and as an image.

The guest is ``minicloud-guest``. The page that the first reply must be, and the rest of the data, are the same in
both. The image has them on its disk, behind the file system, and its init reads the page before the web server begins,
the rest after that: so the image answers as soon as it can.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cloud_probe import digest_of

_MIB = 1 << 20
PAGE_BYTES = 256 << 10
DATA_BYTES = 17 * _MIB
TEXT_BYTES = 24 * _MIB
PAGE_PATH = "/page"
_BLOCK = 256 << 10
_SERVE = "httpd -p 80 -h /www\n"
_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Data:
    """Files of the app by name: ``page`` (the first reply), ``data`` (incompressible), ``text`` (compressible)."""

    files: dict[str, Path]

    @property
    def page_digest(self) -> str:
        """Of the first reply."""
        return digest_of(self.files["page"].read_bytes())

    def digest(self, name: str) -> str:
        """Of a file."""
        return digest_of(self.files[name].read_bytes())


def text(seed: int, size: int) -> bytes:
    """Words, of which any compressor makes a third or less."""
    source = random.Random(seed)
    words = ["".join(source.choices("etaoinshrdlu", k=source.randint(2, 9))) for _ in range(4096)]
    made: list[str] = []
    length = 0
    while length < size:
        chosen = source.choices(words, k=10_000)
        made += chosen
        length += sum(map(len, chosen)) + len(chosen)
    return " ".join(made).encode()[:size]


def make_data(folder: Path, data_bytes: int = DATA_BYTES, text_bytes: int = TEXT_BYTES) -> Data:
    """From fixed seeds: the same in every run."""
    contents = {
        "page": random.Random(1).randbytes(PAGE_BYTES),
        "data": random.Random(2).randbytes(data_bytes),
        "text": text(3, text_bytes),
    }
    files = {}
    for name, content in contents.items():
        files[name] = folder / name
        files[name].write_bytes(content)
    return Data(files)


def boot_script(init: str, first_block: int, blocks: dict[str, int]) -> str:
    """The guest's init, which also puts the files of the disk, ``blocks`` long each, where the web server has them."""
    if init.count(_SERVE) != 1:
        raise ValueError(f"the guest's init has no line {_SERVE.strip()!r}")
    commands, at = {}, first_block
    for name, count in blocks.items():
        commands[name] = f"dd if=/dev/vda of=/www/{name} bs={_BLOCK} skip={at} count={count} 2>/dev/null\n"
        at += count
    page = commands.pop("page")
    return init.replace(_SERVE, f"{page}{_SERVE}{{\n{''.join(commands.values())}}} &\n")


def make_image(guest: Path, init: Path, data: Data, out: Path) -> None:
    """The app's server as an image that boots, compressed qcow2; ``guest``: the disk of minicloud-guest."""
    work = out.parent / f"{out.name}.work"
    (work / "root").mkdir(parents=True)
    try:
        disk = work / "disk.raw"
        shutil.copyfile(guest, disk)
        start = -(-disk.stat().st_size // _BLOCK)
        blocks = {name: -(-path.stat().st_size // _BLOCK) for name, path in data.files.items()}
        changed = work / "root" / "init"
        changed.write_text(boot_script(init.read_text(), start, blocks))
        changed.chmod(0o755)
        _run(
            "cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0", "-O", "../app.ird", folder=work / "root", said="init\n"
        )
        _run("mcopy", "-i", str(disk), "::syslinux.cfg", str(work / "syslinux.cfg"))
        settings = (work / "syslinux.cfg").read_text()
        (work / "syslinux.cfg").write_text(settings.replace("INITRD guest.ird", "INITRD guest.ird,app.ird"))
        _run("mcopy", "-o", "-i", str(disk), str(work / "syslinux.cfg"), str(work / "app.ird"), "::")
        with disk.open("r+b") as file:
            for name, path in data.files.items():
                file.seek(start * _BLOCK)
                file.write(path.read_bytes())
                start += blocks[name]
            file.truncate(start * _BLOCK)
        _run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", str(disk), str(out))
    finally:
        shutil.rmtree(work)


def _run(*command: str, folder: Path | None = None, said: str = "") -> None:
    subprocess.run(command, cwd=folder, input=said, text=True, check=True, timeout=_TIMEOUT_S, capture_output=True)
