# SPDX-License-Identifier: Apache-2.0
"""Ids of operations: a UUID that tells which host may have the operation.

The operation of a synthesis or of a base resume has the server's UUID; the server tells the host. Every other operation
has an id made here: its first eight hex digits are the CRC-32 of the host's name. Whoever has only the id then asks one
host instead of all of them. Two hosts may share a CRC, so the host is asked, never assumed.
"""

from __future__ import annotations

import uuid
import zlib


def new(host: str) -> str:
    """A random UUID (version 4) whose first eight hex digits stand for the host."""
    return f"{_mark(host)}{str(uuid.uuid4())[8:]}"


def may_be_of(operation_id: str, host: str) -> bool:
    """Whether an operation of this id can be one that :func:`new` named for the host."""
    return operation_id[:8].lower() == _mark(host)


def _mark(host: str) -> str:
    return f"{zlib.crc32(host.encode()):08x}"
