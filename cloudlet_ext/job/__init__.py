# SPDX-License-Identifier: Apache-2.0
"""Jobs: what a worker process does for nova-compute, one operation each.

A job is one JSON object on standard input; what happens is told in JSON lines on standard output. Guest bytes are
touched here only: a crash, an out-of-memory kill or a cancellation ends one operation and nothing else.
"""
