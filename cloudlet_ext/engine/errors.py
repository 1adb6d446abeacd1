# SPDX-License-Identifier: Apache-2.0
"""Errors of the engine: files, formats, sources."""

from __future__ import annotations

from cloudlet_ext.exception import CloudletError


class EngineError(CloudletError):
    """Root of the engine's errors."""


class FormatError(EngineError):
    """A file or structure is not what it says it is."""

    exit_code = 3


# Formats: digest, index, table, container, overlay, base, base file, signature.


class WrongMagic(FormatError):
    """The file does not begin as it should."""

    msg_fmt = (
        "%(path)s is not a cloudlet %(expected)s: it begins with %(found)r. Give a file that cloudlet has written."
    )


class UnsupportedVersion(FormatError):
    """The file is of a newer version."""

    msg_fmt = "%(path)s has format version %(found)d; this program knows version %(expected)d. Use a newer cloudlet."


class UnknownFeature(FormatError):
    """The file uses something that this version cannot read."""

    msg_fmt = "%(path)s needs %(features)s, which this program does not know. Use a newer cloudlet."


class Truncated(FormatError):
    """The file ends too early."""

    msg_fmt = "%(path)s ends too early: %(place)s should have %(expected)d bytes, %(found)d are there. Fetch it again."


class Damaged(FormatError):
    """A digest does not fit."""

    msg_fmt = "%(path)s is damaged at %(place)s: digest %(found)s instead of %(expected)s. Fetch it again."


class Malformed(FormatError):
    """A value is not allowed."""

    msg_fmt = "%(path)s is malformed at %(place)s: %(reason)s."


class WrongBase(EngineError):
    """The overlay belongs to another base."""

    exit_code = 5
    msg_fmt = "%(path)s was made for base %(expected)s, but the base here is %(found)s. Import that base first."


class WrongLayout(EngineError):
    """The overlay describes other regions than its base has."""

    exit_code = 5
    msg_fmt = (
        "%(path)s does not fit its base: %(place)s is %(found)s in the overlay and %(expected)s in the base. "
        "Do not use the overlay: it was not made for this base."
    )


class DiskNeeded(FormatError):
    """A base file was given without the disk that it needs, or with one that it does not."""

    msg_fmt = "%(path)s: the base's disk is in the file: %(has_disk)s. Give its image if, and only if, it is not."


class PartMissing(FormatError):
    """A file of a base is not there."""

    msg_fmt = "The base %(path)s has no %(part)s. Import or create the base again."


class FileMissing(EngineError):
    """A file is not there."""

    exit_code = 4
    msg_fmt = "There is no file %(path)s."


class OutputExists(EngineError):
    """The name is taken."""

    exit_code = 9
    msg_fmt = "%(path)s exists already. Delete it, or choose another name."


class OutputBusy(EngineError):
    """Another process writes the same output."""

    exit_code = 9
    msg_fmt = "%(path)s is being written by another process. Wait until it is done, or choose another name."


class DiskFull(EngineError):
    """There is no room."""

    exit_code = 8
    msg_fmt = "No space left on the device of %(path)s. Make room and try again; nothing was left behind."


class NoRoom(DiskFull):
    """There will not be room, which is known before anything is written."""

    msg_fmt = "%(path)s needs %(needed)d bytes, and %(free)d are free on its device. Make room and try again."


class TooLarge(EngineError):
    """What was to be written could not be read again."""

    exit_code = 8
    msg_fmt = "%(path)s would have %(found)d %(what)s, and at most %(limit)d can be read."


class SignatureError(EngineError):
    """Root of what can be wrong with a signature."""

    exit_code = 11


class Unsigned(SignatureError):
    """A signature was required and there is none."""

    msg_fmt = "%(path)s is not signed. Ask its maker to sign it."
    hint = "Or do not require a signature."


class UnknownSigner(SignatureError):
    """The signature is by a key that is not trusted."""

    msg_fmt = "%(path)s is signed by key %(signer)s, which is not in %(keyring)s. Add that key if you trust it."


class BadSignature(SignatureError):
    """The signature is wrong."""

    msg_fmt = "The signature of %(path)s by key %(signer)s does not fit its content. Do not use the file."


class BadKey(SignatureError):
    """A key file cannot be used."""

    msg_fmt = "%(path)s is no usable Ed25519 key: %(reason)s. Make one with: openssl genpkey -algorithm ed25519"


