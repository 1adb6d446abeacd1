# SPDX-License-Identifier: Apache-2.0
"""Errors of whole operations: base creation, overlay creation, synthesis."""

from __future__ import annotations

from cloudlet_ext.exception import CloudletError


class WorkerError(CloudletError):
    """Root of the worker layer's errors."""


class NameInvalid(WorkerError):
    """A name that cannot be the name of a folder."""

    exit_code = 2
    msg_fmt = (
        "%(name)r is not a usable name for a %(what)s: letters, digits, '.', '_' and '-' are expected, at most 64, "
        "beginning with a letter or a digit."
    )


class NameTaken(WorkerError):
    """There is something of this name already."""

    exit_code = 9
    msg_fmt = "There is a %(what)s named %(name)s already. Choose another name, or delete that one first."


class NotFound(WorkerError):
    """There is nothing of this name."""

    exit_code = 4
    msg_fmt = "There is no %(what)s %(name)s. There are: %(known)s."


class Busy(WorkerError):
    """Somebody else works on it now."""

    exit_code = 9
    msg_fmt = "The %(what)s %(name)s is in use by another operation (process %(pid)s). Wait for it, or end it."


class BaseInUse(WorkerError):
    """Servers run on this base."""

    exit_code = 9
    msg_fmt = "The base %(name)s is in use by: %(servers)s. Stop these servers first."


class BaseMissing(WorkerError):
    """No base here has the identity that an overlay names."""

    exit_code = 5
    msg_fmt = (
        "The overlay %(overlay)s was made for base %(base_id)s, which is not here. Bases here: %(known)s. "
        "Import that base first (cloudlet base import)."
    )


class ProbeInvalid(WorkerError):
    """A probe that is not understood."""

    exit_code = 2
    msg_fmt = (
        "%(text)r is not a probe: expected tcp:PORT, http://:PORT/PATH, console:TEXT or command:COMMAND LINE "
        "(ports are the guest's)."
    )


class ProbeTimedOut(WorkerError):
    """The guest did not answer in time."""

    exit_code = 10
    msg_fmt = "The server %(name)s did not answer to %(probe)s within %(timeout_s).0f s; last: %(last)s."


class ServerGone(WorkerError):
    """The server's QEMU has ended."""

    exit_code = 7
    msg_fmt = "The server %(name)s has ended: %(reason)s."


class ForwardFailed(WorkerError):
    """A port could not be forwarded."""

    exit_code = 8
    msg_fmt = "Port %(host)s of this host could not be forwarded to port %(guest)s of %(name)s: %(reason)s."


class PlacementImpossible(WorkerError):
    """A placement was asked for that the rest of the request excludes."""

    exit_code = 2
    msg_fmt = "Placement %(placement)s cannot be used: %(reason)s."


class SourceLost(WorkerError):
    """The overlay stopped coming and did not come back."""

    exit_code = 6
    msg_fmt = (
        "The overlay %(overlay)s stopped arriving and did not come back: %(reason)s. A part of the server's memory or "
        "disk is missing."
    )
    hint = "The server was removed. Try again."


class LayoutMismatch(WorkerError):
    """Base and overlay do not have the same regions."""

    exit_code = 5
    msg_fmt = "The overlay %(overlay)s describes other regions than its base: expected %(expected)s, found %(found)s."
