# SPDX-License-Identifier: Apache-2.0
"""Errors of jobs: the image service, the cache of bases, the conversation with nova-compute."""

from __future__ import annotations

from cloudlet_ext.exception import CloudletError


class JobError(CloudletError):
    """Anything that a job can meet beside errors of the layers below."""

    msg_fmt = "The job failed: %(reason)s."


class BadJob(JobError):
    """The job makes no sense."""

    msg_fmt = "The job has no usable %(field)s: %(reason)s."


class ImageServiceFailed(JobError):
    """The image service refused, or did not answer."""

    msg_fmt = "The image service failed at image %(image)s: %(reason)s."


class ImageUnsuitable(JobError):
    """An image is not what the operation needs."""

    msg_fmt = "The image %(image)s cannot be used: %(reason)s."


class NoAnswer(JobError):
    """nova-compute went away while the job waited for it."""

    msg_fmt = "nova-compute ended the operation while it waited for %(what)s."


class OverlayTooLarge(JobError):
    """An overlay is larger than the operator allows."""

    msg_fmt = "The overlay has %(found)s bytes, at most %(limit)s are allowed ([cloudlet] max_overlay_mb)."


class KeyringMissing(JobError):
    """Signatures are required, and nobody's count."""

    msg_fmt = (
        "Overlays must be signed here ([cloudlet] require_signed_overlays), and this host has no keyring that tells by "
        "whom. Tell your operator to set [cloudlet] keyring."
    )


class BaseMismatch(JobError):
    """Base and overlay, or base and image, do not belong together."""

    msg_fmt = "%(what)s is of base %(found)s, expected base %(expected)s."


class NotPrivileged(JobError):
    """nova-compute's user may not make the network of a scratch guest."""

    msg_fmt = (
        "The working set cannot be recorded: %(helper)s does not start a daemon for its network (%(reason)s; the log "
        'of nova-compute may say more). Let it, as the installation guide tells ("Recording"), or leave the probe out.'
    )


class NotRecordable(JobError):
    """This host runs no scratch guest."""

    msg_fmt = "The working set cannot be recorded here: %(reason)s. Or leave the probe out."


class NotRecorded(JobError):
    """What an overlay needs first could not be recorded."""

    msg_fmt = (
        "The working set could not be recorded: the synthesised guest did not answer the probe within "
        "%(timeout_s).0f s (%(reason)s). Give a probe that the server answers now, or leave it out."
    )
