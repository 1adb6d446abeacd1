# SPDX-License-Identifier: Apache-2.0
"""Nova's ``api-paste.ini``: the cloudlet filter put into the compute API's pipelines, and taken out again.

The compute API has no ``[pipeline]`` section: each of two composites names its filters in the line ``keystone = ...``.
The filter stands directly behind ``keystonecontext``, where a request has been authenticated and Nova's own application
has not seen it yet. Every byte that is not the filter's stays as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cloudlet_ext.exception import CloudletError

FILTER = "cloudlet"
FACTORY = "cloudlet_ext.nova.filter:filter_factory"
BEFORE = "keystonecontext"
PIPELINES = ("openstack_compute_api_v21", "openstack_compute_api_v21_legacy_v2_compatible")

_SECTION = f"filter:{FILTER}"
_FACTORY_LINE = f"paste.filter_factory = {FACTORY}"
_HEADING = re.compile(r"\[([^\]]*)\]")
_WORD = re.compile(r"\S+")


class PasteError(CloudletError):
    """Root of the errors of a paste file."""


class NotComputeApi(PasteError):
    """The file has not what is to be edited."""

    msg_fmt = "%(path)s has no %(missing)s. Is this the api-paste.ini of the compute API?"


class FilterMisplaced(PasteError):
    """The filter stands where a request has no authenticated user yet."""

    msg_fmt = (
        'in %(path)s, [composite:%(pipeline)s], the filter "cloudlet" stands before "keystonecontext"; it has to stand '
        "behind it. Take it out, then enable it again"
    )


class FilterForeign(PasteError):
    """Another filter has the name."""

    msg_fmt = "in %(path)s, [filter:cloudlet] has the factory %(found)s, not %(expected)s: another filter has its name"


@dataclass(frozen=True)
class State:
    """Whether the filter is in each pipeline, by the composite's name, and whether it has its section."""

    pipelines: dict[str, bool]
    section: bool

    @property
    def is_enabled(self) -> bool:
        """Whether all is in place."""
        return self.section and all(self.pipelines.values())

    @property
    def is_absent(self) -> bool:
        """Whether nothing of the filter is there."""
        return not self.section and not any(self.pipelines.values())


class PasteFile:
    """The lines of one file. Reads and writes bytes as they are, in whatever encoding and with either line end."""

    def __init__(self, path: Path) -> None:
        """Read; OSError."""
        self.path = path
        self._text = path.read_bytes().decode("latin-1")
        self._lines = re.findall(r"[^\n]*\n|[^\n]+", self._text)

    def state(self) -> State:
        """What is there; all errors of this module."""
        pipelines = {}
        for name in PIPELINES:
            words = [word for _, word in self._words(name)]
            if BEFORE not in words:
                missing = f'filter "{BEFORE}" in the line "keystone =" of [composite:{name}]'
                raise NotComputeApi(path=self.path, missing=missing)
            if FILTER in words and words.index(FILTER) < words.index(BEFORE):
                raise FilterMisplaced(path=self.path, pipeline=name)
            pipelines[name] = FILTER in words
        return State(pipelines, self._has_own_section())

    def enable(self) -> bool:
        """Put in what is missing, and write; whether anything was."""
        state = self.state()
        for name, is_there in state.pipelines.items():
            if not is_there:
                self._insert_behind_context(name)
        if not state.section:
            self._append_section()
        return self._save()

    def disable(self) -> bool:
        """Take out all that is the filter's, and write; whether there was anything.

        What :meth:`enable` did is undone to the byte.
        """
        for name in PIPELINES:
            self._remove_filter(name)
        if self._has_own_section():
            self._remove_section()
        return self._save()

    def _section(self, name: str) -> range:
        """Numbers of a section's lines, without its heading; empty when there is none."""
        start = None
        for number, line in enumerate(self._lines):
            heading = _HEADING.match(line)
            if heading and start is not None:
                return range(start, number)
            if heading and heading[1] == name:
                start = number + 1
        return range(0) if start is None else range(start, len(self._lines))

    def _option(self, section: str, name: str) -> list[tuple[int, int]]:
        """(line, column) at which the option's value begins in each line that it has; later lines are indented."""
        places: list[tuple[int, int]] = []
        for number in self._section(section):
            line = self._lines[number]
            found = re.match(rf"{re.escape(name)}[ \t]*[=:]", line)
            if found:
                places = [(number, found.end())]
            elif places and line[:1] in " \t" and line.strip():
                places.append((number, 0))
            elif places and not line.startswith(("#", ";")):
                break
        return places

    def _words(self, composite: str) -> Iterator[tuple[tuple[int, int], str]]:
        """((line, column of the end), word) for each filter that a composite's pipeline names."""
        places = self._option(f"composite:{composite}", "keystone")
        if not places:
            raise NotComputeApi(path=self.path, missing=f'line "keystone =" in a section [composite:{composite}]')
        for number, column in places:
            if not self._lines[number].lstrip().startswith(("#", ";")):
                for word in _WORD.finditer(self._lines[number], column):
                    yield (number, word.end()), word[0]

    def _insert_behind_context(self, composite: str) -> None:
        number, end = next(place for place, word in self._words(composite) if word == BEFORE)
        line = self._lines[number]
        self._lines[number] = f"{line[:end]} {FILTER}{line[end:]}"

    def _remove_filter(self, composite: str) -> None:
        if not self._option(f"composite:{composite}", "keystone"):
            return
        for (number, end), word in reversed(list(self._words(composite))):
            if word == FILTER:
                line = self._lines[number]
                self._lines[number] = line[: end - len(word)].rstrip(" \t") + line[end:]

    def _has_own_section(self) -> bool:
        places = self._option(_SECTION, "paste.filter_factory")
        if not places:
            return False
        number, column = places[0]
        found = self._lines[number][column:].strip()
        if found != FACTORY:
            raise FilterForeign(path=self.path, found=found, expected=FACTORY)
        return True

    def _append_section(self) -> None:
        end = "\r\n" if "\r\n" in self._text else "\n"
        added = [end, f"[{_SECTION}]{end}", f"{_FACTORY_LINE}{end}"]
        if self._lines and not self._lines[-1].endswith(end):
            # The file's last line has no end, and will have none again when this is taken out.
            self._lines[-1] += end
            added = [added[1], _FACTORY_LINE]
        self._lines += added

    def _remove_section(self) -> None:
        lines = self._section(_SECTION)
        first, last = lines.start - 1, lines.stop
        # Blank lines and comments above the next heading are the next section's.
        while last < len(self._lines) and self._is_empty(last - 1):
            last -= 1
        if first and not self._lines[first - 1].strip():
            first -= 1
        ends_open = last == len(self._lines) and not self._lines[-1].endswith("\n")
        del self._lines[first:last]
        if ends_open and self._lines:
            self._lines[-1] = self._lines[-1].rstrip("\r\n")

    def _is_empty(self, number: int) -> bool:
        line = self._lines[number].strip()
        return not line or line.startswith(("#", ";"))

    def _save(self) -> bool:
        """Replace the file when there is another text; owner, mode and labels stay."""
        text = "".join(self._lines)
        if text == self._text:
            return False
        path = self.path.resolve()
        before = path.stat()
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with open(descriptor, "wb") as file:
                file.write(text.encode("latin-1"))
                file.flush()
                shutil.copystat(path, temporary)
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.utime(temporary)
                os.fsync(file.fileno())
            temporary.rename(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._text = text
        return True
