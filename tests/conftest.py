# SPDX-License-Identifier: Apache-2.0
"""What all tests share."""

import os

import hypothesis

# The same examples in every run of the gate: a failure there is one that can be repeated.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")
