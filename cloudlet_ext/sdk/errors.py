# SPDX-License-Identifier: Apache-2.0
"""Errors of the client side: what was asked for is not there, does not fit, or failed."""

from __future__ import annotations

from cloudlet_ext.exception import CloudletError


class ClientError(CloudletError):
    """Root of the client side's errors."""


class ExtensionMissing(ClientError):
    """The compute service answers, but knows nothing of cloudlets."""

    msg_fmt = (
        "The compute service at %(endpoint)s has no cloudlet extension: expected it to know %(path)s, it answered "
        "404. Choose another cloud or region, or ask its operator to install cloudlet-ext."
    )


class UnexpectedBody(ClientError):
    """The service answered with something else than the cloudlet API's documents."""

    msg_fmt = "The answer to %(request)s was expected to hold %(expected)s, it holds %(found)s. Are the versions equal?"


class Missing(ClientError):
    """There is nothing of this name or id."""

    msg_fmt = "There is no %(kind)s with the name or id %(name)r here. See: openstack cloudlet %(kind)s list"


class Ambiguous(ClientError):
    """Several things have this name."""

    msg_fmt = "%(count)d %(kind)ss have the name %(name)r: expected one. Give the id instead: %(ids)s"


class BaseMissing(ClientError):
    """This cloud has not the base that an overlay was made for."""

    msg_fmt = (
        "The overlay %(overlay)s was made for base %(base_id)s, which is none of the %(count)d bases of this cloud. "
        "Import it (openstack cloudlet base import), or give another overlay."
    )


class BaseUnknown(ClientError):
    """An overlay does not say for which base it was made."""

    msg_fmt = "The overlay %(overlay)s names no base. Give the base that it was made for: --base BASE"


class NotReady(ClientError):
    """An image is there, but not all of it."""

    msg_fmt = (
        "The %(kind)s %(name)s cannot be used: its image %(image_id)s is %(status)s, expected active. Wait for the "
        "operation that makes it (openstack cloudlet operation list), or make it again."
    )


class NotBase(ClientError):
    """An image lacks what a base has."""

    msg_fmt = "The image %(image_id)s is no usable base: it has no property %(missing)s. Create the base again."


class NoFlavor(ClientError):
    """No flavor has the size of the base."""

    msg_fmt = (
        "No flavor fits the base %(base)s: expected exactly %(memory_mb)s MB of RAM and %(vcpus)s vCPUs (as the guest "
        "had when it was captured) and a disk of at least %(min_disk_gb)s GB; the flavors here are %(flavors)s. Make "
        "one (openstack flavor create --ram %(memory_mb)s --vcpus %(vcpus)s --disk %(disk_gb)s NAME), or ask the "
        "operator for it."
    )


class NoNetwork(ClientError):
    """There is no network to choose."""

    msg_fmt = "Expected one network that servers can be on, this project has %(found)s. %(remedy)s"


class OverlayUrlLong(ClientError):
    """A URL does not fit into a server's metadata."""

    msg_fmt = (
        "The URL of the overlay has %(found)d characters; a server's metadata holds at most %(expected)d. Give a "
        "shorter one, or import the overlay (openstack cloudlet overlay import)."
    )


class OperationFailed(ClientError):
    """An operation ended without success. ``error`` is its own reason."""

    msg_fmt = "%(what)s %(state)s: %(error)s"


class OperationLost(ClientError):
    """The service did not tell about an operation for too long."""

    msg_fmt = (
        "Nothing was heard of operation %(operation)s for %(seconds)d s (%(reason)s). It may be going on: openstack "
        "cloudlet operation show %(operation)s"
    )


class ImageDamaged(ClientError):
    """What the image service sent is not what it says it keeps."""

    msg_fmt = "Image %(image_id)s arrived damaged: %(what)s %(found)s instead of %(expected)s. Try again."


class TransferBroken(ClientError):
    """The connection to the image service broke off."""

    msg_fmt = "Image %(image_id)s did not arrive whole: %(reason)s after %(done)d of %(expected)d bytes. Try again."


class UploadRepeated(ClientError):
    """The data of an upload were asked for twice, and cannot be read twice."""

    msg_fmt = (
        "The image service refused the data of image %(image_id)s and wanted them again (did the token expire?). "
        "Start again."
    )


# Base archives


class ArchiveError(ClientError):
    """Root of what can be wrong with a base archive."""

    exit_code = 3


class NotArchive(ArchiveError):
    """The file is no base archive."""

    msg_fmt = "%(path)s is no base archive: %(reason)s. Give a file that 'openstack cloudlet base save' has written."


class ArchiveTruncated(ArchiveError):
    """The file ends too early."""

    msg_fmt = "%(path)s ends too early: %(part)s should have %(expected)d bytes, %(found)d are there. Copy it again."


class ArchiveDamaged(ArchiveError):
    """A digest does not fit."""

    msg_fmt = "%(path)s is damaged: the SHA-256 of %(part)s is %(found)s instead of %(expected)s. Copy it again."
