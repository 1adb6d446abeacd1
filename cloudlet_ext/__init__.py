# SPDX-License-Identifier: Apache-2.0
"""The cloudlet layer for stock OpenStack: VM overlays, handoff, discovery."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    # Asking for the version reads the installed packages' records: not at every start.
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("cloudlet-ext")
        except metadata.PackageNotFoundError:  # run from a tree that is not installed
            return "0.0.0"
    raise AttributeError(name)
