# SPDX-License-Identifier: Apache-2.0
"""The image service, with the rights of whoever asked for the operation."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from glanceclient import Client
from glanceclient import exc as glance_exc
from keystoneauth1 import exceptions as auth_exc
from keystoneauth1 import session as auth_session
from keystoneauth1 import token_endpoint

from cloudlet_ext.engine.output import no_space_named
from cloudlet_ext.engine.source_policy import SourcePolicy
from cloudlet_ext.job import errors

Progress = Callable[[int, int], None]
_FAILURES = (glance_exc.HTTPException, glance_exc.BaseException, auth_exc.ClientException, OSError)
_PIECE_BYTES = 1 << 20


class Images:
    """A client of the image service at ``endpoint``.

    ``service_token`` lets a user's token that expires meanwhile be accepted.
    """

    def __init__(self, endpoint: str, token: str, service_token: str | None, ca_file: str | None) -> None:
        headers = {"X-Service-Token": service_token} if service_token else {}
        self._endpoint = endpoint.rstrip("/").removesuffix("/v2")
        self._headers = {"X-Auth-Token": token, **headers}
        self._ca_file = ca_file
        session = auth_session.Session(
            auth=token_endpoint.Token(self._endpoint, token), verify=ca_file or True, additional_headers=headers
        )
        self._client = Client("2", session=session, endpoint_override=self._endpoint)

    @classmethod
    def of_job(cls, job: dict[str, Any]) -> Images:
        """From ``job["images"]``; :class:`errors.BadJob`."""
        known = job.get("images")
        if not isinstance(known, dict) or not known.get("endpoint") or not known.get("token"):
            raise errors.BadJob(field="images", reason="endpoint and token are needed")
        return cls(known["endpoint"], known["token"], known.get("service_token"), known.get("ca_file"))

    def url(self, image: str) -> str:
        """Where the content of an image can be read, by ranges. :class:`errors.BadJob`."""
        return f"{self._endpoint}/v2/images/{_id(image)}/file"

    def policy(self) -> SourcePolicy:
        """How the engine may read :meth:`url`."""
        return SourcePolicy(headers=tuple(self._headers.items()), ca_file=self._ca_file)

    def show(self, image: str) -> dict[str, Any]:
        """Its record."""
        try:
            return dict(self._client.images.get(_id(image)))
        except _FAILURES as failure:
            raise _failed(image, failure) from failure

    def update(self, image: str, **properties: str | int) -> None:
        """Set properties."""
        try:
            self._client.images.update(image, **properties)
        except _FAILURES as failure:
            raise _failed(image, failure) from failure

    def upload(self, image: str, path: Path, progress: Progress) -> None:
        """Give a queued image its content."""
        try:
            with path.open("rb") as file:
                self._client.images.upload(image, _Watched(file, path.stat().st_size, progress))
        except _FAILURES as failure:
            raise _failed(image, failure) from failure

    def download(self, image: str, path: Path, progress: Progress) -> None:
        """Write the content of an image to ``path``; it is checked against the service's digest."""
        try:
            body = self._client.images.data(_id(image))
            if body is None:
                raise errors.ImageServiceFailed(image=image, reason="the image has no content")
            with no_space_named(path), path.open("wb") as file:
                done, total = 0, len(body)
                for piece in body:
                    file.write(piece)
                    done += len(piece)
                    progress(done, total)
        except _FAILURES as failure:
            raise _failed(image, failure) from failure


class _Watched:
    """A file whose reading is told."""

    def __init__(self, file: BinaryIO, total: int, progress: Progress) -> None:
        self._file, self._total, self._progress = file, total, progress

    def read(self, size: int = -1) -> bytes:
        """The next piece."""
        piece = self._file.read(size)
        self._progress(self._file.tell(), self._total)
        return piece

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(_PIECE_BYTES):
            yield piece


def _id(image: str) -> str:
    """An id that goes into a path: it may come from a property that anybody has written."""
    try:
        return str(uuid.UUID(image))
    except ValueError:
        raise errors.BadJob(field="image", reason=f"an id expected, found {image!r}") from None


def _failed(image: str, failure: Exception) -> Exception:
    if isinstance(failure, errors.JobError):
        return failure
    return errors.ImageServiceFailed(image=image, reason=str(failure) or type(failure).__name__)
