# SPDX-License-Identifier: Apache-2.0
"""Errors of the command line itself."""

from __future__ import annotations

from cloudlet_ext.exception import CloudletError


class CommandError(CloudletError):
    """Root of the command line's errors."""


class BadUsage(CommandError):
    """The words after ``cloudlet`` make no sense."""

    exit_code = 2
    msg_fmt = "%(reason)s. See: %(command)s --help"


class ProgramMissing(CommandError):
    """A program that a command hands over to is not installed."""

    exit_code = 8
    msg_fmt = "%(program)s is not installed. Install %(package)s."
