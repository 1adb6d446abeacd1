# SPDX-License-Identifier: Apache-2.0
"""What all commands share: help with an example, errors in words, progress, waiting."""

from __future__ import annotations

import argparse
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar

import requests
from openstack import exceptions
from openstack.connection import Connection
from osc_lib.command import command
from osc_lib.exceptions import CommandError

from cloudlet_ext.exception import CloudletError
from cloudlet_ext.osc.progress import Progress, TransferProgress, choose_progress
from cloudlet_ext.sdk.proxy import Proxy

Columns = Mapping[str, str]
"""Attribute of a resource -> its column's name."""

Formats = Mapping[str, Callable[[Any], Any]]
"""Attribute of a resource -> what makes a column's value of it."""

_STATUS = re.compile(r"^\d{3} [A-Z][A-Za-z ]+: ")
"""The status that Glance puts before its words."""

_MISSING_ACTION = "no such action"


class _Shared:
    """Mixed into each of cliff's kinds of command."""

    app: Any
    example: ClassVar[str]
    """Lines of ``openstack cloudlet ...`` for the help."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """As cliff's, with description and example as they were written."""
        parser: argparse.ArgumentParser = super().get_parser(prog_name)  # type: ignore[misc]
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        self.add_arguments(parser)
        return parser

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments of the command."""

    def get_epilog(self) -> str:
        """The example, and what cliff says of plugins."""
        lines = "\n".join(f"  {line.strip()}" for line in self.example.strip().splitlines())
        epilog: str = super().get_epilog()  # type: ignore[misc]
        return "\n\n".join(filter(None, (f"Example:\n{lines}", epilog)))

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command. Errors that a user can cause become one CommandError, in words."""
        try:
            code: int = super().run(parsed_args)  # type: ignore[misc]
        except CloudletError as error:
            raise CommandError(str(error)) from error
        except exceptions.HttpException as error:
            raise CommandError(_refusal(error)) from error
        except (exceptions.SDKException, requests.RequestException) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            raise CommandError(f"{place}{error.strerror or error}") from error
        return code

    @property
    def proxy(self) -> Proxy:
        """The cloudlet API."""
        proxy: Proxy = self.app.client_manager.cloudlet
        return proxy

    @property
    def connection(self) -> Connection:
        """The cloud's other APIs."""
        return self.proxy.connection

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Progress on standard error until the block ends."""
        progress = choose_progress(self.app.stderr, is_quiet=self.app.options.verbose_level == 0)
        try:
            yield progress
        finally:
            progress.close()

    @contextmanager
    def waiting(self, operation_id: str) -> Iterator[Progress]:
        """Progress of an operation. An interruption ends the wait alone, and says so."""
        with self.progress() as progress:
            try:
                yield progress
            except KeyboardInterrupt:
                progress.close()
                self.say(
                    f"Interrupted: only the wait has ended, operation {operation_id} goes on.\n"
                    f"  how far it is:  openstack cloudlet operation show {operation_id}\n"
                    f"  to end it:      openstack cloudlet operation cancel {operation_id}"
                )
                raise

    @contextmanager
    def transfer(self, stage: str, total: int) -> Iterator[TransferProgress]:
        """Progress of a transfer of ``total`` bytes. Signals end the block as errors do, so that it is undone."""
        with self.progress() as progress, _ended_by_signals():
            try:
                yield TransferProgress(progress, stage, total)
            except KeyboardInterrupt:
                progress.close()
                self.say("Interrupted: what was begun is undone.")
                raise

    def say(self, words: str) -> None:
        """Tell a person something, on standard error, unless --quiet."""
        if self.app.options.verbose_level:
            self.app.stderr.write(f"{words}\n")


class Command(_Shared, command.Command):
    """A command without output."""


class Lister(_Shared, command.Lister):
    """A command that shows a table."""


class ShowOne(_Shared, command.ShowOne):
    """A command that shows one thing."""


def table(
    resources: Iterable[Any], columns: Columns, formats: Formats
) -> tuple[Sequence[str], Iterator[tuple[Any, ...]]]:
    """What a Lister returns."""
    rows = (tuple(_value(each, name, formats) for name in columns) for each in resources)
    return tuple(columns.values()), rows


def fields(resource: Any, names: Iterable[str], formats: Formats) -> tuple[Sequence[str], Sequence[Any]]:
    """What a ShowOne returns: ``names`` of attributes, and their values."""
    names = tuple(names)
    return names, tuple(_value(resource, name, formats) for name in names)


def add_list_options(parser: argparse.ArgumentParser, kind: str) -> None:
    """The options that all listings of images have."""
    parser.add_argument("--name", metavar="<name>", help=f"List only {kind}s of this name")
    parser.add_argument("--limit", metavar="<n>", type=positive, help=f"List at most so many {kind}s")
    parser.add_argument("--marker", metavar="<id>", help=f"Begin after the {kind} with this id")
    parser.add_argument("--long", action="store_true", help="List more columns")


def list_query(parsed_args: argparse.Namespace) -> dict[str, Any]:
    """The query of add_list_options(). A limit is of the whole list, not of a page of it."""
    given = {"name": parsed_args.name, "limit": parsed_args.limit, "marker": parsed_args.marker}
    query: dict[str, Any] = {key: value for key, value in given.items() if value}
    return query | ({"paginated": False} if parsed_args.limit else {})


def add_visibility(parser: argparse.ArgumentParser) -> None:
    """``--public`` and ``--private``, in ``visibility``."""
    group = parser.add_mutually_exclusive_group()
    for word, words in (("public", "every project sees it"), ("private", "only its own project sees it")):
        group.add_argument(f"--{word}", dest="visibility", action="store_const", const=word, help=words)


def positive(words: str) -> int:
    """Type of an argument: a whole number above 0."""
    if not words.isdecimal() or not int(words):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {words!r}")
    return int(words)


def delete_all(names: Sequence[str], delete: Callable[[str], object]) -> None:
    """Delete each of ``names``; what fails does not keep the others. CommandError in the end."""
    failed = []
    for name in names:
        try:
            delete(name)
        except CloudletError as error:
            failed.append(f"{name}: {error}")
        except exceptions.HttpException as error:
            failed.append(f"{name}: {_refusal(error)}")
    if failed:
        raise CommandError(f"{len(failed)} of {len(names)} could not be deleted. {' '.join(failed)}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit in the block, with the status that shells expect."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    is_main = threading.current_thread() is threading.main_thread()
    # One that is ignored (nohup) stays so.
    taken = [number for number in numbers if is_main and signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _refusal(error: exceptions.HttpException) -> str:
    """What the service said, without URLs and names of classes."""
    details = _STATUS.sub("", " ".join(str(error.details or error.message).split()))
    if error.status_code == 400 and _MISSING_ACTION in details.lower():
        return "This cloud's compute service has no cloudlet extension. Choose another cloud, or ask its operator."
    if error.status_code == 403 and details.startswith("Policy "):
        details += " Another role or project is needed."
    return f"{details} (HTTP {error.status_code})" if error.status_code else details


def _value(resource: Any, name: str, formats: Formats) -> Any:
    value = getattr(resource, name)
    return formats[name](value) if name in formats else value
