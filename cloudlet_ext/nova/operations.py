# SPDX-License-Identifier: Apache-2.0
"""Operations: what this compute host does, or did, for somebody; kept in files, so that a restart loses none."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = "queued", "running", "succeeded", "failed", "cancelled"
ENDED = (SUCCEEDED, FAILED, CANCELLED)
_NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.json")
_RATE_WINDOW_S = 5.0


def now() -> str:
    """The time, ISO 8601, UTC."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Operation:
    """One operation. Users see the fields up to ``updated_at``; ``worker`` is the process: pid, start ticks."""

    id: str
    type: str
    project_id: str | None
    user_id: str | None
    host: str
    server_id: str | None = None
    state: str = QUEUED
    stage: str | None = None
    stages: list[dict[str, str]] = field(default_factory=list)
    done_bytes: int = 0
    total_bytes: int = 0
    rate_bytes_per_s: float | None = None
    estimate_s: float | None = None
    images: dict[str, str] = field(default_factory=dict)
    error: str | None = None
    result: dict[str, Any] | None = None
    created_at: str = field(default_factory=now)
    updated_at: str = field(default_factory=now)
    worker: tuple[int, int] | None = None

    def shown(self) -> dict[str, Any]:
        """What users see."""
        values = asdict(self)
        del values["worker"]
        return values

    @property
    def has_ended(self) -> bool:
        """Whether nothing will happen any more."""
        return self.state in ENDED


class _Pace:
    """Rate of a stage, over the last seconds."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def count(self, operation: Operation) -> None:
        at = time.monotonic()
        self._seen = [entry for entry in self._seen if at - entry[0] <= _RATE_WINDOW_S]
        self._seen.append((at, operation.done_bytes))
        first_at, first_bytes = self._seen[0]
        elapsed = at - first_at
        if elapsed < 0.5 or operation.done_bytes < first_bytes:
            return
        rate = (operation.done_bytes - first_bytes) / elapsed
        operation.rate_bytes_per_s = round(rate, 1)
        left = operation.total_bytes - operation.done_bytes
        operation.estimate_s = round(left / rate, 1) if rate > 0 and left >= 0 else None


class OperationStore:
    """The operations of this host, in ``folder``; safe for threads."""

    def __init__(self, folder: Path, keep_s: float) -> None:
        self._folder, self._keep_s = folder, keep_s
        self._lock = threading.RLock()
        self._known: dict[str, Operation] = {}
        self._paces: dict[str, _Pace] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._load()

    def add(self, operation: Operation) -> None:
        """A new operation (or a new attempt of one of the same id); OSError when there is no room for its file."""
        with self._lock:
            self._forget_old()
            self._known[operation.id] = operation
            self._save(operation)

    def begun(self, operation: Operation, worker: tuple[int, int]) -> None:
        """Its worker runs; OSError when that cannot be written: after a restart nobody would know of the worker."""
        with self._lock:
            operation.state, operation.worker, operation.updated_at = RUNNING, worker, now()
            self._save(operation)

    def get(self, operation_id: str) -> Operation | None:
        """An operation."""
        with self._lock:
            return self._known.get(operation_id)

    def find(self, server_id: str | None = None, project_id: str | None = None) -> list[Operation]:
        """Operations of a server and of a project (None: of any), oldest first."""
        with self._lock:
            found = [
                one
                for one in self._known.values()
                if server_id in (None, one.server_id) and project_id in (None, one.project_id)
            ]
        return sorted(found, key=lambda one: (one.created_at, one.id))

    @contextlib.contextmanager
    def changing(self, operation: Operation, *, keep: bool = True) -> Iterator[Operation]:
        """Change an operation; on disk too, unless ``keep`` is false (progress would be a write for each).

        No room on the disk ends no operation: a restart knows less of it then.
        """
        with self._lock:
            yield operation
            operation.updated_at = now()
            if keep:
                self._try_to_save(operation)

    def stage(self, operation: Operation, name: str) -> None:
        """A stage begins."""
        with self.changing(operation):
            operation.stage = name
            operation.stages.append({"name": name, "started_at": now()})
            operation.done_bytes = operation.total_bytes = 0
            operation.rate_bytes_per_s = operation.estimate_s = None
            self._paces[operation.id] = _Pace()

    def progress(self, operation: Operation, done: int, total: int) -> None:
        """So much of the stage is done."""
        with self.changing(operation, keep=False):
            operation.done_bytes, operation.total_bytes = done, total
            self._paces.setdefault(operation.id, _Pace()).count(operation)

    def end(self, operation: Operation, state: str, error: str | None = None, result: Any = None) -> None:
        """It has ended; only the first end counts."""
        with self.changing(operation):
            if operation.has_ended:
                return
            operation.state, operation.error, operation.result = state, error, result
            operation.rate_bytes_per_s = operation.estimate_s = None
            self._paces.pop(operation.id, None)

    def _save(self, operation: Operation) -> None:
        path = self._folder / f"{operation.id}.json"
        partial = path.with_suffix(".partial")
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "w") as file:
                json.dump(asdict(operation), file)
            partial.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise

    def _try_to_save(self, operation: Operation) -> None:
        try:
            self._save(operation)
        except OSError as failure:
            LOG.error("Operation %s is not kept in %s: %s", operation.id, self._folder, failure)
            if operation.has_ended:
                # What an earlier file says would have a restart undo what has been done.
                self._remove(operation)

    def _remove(self, operation: Operation) -> None:
        try:
            (self._folder / f"{operation.id}.json").unlink(missing_ok=True)
        except OSError as failure:
            LOG.error("The file of operation %s cannot be removed: %s", operation.id, failure)

    def _load(self) -> None:
        for path in self._folder.iterdir():
            if not _NAME.fullmatch(path.name):
                continue
            try:
                values = json.loads(path.read_text())
                worker = values.pop("worker", None)
                operation = Operation(**values, worker=tuple(worker) if worker else None)
            except (OSError, ValueError, TypeError) as failure:
                LOG.warning("The operation in %s cannot be read and is left out: %s", path, failure)
                continue
            self._known[operation.id] = operation

    def _forget_old(self) -> None:
        oldest = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=self._keep_s)
        for operation in list(self._known.values()):
            at = dt.datetime.fromisoformat(operation.updated_at.replace("Z", "+00:00"))
            if operation.has_ended and at < oldest:
                del self._known[operation.id]
                self._remove(operation)
