# SPDX-License-Identifier: Apache-2.0
"""Operation ids tell which host may have the operation."""

from __future__ import annotations

import uuid
import zlib

from hypothesis import given
from hypothesis import strategies as st

from cloudlet_ext import operation_id


@given(st.text(min_size=1, max_size=255))
def test_an_id_is_a_uuid_of_its_host(host: str) -> None:
    made = operation_id.new(host)
    assert str(uuid.UUID(made)) == made
    assert uuid.UUID(made).version == 4
    assert made[:8] == f"{zlib.crc32(host.encode()):08x}"
    assert operation_id.may_be_of(made, host)
    assert operation_id.may_be_of(made.upper(), host)


def test_ids_of_one_host_differ() -> None:
    assert len({operation_id.new("compute1") for _ in range(100)}) == 100


def test_another_host_is_not_asked() -> None:
    assert not operation_id.may_be_of(operation_id.new("compute1"), "compute2")
