# SPDX-License-Identifier: Apache-2.0
"""Hosts that take signed overlays only."""

from __future__ import annotations

import pytest

from cloudlet_ext.job import errors, synthesis


def test_without_a_keyring_nothing_is_taken() -> None:
    with pytest.raises(errors.KeyringMissing, match="keyring"):
        synthesis._signature_check({"require_signature": True, "keyring": None})


def test_signatures_are_looked_at_where_they_are_required_only() -> None:
    assert synthesis._signature_check({"require_signature": False, "keyring": "/keys"}) is None
    assert synthesis._signature_check({"require_signature": True, "keyring": "/keys"}) is not None
