# SPDX-License-Identifier: Apache-2.0
"""The quick start: the main job once, through the command line that a user has, with a table at the end."""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.arguments import output_file
from benchmarks.file_server import new_server
from benchmarks.shaper import Shaper
from cloudlet_ext.hypervisor import command_line
from cloudlet_ext.hypervisor.machine import MachineDescription
from cloudlet_ext.worker import probe, server
from cloudlet_ext.worker.home import Home

WORK = Path(os.environ.get("CLOUDLET_WORK", "/var/tmp/cloudlet"))
GUESTS = WORK / "guests"
HERE = WORK / "quickstart"
CLOUDLET = [sys.executable, "-m", "cloudlet_ext.cmd.cloudlet", "--home", str(HERE / "home")]
READY = "console:CLOUDLET-GUEST ready"
PROBE = "http://:80/nonce"
MEMORY_MIB = 256

SETUP = """
set -e
busybox wget -q -O- http://10.0.2.2:{port}/app-web-files.tar | tar -x -C /
systemctl daemon-reload
head -c 12582912 /dev/urandom >/var/www/html/data
echo ready >/var/www/html/ready
printf %s {nonce} >/dev/shm/nonce
ln -sf /dev/shm/nonce /var/www/html/nonce
systemctl enable --now nginx redis-server
seq 20000 | sed 's/.*/SET key:& value:&:{nonce}/' | redis-cli --pipe >/dev/null
cat /var/www/html/* >/dev/null
sync
"""
"""The app: nginx with 12 MiB of data, redis with 20,000 keys, and a nonce that is in memory only."""


