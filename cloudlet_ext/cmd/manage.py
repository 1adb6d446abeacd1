# SPDX-License-Identifier: Apache-2.0
"""``cloudlet-manage``: puts the extension into an installed Nova, and takes it out again.

Needs nothing but Python, so that it also works from a source tree where nothing is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cloudlet_ext import __version__
from cloudlet_ext.cmd import driver_link
from cloudlet_ext.cmd.driver_link import user_name
from cloudlet_ext.cmd.paste_file import BEFORE, FILTER, PasteFile
from cloudlet_ext.cmd.streams import replace_closed
from cloudlet_ext.exception import CloudletError

_EPILOG = """\
exit status:
  0  done, or all is well
  1  "check" found something missing, or an error, which is told on standard error
  2  the command line makes no sense
"""


class Answer(NamedTuple):
    """What a command has to say: to people, to programs, and by its exit code."""

    text: str
    document: dict[str, object]
    exit_code: int = 0


def main(words: list[str] | None = None) -> int:
    """Entry point; ``words`` is the command line without the program's name."""
    replace_closed()
    arguments = _parser().parse_args(words)
    try:
        answer: Answer = arguments.run(arguments)
    except CloudletError as error:
        return _fail(error, str(error), as_json=arguments.json)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        message = f"{place}{error.strerror or error} (you are {user_name(os.geteuid())})"
        return _fail(error, message, as_json=arguments.json)
    print(json.dumps(answer.document, indent=2) if arguments.json else answer.text)
    return answer.exit_code


def _fail(error: Exception, message: str, *, as_json: bool) -> int:
    """Tell an error in one line."""
    told = json.dumps({"error": {"kind": type(error).__name__, "message": message}})
    print(told if as_json else f"cloudlet-manage: {message}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cloudlet-manage",
        description="Puts cloudlet-ext into an installed Nova, and takes it out again.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cloudlet-manage {__version__}")
    groups = parser.add_subparsers(metavar="COMMAND", required=True)
    driver = _add_group(groups, "driver", "the file by which nova-compute finds cloudlet.CloudletDriver")
    for name, run, summary in (
        ("link", _link_driver, "write nova/virt/cloudlet.py into the installed Nova"),
        ("unlink", _unlink_driver, "remove that file, if it is ours"),
        ("check", _check_driver, "tell whether it is there and the driver can be imported"),
    ):
        command = _add_command(driver, name, run, summary)
        command.add_argument(
            "--nova-path",
            type=Path,
            metavar="DIR",
            help="folder of the package nova, or the tree that holds it (default: where this Python finds it)",
        )
    paste = _add_group(groups, "paste", "the filter in the compute API's api-paste.ini")
    for name, run, summary in (
        ("enable", _enable_paste, f'put the filter "{FILTER}" behind "{BEFORE}" in both pipelines'),
        ("disable", _disable_paste, "take it out again"),
        ("check", _check_paste, "tell whether it is in both pipelines"),
    ):
        command = _add_command(paste, name, run, summary)
        command.add_argument("file", type=Path, metavar="FILE", help="usually /etc/nova/api-paste.ini")
    return parser


def _add_group(
    groups: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    group = groups.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    return group.add_subparsers(metavar="COMMAND", required=True)


def _add_command(
    group: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], Answer],
    summary: str,
) -> argparse.ArgumentParser:
    command = group.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    command.add_argument("--json", action="store_true", help="one JSON document instead of text")
    command.set_defaults(run=run)
    return command


def _link_driver(arguments: argparse.Namespace) -> Answer:
    path, changed = driver_link.link(arguments.nova_path)
    return Answer(
        f"{'linked' if changed else 'already linked'}: {path}",
        {"linked": True, "path": str(path), "changed": changed},
    )


def _unlink_driver(arguments: argparse.Namespace) -> Answer:
    removed = [str(path) for path in driver_link.unlink(arguments.nova_path)]
    text = "\n".join(f"removed: {path}" for path in removed) or "there is no link"
    return Answer(text, {"linked": False, "removed": removed})


def _check_driver(arguments: argparse.Namespace) -> Answer:
    link = driver_link.check(arguments.nova_path)
    text = f"linked: {link.path}" if link.linked else f"not linked: {link.path}"
    if link.driver:
        text += f"\nthe driver can be imported: {link.driver}"
    elif link.error:
        text += f"\n{link.error}"
    document = {"linked": link.linked, "path": str(link.path), "driver": link.driver, "error": link.error}
    return Answer(text, document, 0 if link.is_well else 1)


def _enable_paste(arguments: argparse.Namespace) -> Answer:
    changed = PasteFile(arguments.file).enable()
    return Answer(
        f"{'enabled' if changed else 'already enabled'}: {arguments.file}",
        {"enabled": True, "file": str(arguments.file), "changed": changed},
    )


def _disable_paste(arguments: argparse.Namespace) -> Answer:
    changed = PasteFile(arguments.file).disable()
    return Answer(
        f"{'disabled' if changed else 'was not enabled'}: {arguments.file}",
        {"enabled": False, "file": str(arguments.file), "changed": changed},
    )


def _check_paste(arguments: argparse.Namespace) -> Answer:
    state = PasteFile(arguments.file).state()
    lines = [f"{'enabled' if state.is_enabled else 'not enabled'}: {arguments.file}"]
    for name, is_there in {**state.pipelines, f"section [filter:{FILTER}]": state.section}.items():
        lines.append(f"  {'yes' if is_there else 'no':3}  {name}")
    document = {
        "enabled": state.is_enabled,
        "file": str(arguments.file),
        "pipelines": state.pipelines,
        "section": state.section,
    }
    return Answer("\n".join(lines), document, 0 if state.is_enabled else 1)


if __name__ == "__main__":
    sys.exit(main())
