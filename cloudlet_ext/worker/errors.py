# SPDX-License-Identifier: Apache-2.0
"""Errors of whole operations: base creation, overlay creation, synthesis."""

from __future__ import annotations

from cloudlet_ext.exception import CloudletError


class WorkerError(CloudletError):
    """Root of the worker layer's errors."""
