# SPDX-License-Identifier: Apache-2.0
"""The grammar: every command, its help and its examples; what is refused, and how."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import cloudlet_ext
from cloudlet_ext.cmd import parser
from cloudlet_ext.cmd.errors import BadUsage
from cloudlet_ext.exception import CloudletError
from tests.unit.cmd.conftest import CommandLine


def examples() -> Iterator[tuple[str, str]]:
    for words in parser.COMMANDS:
        for line in parser.load(words).EXAMPLE.strip().splitlines():
            yield words, line


@pytest.mark.parametrize(("words", "line"), list(examples()))
def test_examples_are_command_lines(words: str, line: str) -> None:
    parts = shlex.split(line.partition(" | ")[0])
    if parts[0] == "openssl":
        return
    assert parts[0] == "cloudlet"
    assert parser.parse(parts[1:]).words == words


@pytest.mark.parametrize("words", parser.COMMANDS)
def test_help_shows_an_example(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parser.parse([*words.split(), "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert f"cloudlet {words}" in shown.partition("\nexample")[2]
    assert "--json" in shown


def test_every_command_has_a_module_and_every_module_a_command() -> None:
    for words in parser.COMMANDS:
        command = parser.load(words)
        assert command.SUMMARY[0].islower() and not command.SUMMARY.endswith(".")
        assert command.DESCRIPTION.strip().endswith(".")


def test_top_help_tells_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser.parse(["--help"])
    shown = capsys.readouterr().out
    assert "exit status:" in shown
    assert all(f"{code:>5}  " in shown for code in parser.EXIT_CODES)


def test_every_error_has_a_code_that_is_told() -> None:
    for module in pkgutil.walk_packages(cloudlet_ext.__path__, "cloudlet_ext."):
        if module.name.endswith(".errors"):
            importlib.import_module(module.name)

    def all_below(kind: type[CloudletError]) -> Iterator[type[CloudletError]]:
        for below in kind.__subclasses__():
            yield below
            yield from all_below(below)

    kinds = list(all_below(CloudletError))
    assert len(kinds) > 50
    assert {kind.exit_code for kind in kinds} <= set(parser.EXIT_CODES)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "base",
        "frobnicate",
        "base create",
        "base create disk.qcow2",
        "base create disk.qcow2 --name x --memory 3",
        "base create disk.qcow2 --name x --memory much",
        "base create disk.qcow2 --name x --timeout 0",
        "base create disk.qcow2 --name x --timeout soon",
        "base list -- x",
        "server start",
        "server start --base b --forward 0",
        "server start --base b --forward 80:99999",
        "server start --base b --forward eighty",
        "server forward s",
        "overlay create out",
        "overlay create out --server s --level 0",
        "overlay create out --server s --level best",
        "overlay create out --server s --keep it",
        "overlay show o --map picture.gif",
        "overlay delete",
        "synthesize",
        "synthesize o --placement somewhere",
        "--home",
    ],
)
def test_bad_usage_is_refused(line: str) -> None:
    with pytest.raises(BadUsage) as refused:
        parser.parse(line.split())
    assert "--help" in str(refused.value)
    assert refused.value.command.startswith("cloudlet")


@pytest.mark.parametrize(
    "line", ["server stop", "server stop s --all", "server exec s", "base create / --name x --append l"]
)
def test_what_only_the_command_knows_is_refused(cloudlet: CommandLine, line: str) -> None:
    ended = cloudlet(*line.split())
    assert ended.code == 2
    assert ended.error.startswith("cloudlet: ") and ended.error.count("\n") == 1


@pytest.mark.parametrize(("text", "ports"), [("8080:80", (80, 8080)), ("80", (80, 0)), ("0:80", (80, 0))])
def test_forward(text: str, ports: tuple[int, int]) -> None:
    assert parser.forward(text) == ports


@pytest.mark.parametrize(("text", "level"), [("auto", "auto"), ("1", 1), ("19", 19)])
def test_level(text: str, level: int | str) -> None:
    assert parser.level(text) == level
    with pytest.raises(argparse.ArgumentTypeError):
        parser.level("20")


@pytest.mark.parametrize(
    "line", ["--json --home /h base list", "base list --json --home /h", "--home /h base list --json"]
)
def test_global_options_stand_before_or_after(line: str) -> None:
    arguments = parser.parse(line.split())
    assert arguments.json and str(arguments.home) == "/h"
    assert not arguments.quiet and not arguments.debug


def test_what_follows_two_dashes_is_not_ours() -> None:
    arguments = parser.parse(["server", "exec", "s", "--stdin", "--", "ls", "--json", "--", "-l"])
    assert arguments.command == ["ls", "--json", "--", "-l"]
    assert not arguments.json and arguments.stdin
    assert parser.parse(["server", "ssh", "s", "--user", "me"]).command == []


def test_the_page_documents_every_command_and_exit_code() -> None:
    page = (Path(__file__).parents[3] / "doc/source/cli/index.rst").read_text()
    for words in parser.COMMANDS:
        heading = f"\ncloudlet {words}\n{'-' * len(f'cloudlet {words}')}\n"
        assert heading in page
        assert f"$ cloudlet {words} " in page or f"$ cloudlet {words}\n" in page
    for code, meaning in parser.EXIT_CODES.items():
        assert f"\n{code:<3}   {meaning.partition('.')[0]}" in page
