# SPDX-License-Identifier: Apache-2.0
"""Errors of the engine: files, formats, sources."""

from __future__ import annotations

from cloudlet_ext.exception import CloudletError


class EngineError(CloudletError):
    """Root of the engine's errors."""


class FormatError(EngineError):
    """A file or structure is not what it says it is."""

    exit_code = 3
