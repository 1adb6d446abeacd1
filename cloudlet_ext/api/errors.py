# SPDX-License-Identifier: Apache-2.0
"""Errors that the REST API answers with; each knows its HTTP status."""

from __future__ import annotations

from typing import ClassVar

from cloudlet_ext.exception import CloudletError


class ApiError(CloudletError):
    """Root of the API's errors."""

    status: ClassVar[int] = 500


class BadRequest(ApiError):
    """What was asked for cannot be meant."""

    status = 400


class Forbidden(ApiError):
    """It may not be done."""

    status = 403


class Conflict(ApiError):
    """It cannot be done as things are."""

    status = 409


class TooLarge(ApiError):
    """A quota or limit is passed."""

    status = 413


class Unavailable(ApiError):
    """Something that is needed does not work now."""

    status = 503


# The request


class NotJson(BadRequest):
    """The body is no JSON."""

    msg_fmt = "The body of the request is not JSON: %(reason)s."


class SchemaRefused(BadRequest):
    """The body or the query does not fit the schema."""

    msg_fmt = "Invalid input for %(what)s: %(reason)s."


class WrongProjectInUrl(BadRequest):
    """The URL names a project that the token is not for."""

    msg_fmt = "Malformed request URL: its project %(found)r is not the token's project %(expected)r."


class VersionMalformed(BadRequest):
    """The version header cannot be read."""

    msg_fmt = (
        "The version %(found)r in the header OpenStack-API-Version is malformed; 'cloudlet MAJOR.MINOR' or "
        "'cloudlet latest' is expected."
    )


class VersionUnknown(ApiError):
    """There is no such version."""

    status = 406
    msg_fmt = "Version %(found)s of the cloudlet API is not there. Minimum is %(least)s and maximum is %(most)s."


class NoSuchUrl(ApiError):
    """There is nothing at this URL."""

    status = 404
    msg_fmt = "The resource could not be found."


class MethodNotAllowed(ApiError):
    """There is something at this URL, but not for this method."""

    status = 405
    msg_fmt = "%(method)s is not allowed here; allowed are: %(allowed)s."


# Bases, overlays, operations


class NotFound(ApiError):
    """It is not there, or the user may not know that it is."""

    status = 404
    msg_fmt = "There is no %(what)s %(id)s."


class ImageForbidden(Forbidden):
    """Glance does not allow it."""

    msg_fmt = "The image service does not allow this for image %(id)s: %(reason)s."


class ImageBusy(Conflict):
    """Glance says that it is in use."""

    msg_fmt = "Image %(id)s is in use: %(reason)s. Try again when it is not."


class ImageProtected(Conflict):
    """The image must not be deleted."""

    msg_fmt = "Image %(id)s of the %(what)s is protected. Take its protection away first (openstack image set)."


class ImageQuotaExceeded(TooLarge):
    """Glance's quota is used up."""

    msg_fmt = "A quota of the image service is passed: %(reason)s. Delete images that are not needed any more."


class ImageRefused(BadRequest):
    """Glance does not take the request."""

    msg_fmt = "The image service refuses the request: %(reason)s."


class ImageServiceDown(Unavailable):
    """Glance cannot be reached."""

    msg_fmt = "The image service does not answer. Try again later."


class ImageNotActive(Conflict):
    """The image is not complete."""

    msg_fmt = "The %(what)s %(id)s is %(found)s, it must be active. Wait until it is complete, or make it again."


class OperationEnded(Conflict):
    """It is too late to cancel."""

    msg_fmt = "Operation %(id)s has ended (%(state)s); only an operation that is queued or running can be cancelled."


class OperationNotBegun(Conflict):
    """No host has it yet."""

    msg_fmt = "Operation %(id)s has not reached a compute host yet. Delete the server to cancel it."


class HostUnknown(ApiError):
    """There is no such compute host."""

    status = 404
    msg_fmt = "There is no compute host %(host)s."


class HostDown(Unavailable):
    """The compute host is not there."""

    msg_fmt = "The compute host of %(what)s is down. Try again when it is up."


class HostSilent(ApiError):
    """The compute host did not answer in time."""

    status = 504
    msg_fmt = (
        "The compute host of %(what)s did not answer within %(seconds)s s. Try again later; if it stays so, ask your "
        "operator whether nova-compute runs with the cloudlet driver there."
    )


class NoHostUp(Unavailable):
    """There is no compute host for the work."""

    msg_fmt = (
        "No compute host is up, or none answers. Try again later; if it stays so, ask your operator whether "
        "nova-compute runs with the cloudlet driver."
    )


# Servers


class ServerWrongState(Conflict):
    """The server is in a state in which this cannot be done."""

    msg_fmt = "Cannot '%(action)s' server %(id)s while it is in %(attribute)s %(found)s; expected: %(expected)s."


class ServerLocked(Conflict):
    """The server is locked."""

    msg_fmt = "Server %(id)s is locked. Unlock it first."


