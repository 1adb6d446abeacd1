# SPDX-License-Identifier: Apache-2.0
"""The command line's grammar: all commands, the options that all have, and the types of arguments."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any, NoReturn, cast

from cloudlet_ext.cmd.call import Command
from cloudlet_ext.cmd.errors import BadUsage

GROUPS = {
    "base": "base VMs: booted guests that everything else is a difference to",
    "server": "running guests",
    "overlay": "files that tell how a server differs from its base",
}

COMMANDS = (
    "base create",
    "base list",
    "base show",
    "base verify",
    "base export",
    "base import",
    "base delete",
    "server start",
    "server list",
    "server show",
    "server console",
    "server forward",
    "server ssh",
    "server exec",
    "server resume",
    "server stop",
    "overlay create",
    "overlay record",
    "overlay show",
    "overlay verify",
    "overlay sign",
    "overlay delete",
    "synthesize",
)
"""The module of a command has its name, with "_" between the words."""

EXIT_CODES = {
    0: "done",
    1: "an error that is none of the following, or one of cloudlet itself",
    2: "the command line makes no sense",
    3: "an input file is damaged, or not what it should be",
    4: "not found: a file, a base, a server",
    5: "mismatch: another base, machine or QEMU than is needed",
    6: "the overlay's source or the network failed",
    7: "QEMU, or the guest in it, failed",
    8: "resources of this machine: disk full, no permission, port taken",
    9: "it exists already, or is in use",
    10: "the guest did not answer to the probe in time",
    11: "a signature is missing or wrong, or a key cannot be used",
    130: "interrupted (Ctrl-C); 143 by SIGTERM, 129 by SIGHUP. What was begun was undone, or it is told what was not",
}

_EXAMPLES = """\
  cloudlet base create debian.qcow2 --name debian --memory 1024 --wait-for tcp:22
  cloudlet server start --base debian --name shop --forward 8080:80
  cloudlet overlay create --server shop shop.cloudlet --record http://:80/
  cloudlet synthesize https://example.org/shop.cloudlet --probe http://:80/
"""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help whose words stand beside the options, not below them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=110)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises :class:`BadUsage`."""

    def error(self, message: str) -> NoReturn:
        """Raise."""
        raise BadUsage(reason=message, command=self.prog)


def load(words: str) -> Command:
    """The module of a command."""
    return cast(Command, importlib.import_module(f"cloudlet_ext.cmd.{words.replace(' ', '_')}"))


def build() -> Parser:
    """The whole grammar. Parsed arguments have ``words``: the command."""
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    parser = Parser(
        prog="cloudlet",
        description="Runs customised guests within seconds: a base VM that every site has, and a small overlay.",
        epilog=f"examples:\n{_EXAMPLES}\nexit status:\n{codes}",
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action=_Version)
    _add_global_options(parser, are_defaults=True)
    top = parser.add_subparsers(metavar="COMMAND", required=True)
    groups = {}
    for name, summary in GROUPS.items():
        group = top.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", formatter_class=_Formatter
        )
        groups[name] = group.add_subparsers(metavar="COMMAND", required=True)
    for words in COMMANDS:
        group_name, _, name = words.rpartition(" ")
        _add_command(groups.get(group_name, top), words, name)
    return parser


def parse(words: list[str]) -> argparse.Namespace:
    """Parse a command line; :class:`BadUsage`.

    What stands behind ``--`` is a command line of its own, for the few commands that run one (``command``).
    """
    at = words.index("--") if "--" in words else len(words)
    arguments = build().parse_args(words[:at])
    if at < len(words):
        if not hasattr(arguments, "command"):
            raise BadUsage(reason='nothing may follow after "--" here', command=f"cloudlet {arguments.words}")
        arguments.command = words[at + 1 :]
    return arguments


def _add_command(group: Any, words: str, name: str) -> None:
    command = load(words)
    examples = "\n".join(f"  {line}" for line in command.EXAMPLE.strip().splitlines())
    title = "examples" if "\n" in examples else "example"
    parser = group.add_parser(
        name,
        help=command.SUMMARY,
        description=command.DESCRIPTION.strip(),
        epilog=f"{title}:\n{examples}",
        formatter_class=_Formatter,
    )
    command.add_arguments(parser)
    _add_global_options(parser, are_defaults=False)
    parser.set_defaults(words=words)


def _add_global_options(parser: argparse.ArgumentParser, *, are_defaults: bool) -> None:
    """Options that may stand before or after the command."""
    options = parser.add_argument_group("options of every command")

    def add(name: str, default: object, help_text: str, **more: Any) -> None:
        options.add_argument(name, default=default if are_defaults else argparse.SUPPRESS, help=help_text, **more)

    add(
        "--home",
        None,
        "where bases and servers are kept (default: $CLOUDLET_HOME, else /var/lib/cloudlet or ~/.local/share/cloudlet)",
        type=Path,
        metavar="DIR",
    )
    add("--json", False, "one JSON document on standard output, progress and errors as JSON lines", action="store_true")
    add("--quiet", False, "no progress", action="store_true")
    add("--debug", False, "log what is done, and tracebacks of errors", action="store_true")


class _Version(argparse.Action):
    """``--version``, looked up only when asked for."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(nargs=0, help="show the version and leave", **arguments)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from cloudlet_ext import __version__

        parser.exit(0, f"cloudlet {__version__}\n")


def number(least: int, most: int = 1 << 31) -> Any:
    """Argument type: a whole number in bounds."""

    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {least} to {most}")
        return value

    parse.__name__ = "whole number"
    return parse


def positive_seconds(text: str) -> float:
    """Argument type: seconds, more than none."""
    value = float(text)
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


positive_seconds.__name__ = "number of seconds"


def level(text: str) -> int | str:
    """Argument type: ``auto`` or a zstd level."""
    if text == "auto":
        return text
    if not text.isdecimal() or not 1 <= int(text) <= 19:
        raise argparse.ArgumentTypeError(f"{text!r} is not auto or a number from 1 to 19")
    return int(text)


def forward(text: str) -> tuple[int, int]:
    """Argument type: ``HOST:GUEST`` or ``GUEST`` (any free port of the host), as (guest, host)."""
    host, separator, guest = text.rpartition(":")
    try:
        ports = (int(guest), int(host) if separator else 0)
    except ValueError:
        ports = (0, 0)
    if not 0 < ports[0] < 65536 or not 0 <= ports[1] < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:GUEST, two port numbers (or GUEST alone)")
    return ports


def add_level(parser: argparse.ArgumentParser) -> None:
    """``--level``."""
    parser.add_argument(
        "--level",
        type=level,
        default="auto",
        metavar="auto|1..19",
        help="zstd level; auto takes what the cores do in a short time (default: auto)",
    )


def add_forwards(parser: argparse.ArgumentParser) -> None:
    """``--forward``, as often as needed."""
    parser.add_argument(
        "--forward",
        type=forward,
        action="append",
        default=[],
        metavar="[HOST:]GUEST",
        help="forward a port of 127.0.0.1 to a port of the guest; without HOST a free one",
    )


def add_timeout(parser: argparse.ArgumentParser, default: float, what: str) -> None:
    """``--timeout``."""
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        default=default,
        metavar="S",
        help=f"seconds to wait for {what} (default: {default:.0f})",
    )
