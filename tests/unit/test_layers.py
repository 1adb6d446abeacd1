# SPDX-License-Identifier: Apache-2.0
"""The layers, as the imports have them and as the architecture page tells; files and functions that stay short.

The table of the page is read, not repeated here.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "cloudlet_ext"
PAGE = ROOT / "doc/source/contributor/architecture.rst"
NAME = PACKAGE.name
LEAVES = "leaves"
LEAF_FOLDERS = {"conf", "policies"}

FILE_LINES, FUNCTION_LINES = 400, 50
"""Neither is reached by what is here."""

LIBRARIES = {
    "engine": {"PIL", "backports", "blake3", "cryptography", "numpy", "urllib3"},
    "hypervisor": {"numpy", "qemu", "libvirt", "libvirt_qemu"},
    "worker": {"numpy"},
    "job": {"numpy", "libvirt", "glanceclient", "keystoneauth1", "oslo_privsep"},
    LEAVES: {"pbr", "oslo_config", "oslo_policy", "oslo_privsep"},
}
"""What layers without OpenStack may use from outside; what is not named here (``cmd``) may use what it wants."""

FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(), str(path)) for path in FILES}


def layer_of(module: str) -> str:
    """The layer of a module of ours by its full name: its first folder, or the leaves."""
    parts = module.split(".")
    is_layer = len(parts) > 1 and (PACKAGE / parts[1]).is_dir() and parts[1] not in LEAF_FOLDERS
    return parts[1] if is_layer else LEAVES


def module_of(path: Path) -> str:
    return ".".join([NAME, *path.relative_to(PACKAGE).with_suffix("").parts])


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of all that a file imports, wherever in the file."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module_of(path).split(".")[: -node.level]
                base = ".".join([*above, *filter(None, [node.module])])
            # A module may be named before or after "import".
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def table() -> dict[str, set[str]]:
    """The table of the page: layer -> layers that it may import."""
    rows = re.findall(r"^``(\w+)`` +(.*(?:\n +\S.*)*)", PAGE.read_text().split("may import", 1)[1], re.MULTILINE)
    allowed = {}
    for layer, may in rows:
        if "leaves" not in may:
            break
        words = re.sub(r"\(.*?\)", "", may)
        allowed[layer] = set(re.findall(r"``(\w+)``", words)) | {layer, LEAVES}
    return allowed | {LEAVES: {LEAVES}}


ALLOWED = table()


def test_the_table_is_there() -> None:
    assert {"cmd", "worker", "engine", "hypervisor", LEAVES} <= set(ALLOWED), f"{PAGE} has lost its table of layers"
    assert "hypervisor" not in ALLOWED["engine"]
    assert "engine" not in ALLOWED["hypervisor"]
    for layer, may in ALLOWED.items():
        assert may <= set(ALLOWED), f"{PAGE}: {layer} may import {may - set(ALLOWED)}, which has no row"
        assert layer == "cmd" or "cmd" not in may, f"{PAGE}: nobody imports cmd"


def test_nova_is_imported_by_one_layer() -> None:
    found = {layer_of(module_of(path)) for path in FILES for _, name in imports(path) if name.split(".")[0] == "nova"}
    assert found == {"nova"}


def test_every_folder_is_a_layer() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    folders -= LEAF_FOLDERS
    assert folders <= set(ALLOWED), f"{folders - set(ALLOWED)} has no row in the table of {PAGE}"


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_follow_the_table(path: Path) -> None:
    layer = layer_of(module_of(path))
    wrong = []
    for line, name in imports(path):
        top = name.split(".")[0]
        place = f"{path.relative_to(ROOT)}:{line}"
        if top == NAME:
            if layer_of(name) not in ALLOWED[layer]:
                wrong.append(f"{place}: {layer} imports {name}, allowed are {sorted(ALLOWED[layer])}")
        elif top not in sys.stdlib_module_names and top not in LIBRARIES.get(layer, {top}):
            wrong.append(f"{place}: {layer} imports {name}, allowed from outside are {sorted(LIBRARIES[layer])}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_files_and_functions_are_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    long = [f"{path.relative_to(ROOT)} has {lines} lines"] if lines >= FILE_LINES else []
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines >= FUNCTION_LINES:
                long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}() has {lines} lines")
    assert not long, (
        f"{'; '.join(long)}. Fewer than {FILE_LINES} for a file and {FUNCTION_LINES} for a function are expected: "
        "take a part out that has a name of its own."
    )
