# SPDX-License-Identifier: Apache-2.0
"""Channel: the conversation of a worker process with nova-compute, in JSON lines.

To nova-compute: ``{"event": NAME, ...}``; the events are ``stage``, ``progress``, ``note``, ``trouble`` (the stage
could not do all of its part), ``ready`` (a domain is waited for), ``running``, ``done`` (with ``result``), ``failed``
(with ``error`` and ``kind``). From it: one job, then ``{"control": NAME, ...}``, where the job needs it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from cloudlet_ext.job import errors
from cloudlet_ext.worker.report import Report

_PROGRESS_INTERVAL_S = 0.5


class Channel:
    """One end of the conversation; events may come from any thread."""

    def __init__(self, source: TextIO, sink: TextIO) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._controls: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._source = source
        self._last_word: Path | None = None

    def read_job(self) -> dict[str, Any]:
        """The job, which is the first line; :class:`errors.BadJob`."""
        line = self._source.readline()
        try:
            job = json.loads(line)
        except ValueError as failure:
            raise errors.BadJob(field="JSON", reason=str(failure)) from failure
        if not isinstance(job, dict) or not isinstance(job.get("type"), str):
            raise errors.BadJob(field="type", reason=f"found {str(job)[:80]}")
        if job.get("last_word"):
            self._last_word = Path(job["last_word"])
        threading.Thread(target=self._listen, name="controls", daemon=True).start()
        return job

    def end(self, name: str, /, **facts: Any) -> None:
        """The last event, kept in a file for a nova-compute that was restarted meanwhile."""
        if self._last_word is not None:
            self._keep(self._last_word, json.dumps({"event": name, **facts}, default=str) + "\n")
        self.event(name, **facts)

    def _keep(self, path: Path, text: str) -> None:
        partial = path.with_suffix(".partial")
        try:
            partial.write_text(text)
            partial.rename(path)
        except OSError as failure:
            # What was done is done all the same, and who listens is told.
            sys.stderr.write(f"The last word is not kept in {path}: {failure}\n")
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def event(self, name: str, /, **facts: Any) -> None:
        """Tell nova-compute; nobody may listen any more."""
        line = json.dumps({"event": name, **facts}, default=str)
        with self._lock:
            try:
                self._sink.write(line + "\n")
                self._sink.flush()
            except (BrokenPipeError, ValueError):
                pass

    def wait_control(self, name: str, timeout_s: float) -> dict[str, Any]:
        """What nova-compute says next, which must be ``name``; :class:`errors.NoAnswer`."""
        try:
            control = self._controls.get(timeout=timeout_s)
        except queue.Empty:
            control = None
        if control is None or control.get("control") != name:
            raise errors.NoAnswer(what=name)
        return control

    def _listen(self) -> None:
        for line in self._source:
            try:
                self._controls.put(json.loads(line))
            except ValueError:
                continue
        self._controls.put(None)


class ChannelReport(Report):
    """Tells nova-compute how far an operation is."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._told = 0.0

    def stage(self, name: str) -> None:
        """A stage begins."""
        super().stage(name)
        self._told = 0.0
        self._channel.event("stage", name=name)

    def progress(self, done: int, total: int) -> None:
        """``done`` of ``total`` bytes of the present stage; not every call is told."""
        now = time.monotonic()
        if now - self._told >= _PROGRESS_INTERVAL_S or done >= total:
            self._told = now
            self._channel.event("progress", done=done, total=total)

    def note(self, text: str) -> None:
        """Something that a person may want to read."""
        self._channel.event("note", text=text)

    def trouble(self, text: str) -> None:
        """The present stage could not do all of its part; the operation goes on."""
        self._channel.event("trouble", text=text)