def cloudlet(*arguments: str) -> Any:
    """Run one command as a user would; its result."""
    shown = ["'...'" if "\n" in argument else shlex.quote(argument) for argument in arguments]
    print(f"\n$ cloudlet {' '.join(shown)}", flush=True)
    began = time.monotonic()
    done = subprocess.run([*CLOUDLET, "--json", "--quiet", *arguments], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.stderr.write(done.stdout.decode(errors="replace"))
        raise SystemExit(done.returncode)
    print(f"  {time.monotonic() - began:.1f} s", flush=True)
    return json.loads(done.stdout) if done.stdout.strip() else None


@contextmanager
def served(folder: Path, rate_mbit: float | None = None, rtt_ms: float = 1.0) -> Iterator[str]:
    """Address of an HTTP server for ``folder``, behind a shaped link if a rate is given."""
    server = new_server(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"127.0.0.1:{server.server_port}"
    try:
        if rate_mbit is None:
            yield address
        else:
            with Shaper(address, rate_mbit=rate_mbit, rtt_ms=rtt_ms) as shaper:
                yield shaper.address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_overlay(nonce: str) -> dict[str, Any]:
    """Base, server, app, whole image for comparison, overlay; the server is deleted. The figures."""
    kernel = ["--kernel", str(GUESTS / "vmlinuz"), "--initrd", str(GUESTS / "initrd")]
    append = (GUESTS / "debian.cmdline").read_text().strip()
    base = cloudlet(
        *("base", "create", str(GUESTS / "debian.qcow2"), "--name", "quickstart", "--memory", str(MEMORY_MIB)),
        *(*kernel, f"--append={append}", "--wait-for", READY),
    )
    cloudlet("server", "start", "--base", "quickstart", "--name", "app")
    print("\ninstalling and warming the app: nginx with 12 MiB of data, redis with 20,000 keys", flush=True)
    with served(GUESTS) as address:
        port = address.rpartition(":")[2]
        script = SETUP.format(port=port, nonce=nonce)
        cloudlet("server", "exec", "--timeout", "240", "app", "--", "/bin/bash", "-c", script)
    overlay = HERE / "app.cloudlet"
    made = cloudlet("overlay", "create", "--server", "app", str(overlay), "--keep", "stopped")
    whole_image(HERE / "home/servers/app/disk.qcow2")
    cloudlet("server", "stop", "app")
    cloudlet("overlay", "record", str(overlay), PROBE)
    cloudlet("overlay", "show", str(overlay), "--map", str(HERE / "app.svg"))
    return {"base": base, "overlay": made}


def whole_image(disk: Path) -> None:
    """The same server as one image, the way it would be downloaded without an overlay."""
    subprocess.run(
        ["qemu-img", "convert", "-U", "-c", "-O", "qcow2", "-o", "compression_type=zstd", disk, HERE / "app.qcow2"],
        check=True,
    )


def boot_whole_image(url: str) -> float:
    """Download the whole image, boot it, wait until its web server answers; seconds."""
    began = time.monotonic()
    print(f"\n$ curl -O {url}, then boot it", flush=True)
    downloaded = HERE / "downloaded.qcow2"
    subprocess.run(["curl", "-sSf", "-o", downloaded, url], check=True)
    home = Home(HERE / "home")
    with home.open_base("quickstart") as base:
        guest = server.create(home, "downloaded", MachineDescription.from_dict(base.machine), "boot", None, None)
        with server.undone_on_failure(guest):
            files = command_line.Files(
                disk=downloaded, base_disk=None, kernel=base.kernel_path, initrd=base.initrd_path
            )
            guest.launch(files, incoming=False)
            waiting = probe.parse("http://:80/ready")
            waiting.prepare(guest)
            probe.wait(waiting, guest, 180)
    elapsed = time.monotonic() - began
    guest.destroy()
    downloaded.unlink()
    return elapsed


def figures(made: dict[str, Any], synthesis: dict[str, Any], boot_s: float) -> dict[str, Any]:
    """What ``--json`` writes; bytes and seconds."""
    base, overlay = made["base"], made["overlay"]
    return {
        "base_bytes": base["memory_content_bytes"] + base["disk_content_bytes"],
        "overlay_bytes": (HERE / "app.cloudlet").stat().st_size,
        "image_bytes": (HERE / "app.qcow2").stat().st_size,
        "create_s": round(overlay["create_s"], 3),
        "pause_s": round(overlay["pause_s"], 3),
        "running_s": round(synthesis["running_s"], 3),
        "first_reply_s": round(synthesis["first_reply_s"], 3),
        "resident_s": round(synthesis["resident_s"], 3),
        "image_boot_first_reply_s": round(boot_s, 3),
        "speedup": round(boot_s / synthesis["first_reply_s"], 1),
        "accelerator": base["accelerator"],
        "accelerator_reason": base["accelerator_reason"],
        "placement": synthesis["placement"],
        "chunks_by_source": overlay["chunks"],
    }


def table(values: dict[str, Any], rate_mbit: float) -> str:
    """The figures for people."""

    def megabytes(count: int) -> str:
        return f"{count / 1e6:10.1f} MB"

    sources = values["chunks_by_source"]
    named = "\n".join(
        f"    {name.replace('_', ' '):37}{megabytes(count * 4096)}" for name, count in sources.items() if count
    )
    why = f"accelerator: {values['accelerator']} ({values['accelerator_reason']})"
    accelerator = textwrap.fill(why, 78, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return f"""
{"=" * 78}
base VM, non-zero disk and memory        {megabytes(values["base_bytes"])}   (stays at every cloudlet)
whole image, compressed                  {megabytes(values["image_bytes"])}
overlay                                  {megabytes(values["overlay_bytes"])}
  where the target's bytes come from
{named}

overlay creation                         {values["create_s"]:10.2f} s
  of which the guest stood still         {values["pause_s"]:10.2f} s

through a link of {rate_mbit:g} Mbit/s               base + overlay    whole image + boot
  guest runs                             {values["running_s"]:10.2f} s
  first reply                            {values["first_reply_s"]:10.2f} s {values["image_boot_first_reply_s"]:18.2f} s
  everything is here                     {values["resident_s"]:10.2f} s
  sooner to the first reply              {values["speedup"]:10.1f} x

{accelerator}
memory placement: {values["placement"]}
artefacts: {HERE} (app.cloudlet, app.svg, app.qcow2, home/)
remove everything: tools/quickstart --clean
{"=" * 78}"""


def stop_servers() -> None:
    """End what this quick start runs."""
    if (HERE / "home").exists():
        subprocess.run([*CLOUDLET, "server", "stop", "--all"], check=False, stdout=subprocess.DEVNULL)


def _interrupted(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Do the job; see tools/quickstart."""
    parser = argparse.ArgumentParser(prog="tools/quickstart", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--rate", type=float, default=38.0, help="Mbit/s of the link (default 38)")
    parser.add_argument("--rtt", type=float, default=1.0, help="round-trip time of the link, ms (default 1)")
    parser.add_argument("--clean", action="store_true", help="remove everything that was made")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupted)
    stop_servers()
    shutil.rmtree(HERE, ignore_errors=True)
    if arguments.clean:
        return
    HERE.mkdir(parents=True)
    nonce = secrets.token_hex(16)
    try:
        made = make_overlay(nonce)
        with served(HERE, arguments.rate, arguments.rtt) as address:
            synthesis = cloudlet(
                "synthesize", f"http://{address}/app.cloudlet", "--name", "synthesised", "--probe", PROBE
            )
            if synthesis["reply"] != nonce:
                sys.exit(f"the synthesised server answered {synthesis['reply']!r}, expected {nonce!r}")
            cloudlet("server", "stop", "synthesised")
            boot_s = boot_whole_image(f"http://{address}/app.qcow2")
    finally:
        stop_servers()
    values = figures(made, synthesis, boot_s)
    print(table(values, arguments.rate))
    if arguments.json:
        arguments.json.write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
