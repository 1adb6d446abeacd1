# SPDX-License-Identifier: Apache-2.0
"""Marks in a server's system metadata: how it began."""

STARTED = "cloudlet_started"
"""It took up a captured state; the value is the placement of its memory."""
ARRIVING = "cloudlet_arriving"
"""Its overlay has not arrived whole, or never will."""

ALL = (STARTED, ARRIVING)
