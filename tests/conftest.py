# SPDX-License-Identifier: Apache-2.0
"""What all tests share."""

import os
import signal

import hypothesis

# The same examples in every run of the gate: a failure there is one that can be repeated.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")

# A shell starts what runs in its background with SIGINT ignored, nohup with SIGHUP ignored, and every process that is
# started then ignores them, too: commands that a test interrupts would go on. What has a handler is not handed down.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, lambda *_: None)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)
