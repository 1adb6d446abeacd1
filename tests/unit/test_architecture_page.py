# SPDX-License-Identifier: Apache-2.0
"""The architecture page, the README and the folders tell the same story."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "doc/source/contributor/architecture.rst").read_text()


LAYERS = ["engine", "hypervisor", "worker", "job", "api", "nova", "sdk", "osc"]


@pytest.mark.parametrize("layer", LAYERS)
def test_every_module_is_on_the_page(layer: str) -> None:
    section = PAGE.split(f"``{layer}``\n---", 1)[1].split("\n---", 1)[0]
    told = {line.strip("`") for line in section.splitlines() if line.startswith("``")}
    there = {path.stem for path in (ROOT / "cloudlet_ext" / layer).rglob("*.py")} - {"__init__"}
    # The last heading of the section belongs to the next layer.
    assert told - {*LAYERS, "cmd"} == there - {*LAYERS, "cmd"}


def test_the_readme_names_what_is_there() -> None:
    readme = (ROOT / "README.rst").read_text()
    for path in ("tools/quickstart", "tools/runtests", "benchmarks", "doc/source/contributor/formats.rst"):
        assert path in readme
        assert (ROOT / path).exists()
