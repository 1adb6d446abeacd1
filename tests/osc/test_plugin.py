# SPDX-License-Identifier: Apache-2.0
"""The plugin: every command is registered, and its help has an example that its own parser understands."""

from __future__ import annotations

import configparser
import importlib
import pkgutil
import shlex
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest
from cliff.command import Command as CliffCommand

import cloudlet_ext.osc
from tests.osc.conftest import Command

GROUP = "openstack.cloudlet.v1"
COMMANDS = {each.name: each for each in entry_points(group=GROUP)}
ROOT = Path(__file__).parents[2]


def test_every_command_is_registered() -> None:
    written = set()
    for module in pkgutil.iter_modules(cloudlet_ext.osc.__path__):
        loaded = importlib.import_module(f"cloudlet_ext.osc.{module.name}")
        written |= {
            f"{loaded.__name__}:{name}"
            for name, value in vars(loaded).items()
            if isinstance(value, type)
            and issubclass(value, CliffCommand)
            and value.__module__ == loaded.__name__
            and "take_action" in vars(value)
        }
    assert {each.value for each in COMMANDS.values()} == written


def test_what_is_installed_is_what_is_declared() -> None:
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    lines = declared["entry_points"][GROUP].strip().splitlines()
    assert {(each.name, each.value) for each in COMMANDS.values()} == {
        tuple(part.strip() for part in line.split("=", 1)) for line in lines
    }


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_help_has_an_example_that_works(command: EntryPoint, run: Command) -> None:
    words = command.name.replace("_", " ")
    text = run(f"help {words}").out
    assert "Example:" in text
    example = command.load().example.strip().splitlines()
    assert example
    parser = command.load()(None, None).get_parser(f"openstack {words}")
    for line in example:
        assert line.strip() in text
        prefix = f"openstack {words}"
        assert line.strip().startswith(prefix)
        parser.parse_args(shlex.split(line.strip().removeprefix(prefix)))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_documentation(command: str) -> None:
    page = (ROOT / "doc/source/cli/openstack.rst").read_text()
    title = f"openstack {command.replace('_', ' ')}"
    assert f"\n{title}\n{'-' * len(title)}\n" in page
    assert f"$ {title}" in page
