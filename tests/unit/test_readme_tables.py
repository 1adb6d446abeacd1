# SPDX-License-Identifier: Apache-2.0
"""The README shows what the committed results of the benchmarks say."""

from __future__ import annotations

from benchmarks import readme


def test_the_tables_are_those_of_the_results() -> None:
    text = readme.README.read_text()
    assert readme.filled(text, readme.RESULTS) == text, "run python -m benchmarks.readme"