class ServerNotLocal(Conflict):
    """A disk of the server is not an ordinary local one."""

    msg_fmt = (
        "Server %(id)s has %(what)s. Only servers whose one disk is a local file of the compute host can be captured: "
        "use a server that was started from an image, without volumes, ephemeral disks or swap."
    )


class ServerUnmovable(Conflict):
    """The server has hardware whose state stays on its host."""

    msg_fmt = (
        "Server %(id)s has %(found)s, and can be neither captured nor resumed with it. Use a server of a flavor and an "
        "image without."
    )


class ServerNotEnded(Conflict):
    """Its host cannot do what should follow the capture."""

    msg_fmt = (
        "The compute host of server %(id)s is not set up to %(how)s servers after a capture. Leave on-finish out, and "
        "%(how)s the server when the overlay is complete, or ask your operator to set [service_user] there."
    )


class ServerHasNoBase(Conflict):
    """The server was not started from a base."""

    msg_fmt = (
        "Server %(id)s was not started from a base, so there is nothing that an overlay could differ from. Make a base "
        "of a server (cloudlet-base), create a server from that base's image, change it, and try again."
    )


class NotABase(BadRequest):
    """The image is no base."""

    msg_fmt = (
        "Image %(id)s is not a base: its property cloudlet_type is %(found)r, 'base' is expected. Give a base as image."
    )


class BaseUnnamed(BadRequest):
    """A base does not tell which one it is."""

    msg_fmt = (
        "Image %(id)s does not tell which base it is: its property cloudlet_base_id is %(found)r, 64 hexadecimal "
        "digits are expected. It would be booted, not resumed. Make or import the base again, or take the cloudlet_ "
        "properties off the image to boot it."
    )


class MemoryMissing(BadRequest):
    """The memory image of a base is gone, or not for this user."""

    msg_fmt = (
        "The memory image %(memory)s of base %(id)s is not there, or not for you. Have it shared with you as the base "
        "is, or make the base again."
    )


class MemoryOfAnother(BadRequest):
    """An image has the properties of a base, and another disk."""

    msg_fmt = (
        "Image %(id)s has the properties of a base, but its memory image %(memory)s belongs to image %(found)s: with "
        "another disk the guest would be damaged. Give that image, or take the cloudlet_ properties off this one to "
        "boot it."
    )


class NotAnOverlay(BadRequest):
    """The image is no overlay."""

    msg_fmt = "Image %(id)s is not an overlay: its property cloudlet_type is %(found)r, 'overlay' is expected."


class NoBaseImage(BadRequest):
    """An overlay is given without a base."""

    msg_fmt = "An overlay needs a base image to be synthesised with: give imageRef (a server on a volume has none)."


class WrongBase(Conflict):
    """The overlay belongs to another base."""

    msg_fmt = (
        "Overlay %(overlay)s was made for base %(expected)s, but image %(image)s is base %(found)s. Give the image of "
        "the base that it was made for."
    )


class FlavorUnfit(BadRequest):
    """The flavor is not that of the base."""

    msg_fmt = (
        "Flavor %(flavor)s has %(found)s, but base %(image)s was captured with %(expected)s and needs %(relation)s. "
        "Choose a flavor that fits."
    )


class DevicesUnfit(BadRequest):
    """The server would have other devices than the captured one."""

    msg_fmt = (
        "A server of base %(image)s must have %(expected)s, as the captured one had, but would have %(found)s. Change "
        "the request; volumes and network cards can be attached when the server is ACTIVE."
    )


class FlavorUnmovable(BadRequest):
    """The flavor has hardware that no captured state can be loaded into."""

    msg_fmt = (
        "With flavor %(flavor)s and base %(image)s a server would have %(found)s, and no captured state can be resumed "
        "with it. Choose another flavor."
    )


class OverlayTooLarge(TooLarge):
    """The overlay is larger than allowed."""

    msg_fmt = "Overlay %(overlay)s has %(found)s bytes; at most %(limit)s are allowed here."


# Overlay sources


class SourceMalformed(BadRequest):
    """The overlay's URL cannot be used."""

    msg_fmt = "%(source)r cannot be used as overlay_url: %(reason)s. https://HOST/PATH or glance:IMAGE_ID is expected."


class SourceNotAllowed(Forbidden):
    """The overlay's URL is not allowed here."""

    msg_fmt = "%(source)r is not an allowed source of overlays here; allowed are: %(allowed)s."


class SourceAddressRefused(Forbidden):
    """The overlay's URL leads to a place that must not be reached."""

    msg_fmt = "%(source)r is refused: the address %(address)s of its host is %(reason)s."


class SourceUnresolved(BadRequest):
    """The overlay's URL leads nowhere."""

    msg_fmt = "The host of %(source)r has no address: %(reason)s. Check the name."


class SourceRuleMalformed(CloudletError):
    """An entry of the option overlay_sources cannot be used."""

    msg_fmt = (
        "%(entry)r in [cloudlet] overlay_sources is not understood: expected 'glance:', 'https:', 'http:' or "
        "'https://HOST[:PORT][/FOLDER/]'."
    )
