# SPDX-License-Identifier: Apache-2.0
"""Types of arguments that the programs of this folder share."""

from __future__ import annotations

import argparse
from pathlib import Path


def output_file(text: str) -> Path:
    """Argument type: a file that can be written at the end, which is minutes from now."""
    path = Path(text).absolute()
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} cannot be a file: there is no folder for it, or it is one")
    return path