# Disk images


class NotQcow2(FormatError):
    """The file is no qcow2 image."""

    msg_fmt = (
        "%(path)s is not a qcow2 image: expected it to begin with %(expected)s, found %(found)s. "
        "Convert it with qemu-img convert -O qcow2, or give its format."
    )


class Qcow2Unsupported(FormatError):
    """The image uses something that is not read here."""

    msg_fmt = "%(path)s cannot be read: it has %(feature)s. Convert it with qemu-img convert -O qcow2."


class Qcow2Corrupt(FormatError):
    """A field or table entry of the image cannot be true."""

    msg_fmt = "%(path)s is damaged: %(place)s is %(found)s, expected %(expected)s. Look at it with qemu-img check."


class LayersDiffer(FormatError):
    """Images that lie over each other have different sizes."""

    msg_fmt = "%(path)s has %(found)s bytes, but %(top)s, which lies over it, has %(top_bytes)s. Resize one of them."


class ChunkOutOfRange(EngineError):
    """A chunk was asked for or given that the image does not have."""

    msg_fmt = "%(path)s has chunks 0 to %(chunks)s - 1; chunk %(number)s was asked for."


class ChunkNotAllocated(EngineError):
    """A chunk was asked for that only the backing image tells."""

    msg_fmt = "Chunk %(number)s is not in %(path)s but in its backing image %(backing)s, which is not part of the read."


class FillNeeded(EngineError):
    """A cluster was written in part and nothing was given to complete it from."""

    msg_fmt = (
        "%(path)s: cluster %(cluster)s was written in part. Give the content of the backing image %(backing)s as fill."
    )


class RawUnaligned(FormatError):
    """The size of a raw image is no multiple of the chunk size."""

    msg_fmt = "%(path)s has %(found)s bytes, which is no multiple of 4096. Pad it with qemu-img resize."


# Sources and fetching


class SourceError(EngineError):
    """The bytes of a file could not be had from where they are kept."""

    exit_code = 6


class SourceNotFound(SourceError):
    """There is no such file at the source."""

    exit_code = 4
    msg_fmt = "%(source)s does not exist (%(reason)s). Check the path or URL."


class SourceRefused(SourceError):
    """A URL, or where it redirects to, is not allowed by the policy."""

    msg_fmt = "%(source)s is refused: %(reason)s."


class SourceUntrusted(SourceError):
    """The server's certificate is not trusted."""

    msg_fmt = (
        "%(source)s: the server's certificate is not trusted (%(reason)s). "
        "Give the certificate of its authority, or check the host name."
    )


class SourceChanged(SourceError):
    """The file at the source is not the one that was opened."""

    msg_fmt = "%(source)s changed while it was read: %(what)s was %(expected)s and is now %(found)s. Start again."


class SourceClosed(SourceError):
    """The source was closed while it was read."""

    msg_fmt = "%(source)s was closed."


class UnexpectedAnswer(SourceError):
    """The server answered, but not as a server of files does."""

    msg_fmt = "%(source)s answered %(found)s where %(expected)s was expected."


class WrongRange(UnexpectedAnswer):
    """The server sent other bytes than were asked for; it must support Range requests."""


class ShortRead(SourceError):
    """The file ends before the bytes that were asked for."""

    exit_code = 3
    msg_fmt = (
        "%(source)s is too short: %(length)d bytes at offset %(offset)d are needed, "
        "it ends at %(size)s. It may have been cut off; fetch it again."
    )


class SourceInterrupted(SourceError):
    """The transfer broke off; the rest may be had by asking again."""

    msg_fmt = "%(source)s broke off at byte %(offset)d: %(reason)s."


class SourceTooSlow(SourceInterrupted):
    """The source sends less than the least acceptable rate."""


class SourceGaveUp(SourceError):
    """The source broke off and did not come back within the limit. ``cause`` is the last error."""

    msg_fmt = (
        "gave up after %(attempts)d attempts in %(seconds).1f s; the last one: %(cause)s "
        "Check the network and the server, then start again."
    )


class FetchClosed(EngineError):
    """Content was waited for and its fetcher was closed."""

    exit_code = 6
    msg_fmt = "fetching from %(source)s was stopped."


class SourceUnreadable(SourceError):
    """The file exists and cannot be read."""

    msg_fmt = "%(source)s cannot be read: %(reason)s."
