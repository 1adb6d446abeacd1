# SPDX-License-Identifier: Apache-2.0
"""``cloudlet base create``: boot an image, wait until it answers, capture it."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from cloudlet_ext.cmd.call import Call, Outcome

SUMMARY = "boot an image, wait until it answers, and capture it as a base"
DESCRIPTION = """
Boots IMAGE (qcow2 or raw, which is not changed) under QEMU, waits until the probe has its answer, and
captures disk, memory and devices as the base NAME. With --kernel, QEMU loads that kernel itself and it
becomes a part of the base. When this fails or is interrupted, nothing is left behind.

A probe is one of: tcp:PORT, http://:PORT/PATH, console:TEXT, command:COMMAND LINE (run on this host,
with $CLOUDLET_SERVER set). Ports are the guest's.
"""
EXAMPLE = """
cloudlet base create debian.qcow2 --name debian --memory 1024 --wait-for tcp:22
cloudlet base create root.qcow2 --name small --kernel vmlinuz --initrd initrd --append "root=/dev/vda console=ttyS0"
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare its arguments."""
    from cloudlet_ext.cmd.parser import add_timeout, number

    parser.add_argument("image", metavar="IMAGE", type=Path, help="disk image, qcow2 or raw")
    parser.add_argument("--name", required=True, help="name of the base")
    parser.add_argument("--memory", type=number(16), default=1024, metavar="MIB", help="memory in MiB (default: 1024)")
    parser.add_argument("--vcpus", type=number(1, 255), default=1, metavar="N", help="processors (default: 1)")
    parser.add_argument("--cpu", metavar="MODEL", help="QEMU's CPU model (default: one that every site can offer)")
    parser.add_argument("--kernel", type=Path, metavar="FILE", help="kernel to load, from outside the image")
    parser.add_argument("--initrd", type=Path, metavar="FILE", help="initial RAM disk of --kernel")
    parser.add_argument("--append", metavar="LINE", help="command line of --kernel")
    parser.add_argument(
        "--wait-for",
        default="console:login:",
        metavar="PROBE",
        help="the guest is ready when this has an answer (default: console:login:)",
    )
    parser.add_argument(
        "--settle", type=float, default=2.0, metavar="S", help="seconds to let it come to rest (default: 2)"
    )
    add_timeout(parser, 300, "the probe")


def run(call: Call) -> Outcome:
    """Do it."""
    from cloudlet_ext.cmd import text
    from cloudlet_ext.cmd.errors import BadUsage
    from cloudlet_ext.engine.errors import FileMissing
    from cloudlet_ext.worker.base_creation import DEFAULT_CPU, BaseRequest, create_base

    given = call.arguments
    if given.kernel is None and (given.initrd or given.append):
        raise BadUsage(reason="--initrd and --append need --kernel", command="cloudlet base create")
    for path in (given.image, given.kernel, given.initrd):
        if path is not None and not path.exists():
            raise FileMissing(path=str(path))
    request = BaseRequest(
        image=given.image,
        name=given.name,
        memory_mib=given.memory,
        vcpus=given.vcpus,
        cpu=given.cpu or DEFAULT_CPU,
        wait_for=given.wait_for,
        timeout_s=given.timeout,
        settle_s=given.settle,
        kernel=given.kernel,
        initrd=given.initrd,
        kernel_cmdline=given.append,
    )
    with call.telling(call.home.bases / given.name, lambda: f"The base {given.name} is complete and stays."):
        made = create_base(call.home, request, call.report)
    document = {
        "name": made.name,
        "base_id": made.base_id,
        "folder": str(made.folder),
        "accelerator": made.accelerator.name,
        "accelerator_reason": made.accelerator.reason,
        "boot_s": made.boot_s,
        "disk_content_bytes": made.disk_bytes,
        "memory_content_bytes": made.memory_bytes,
        "total_s": call.report.elapsed_s,
    }
    facts = (
        ("identity", made.base_id[:12]),
        ("disk", f"{text.size(made.disk_bytes)} in use"),
        ("memory", f"{text.size(made.memory_bytes)} in use"),
        ("booted in", text.seconds(made.boot_s)),
        ("accelerator", str(made.accelerator)),
        ("next", f"cloudlet server start --base {made.name}"),
    )
    return Outcome(document, f"base {made.name} is ready\n{text.fields(facts)}")
