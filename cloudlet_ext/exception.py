# SPDX-License-Identifier: Apache-2.0
"""The root of every error tree of the project."""

from __future__ import annotations

from typing import Any, ClassVar


class CloudletError(Exception):
    """Base of all errors that a user can cause or meet.

    A subclass gives ``msg_fmt``, a ``%(name)s`` template; the facts are passed by keyword, kept as
    attributes and put into the message, which is right for whoever meets it, at the command line or in Nova.
    ``exit_code`` is what the command line ends with, ``hint`` what it alone adds: its own way out.
    """

    msg_fmt: ClassVar[str] = "An unknown error occurred."
    hint: ClassVar[str] = ""
    exit_code: ClassVar[int] = 1

    def __init__(self, **facts: Any) -> None:
        self.facts: dict[str, Any] = facts
        for name, value in facts.items():
            setattr(self, name, value)
        super().__init__(self.msg_fmt % facts)

    def __getattr__(self, name: str) -> Any:
        # Only reached for names that are no attribute; tells type checkers that facts are attributes.
        raise AttributeError(f"{type(self).__name__} has no fact named {name!r}")
