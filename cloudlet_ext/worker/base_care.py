# SPDX-License-Identifier: Apache-2.0
"""Care of bases that are there: describe, verify, carry to another site, delete."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudlet_ext.engine.base import DISK_NAME, MANIFEST_NAME, MEMORY_NAME, Base
from cloudlet_ext.engine.base_file import BaseFile, export_base
from cloudlet_ext.engine.base_import import discard_import, import_base
from cloudlet_ext.engine.chunks import CHUNK_BYTES
from cloudlet_ext.engine.errors import EngineError
from cloudlet_ext.engine.source import SourcePolicy, open_source
from cloudlet_ext.worker import errors, server
from cloudlet_ext.worker.home import Home, check_name
from cloudlet_ext.worker.report import Report

_PARTIAL, _DELETED = ".partial", ".deleted"


@dataclass(frozen=True)
class BaseFacts:
    """A base. Sizes in bytes: ``used_bytes`` of the host's disk; ``created``: seconds since 1970."""

    name: str
    base_id: str
    machine: dict[str, Any]
    disk_bytes: int
    memory_bytes: int
    used_bytes: int
    created: float
    servers: tuple[str, ...]
    folder: Path


@dataclass(frozen=True)
class BaseContent:
    """Chunks of a base that are not zero, in bytes."""

    disk_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class UnfinishedImport:
    """What an import has fetched that has not ended well, or goes on now (``is_running``). ``kept_bytes``: on disk."""

    name: str
    kept_bytes: int
    is_running: bool


def users(home: Home, name: str) -> list[str]:
    """Names of the servers on a base, whether they run or not."""
    found = []
    for server_name in server.names(home):
        try:
            guest = server.load(home, server_name)
        except (errors.WorkerError, ValueError, TypeError):
            continue
        if guest.record.base == name:
            found.append(server_name)
    return found


def describe(home: Home, name: str) -> BaseFacts:
    """What a base is. NotFound, FormatError."""
    folder = home.base_folder(name)
    with Base.open(folder) as base:
        parts = (MANIFEST_NAME, DISK_NAME, MEMORY_NAME, *base.manifest.parts)
        files = [folder / part for part in parts if (folder / part).exists()]
        return BaseFacts(
            name=name,
            base_id=base.base_id,
            machine=base.machine,
            disk_bytes=base.layout.disk_bytes,
            memory_bytes=base.layout.memory[0].chunks * CHUNK_BYTES,
            used_bytes=sum(file.stat().st_blocks * 512 for file in files),
            created=(folder / MANIFEST_NAME).stat().st_mtime,
            servers=tuple(users(home, name)),
            folder=folder,
        )


def list_bases(home: Home) -> list[BaseFacts | tuple[str, EngineError]]:
    """All bases; one that cannot be opened by its name and the reason."""
    found: list[BaseFacts | tuple[str, EngineError]] = []
    for name in home.base_names():
        try:
            found.append(describe(home, name))
        except EngineError as failure:
            found.append((name, failure))
    return found


def content(home: Home, name: str) -> BaseContent:
    """How much of a base is not zero; reads its index."""
    with home.open_base(name) as base:
        numbers = base.index.numbers
        in_disk = int((numbers < base.layout.disk_chunks).sum())
        return BaseContent(in_disk * CHUNK_BYTES, (len(numbers) - in_disk) * CHUNK_BYTES)


def verify(home: Home, name: str, report: Report) -> None:
    """Read all of a base and compare it with its identity; Damaged names the place."""
    report.stage("verify")
    with home.open_base(name) as base:
        base.verify(report.progress)


def export(home: Home, name: str, out: Path, *, level: int | str, overwrite: bool, report: Report) -> int:
    """Write a base to one file; its size. OutputExists, OutputBusy, DiskFull."""
    report.stage("export")
    with home.open_base(name) as base:
        return export_base(base, out, level=level, replace=overwrite, progress=report.progress)


def load(home: Home, source_text: str, name: str, policy: SourcePolicy, report: Report) -> BaseFacts:
    """Make a base of a base file, a path or a URL; continues what an interrupted import of the same file began.

    What an import of another file left under this name is thrown away.
    """
    check_name("base", name)
    report.stage("import")
    with home.lock("base", name):
        folder = home.bases / name
        if folder.exists():
            raise errors.NameTaken(what="base", name=name)
        source = open_source(source_text, policy)
        try:
            import_base(BaseFile.open(source), folder, report.progress).close()
        except BaseException:
            _tell_what_is_left(folder, report)
            raise
        finally:
            source.close()
    return describe(home, name)


def _tell_what_is_left(folder: Path, report: Report) -> None:
    """Of an import that did not end well."""
    kept = _partial(folder)
    if folder.exists():
        report.leaves(f"The base {folder.name} is complete and stays.")
    elif kept.exists():
        report.leaves(
            f"What has arrived is kept ({_used_bytes(kept) / 1e6:.1f} MB on disk): the same command goes on with it, "
            f"cloudlet base delete {folder.name} removes it."
        )


def unfinished_imports(home: Home) -> list[UnfinishedImport]:
    """What imports have fetched that have not ended, or not ended well; by name."""
    found = []
    for kept in sorted(home.bases.glob(_partial(Path("*")).name)):
        name = kept.name[1:].removesuffix(_PARTIAL)
        found.append(UnfinishedImport(name, _used_bytes(kept), home.is_locked("base", name)))
    return found


def delete(home: Home, name: str) -> int:
    """Delete a base that no server is on, and what an unfinished import has under its name.

    Gives the bytes of the host's disk that are free again. NotFound when there is neither; BaseInUse.
    """
    check_name("base", name)
    with home.lock("base", name):
        _finish_deletions(home, name)
        kept = _partial(home.bases / name)
        if kept.exists() and not (home.bases / name).exists():
            freed = _used_bytes(kept)
            discard_import(home.bases / name)
            return freed
        folder = home.base_folder(name)
        _refuse_used(home, name)
        doomed = folder.with_name(f".{name}{_DELETED}")
        folder.rename(doomed)
        try:
            # A server that was made meanwhile found the base by its name, and keeps it.
            _refuse_used(home, name)
        except errors.BaseInUse:
            doomed.rename(folder)
            raise
        freed = _used_bytes(doomed)
        if kept.exists():
            freed += _used_bytes(kept)
            discard_import(folder)
        shutil.rmtree(doomed)
        return freed


def _finish_deletions(home: Home, name: str) -> None:
    """Go on with what was broken off, of the base ``name`` and of those that nobody works on."""
    for doomed in home.bases.glob(f".*{_DELETED}"):
        other = doomed.name[1:].removesuffix(_DELETED)
        if other == name or not home.is_locked("base", other):
            shutil.rmtree(doomed, ignore_errors=True)


def _partial(folder: Path) -> Path:
    """Where the import of a base keeps what has arrived, as the engine has it."""
    return folder.with_name(f".{folder.name}{_PARTIAL}")


def _used_bytes(folder: Path) -> int:
    used = 0
    # Somebody may be at work there.
    with contextlib.suppress(FileNotFoundError):
        for file in folder.iterdir():
            used += file.stat().st_blocks * 512
    return used


def _refuse_used(home: Home, name: str) -> None:
    found = users(home, name)
    if found:
        raise errors.BaseInUse(name=name, servers=", ".join(found))
