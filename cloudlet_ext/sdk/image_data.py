# SPDX-License-Identifier: Apache-2.0
"""Image data: what an image of the cloud holds, sent and fetched in pieces, in bounded memory."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import requests
from keystoneauth1.exceptions import ClientException
from openstack import exceptions
from openstack.proxy import Proxy as ImageProxy

from cloudlet_ext.sdk.errors import ImageDamaged, TransferBroken, UploadRepeated

LOG = logging.getLogger(__name__)

PIECE_BYTES = 1 << 20

Progress = Callable[[int], None]
"""Called with the bytes that were moved since the last call."""


class _Body:
    """The body of a request: pieces of which the total is known, so that it is sent with a Content-Length."""

    def __init__(self, image_id: str, pieces: Iterable[bytes], length: int) -> None:
        self._image_id, self._pieces, self._length = image_id, iter(pieces), length
        self._is_used = False

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        if self._is_used:
            raise UploadRepeated(image_id=self._image_id)
        self._is_used = True
        return self._pieces


def show(images: ImageProxy, image_id: str) -> dict[str, Any]:
    """An image as the image service tells it: its fields and properties in one object."""
    response = images.get(f"/images/{image_id}")
    exceptions.raise_from_response(response)
    document: dict[str, Any] = response.json()
    return document


def create(images: ImageProxy, document: dict[str, Any]) -> None:
    """Create an image without data; ``document`` holds its fields (with the id) and properties."""
    exceptions.raise_from_response(images.post("/images", json=document))


def send(images: ImageProxy, image_id: str, pieces: Iterable[bytes], length: int) -> None:
    """Fill an image with ``pieces`` of together ``length`` bytes. What they raise ends the request."""
    headers = {"Content-Type": "application/octet-stream", "X-OpenStack-Image-Size": str(length)}
    body = _Body(image_id, pieces, length)
    exceptions.raise_from_response(images.put(f"/images/{image_id}/file", data=body, headers=headers))


def fetch(images: ImageProxy, image: dict[str, Any], progress: Progress) -> Iterator[bytes]:
    """The data of an image (as show() gives it) in pieces; ImageDamaged after the last one if they are not its."""
    image_id, size = image["id"], image["size"]
    algorithm, wanted = image.get("os_hash_algo"), image.get("os_hash_value")
    hasher = hashlib.new(algorithm) if wanted and algorithm and algorithm in hashlib.algorithms_available else None
    response = images.get(f"/images/{image_id}/file", stream=True)
    done = 0
    with closing(response):
        exceptions.raise_from_response(response)
        try:
            for piece in response.iter_content(PIECE_BYTES):
                done += len(piece)
                if hasher is not None:
                    hasher.update(piece)
                yield piece
                progress(len(piece))
        except requests.RequestException as error:
            raise TransferBroken(image_id=image_id, reason=error, done=done, expected=size) from error
    if done != size:
        raise ImageDamaged(image_id=image_id, what="size", found=done, expected=size)
    if hasher is not None and hasher.hexdigest() != wanted:
        raise ImageDamaged(image_id=image_id, what=algorithm, found=hasher.hexdigest(), expected=wanted)


def counted(pieces: Iterable[bytes], progress: Progress) -> Iterator[bytes]:
    """The same pieces; ``progress`` hears of each when the next one is asked for."""
    for piece in pieces:
        yield piece
        progress(len(piece))


@contextmanager
def undone_on_failure(images: ImageProxy) -> Iterator[list[str]]:
    """Give a list; images whose ids are in it are deleted when the block fails or is interrupted."""
    made: list[str] = []
    try:
        yield made
    except BaseException:
        for image_id in made:
            _delete(images, image_id)
        raise


def _delete(images: ImageProxy, image_id: str) -> None:
    try:
        response = images.delete(f"/images/{image_id}")
        if response.status_code != 404:
            exceptions.raise_from_response(response)
    except (exceptions.SDKException, ClientException) as error:
        LOG.warning(
            "Image %s could not be deleted again: %s. Delete it: openstack image delete %s", image_id, error, image_id
        )
