# SPDX-License-Identifier: Apache-2.0
"""The operator's guide names every option, rule and check that there is, and none that there is not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from cloudlet_ext import conf, policies
from cloudlet_ext.cmd import driver_link, paste_file
from cloudlet_ext.cmd.status import Checks
from cloudlet_ext.policies.base import PREFIX

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "doc/source/admin"


def rows(page: str, after: str) -> set[str]:
    """First cells of the list-table whose directive's argument is ``after``, split at commas."""
    table = (GUIDE / page).read_text().split(f".. list-table:: {after}\n", 1)[1].split("\n\n", 2)[1]
    cells = re.findall(r"^   \* - (.*)$", table, re.MULTILINE)[1:]
    return {name for cell in cells for name in re.findall(r"``([^`]+)``", cell)}


def scheduler_options() -> set[str]:
    """Of the weigher, whose module cannot be imported where no Nova is."""
    tree = ast.parse((ROOT / "cloudlet_ext/nova/scheduler.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr.endswith("Opt")
        and isinstance(call.args[0], ast.Constant)
    }


def test_options() -> None:
    assert rows("configuration.rst", "[cloudlet]") == {opt.name for opt in conf.OPTS} | scheduler_options()


def test_policies() -> None:
    names = {rule.name.removeprefix(PREFIX) for rule in policies.list_rules()}
    assert rows("configuration.rst", f"{PREFIX}...") == names


def test_checks() -> None:
    page = (GUIDE / "install.rst").read_text()
    for name, _ in Checks._upgrade_checks:
        assert re.search(rf"^{re.escape(name)}  +\S", page, re.MULTILINE), name


def test_what_is_written_is_what_is_told() -> None:
    page = (GUIDE / "install.rst").read_text()
    assert paste_file.FACTORY in page
    for pipeline in paste_file.PIPELINES:
        assert f"[composite:{pipeline}]" in page
    assert driver_link.IMPORT_LINE.rsplit(" ", 1)[0].removeprefix("from ").split(" ")[0] in page
