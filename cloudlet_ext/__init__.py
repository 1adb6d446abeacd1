# SPDX-License-Identifier: Apache-2.0
"""Cloudlet extensions for OpenStack: running VMs from a base and a small overlay, within seconds.

``engine`` knows the bytes, ``hypervisor`` knows QEMU, ``worker`` joins the two, ``cmd`` is the command line.
"""

from importlib import metadata

try:
    __version__ = metadata.version("cloudlet-ext")
except metadata.PackageNotFoundError:  # run from a tree that is not installed
    __version__ = "0.0.0"
