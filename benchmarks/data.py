# SPDX-License-Identifier: Apache-2.0
"""The apps' data: made from fixed seeds, once."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cloudlet_ext.engine.digest import file_digest


def _web(path: Path) -> None:
    """12 MiB that cannot be compressed."""
    path.write_bytes(np.random.default_rng(1).bytes(12 << 20))


def _array(path: Path) -> None:
    """64 MiB: readings of three digits, as floating point numbers."""
    np.random.default_rng(2).integers(0, 1000, 8 << 20).astype(np.float64).tofile(path)


def _features(path: Path) -> None:
    """102 MB: 200,000 vectors of 128 small whole numbers as floating point, like those of SIFT; half are zero."""
    values = np.random.default_rng(3).geometric(0.03, (200_000, 128)) - 24
    np.clip(values, 0, 255).astype(np.float32).tofile(path)


def _database(path: Path) -> None:
    """90 MB: pages of text from a vocabulary of 4,096 words."""
    random = np.random.default_rng(4)
    letters = np.array(list("etaoinshrdlcumwfgypbvk"))
    words = ["".join(random.choice(letters, size)) for size in random.integers(2, 11, 4096)]
    vocabulary = np.array(words, dtype=object)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA page_size = 4096")
        connection.execute("CREATE TABLE pages (number INTEGER PRIMARY KEY, text TEXT)")
        for first in range(0, 15_500, 500):
            rows = vocabulary[random.zipf(1.4, (500, 600)) % len(vocabulary)]
            connection.executemany(
                "INSERT INTO pages VALUES (?, ?)", ((first + at, " ".join(row)) for at, row in enumerate(rows))
            )
        connection.commit()


def _churn(path: Path) -> None:
    """100 MB that cannot be compressed."""
    path.write_bytes(np.random.default_rng(5).bytes(100_000_000))


MAKERS: dict[str, Callable[[Path], None]] = {
    "web.data": _web,
    "array.data": _array,
    "features.data": _features,
    "database.data": _database,
    "churn.data": _churn,
}


def made(folder: Path, name: str) -> Path:
    """The data file ``name``, made if it is not there; it is made again when this module changes."""
    key = file_digest(Path(__file__)).hex()[:12]
    path = folder / f"{key}-{name}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"*-{name}"):
            old.unlink()
        partial = folder / f".{name}.new"
        partial.unlink(missing_ok=True)
        MAKERS[name](partial)
        partial.rename(path)
    return path
