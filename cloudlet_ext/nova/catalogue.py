# SPDX-License-Identifier: Apache-2.0
"""Catalogue: bases and overlays as Glance has them, seen with the user's own rights.

What a user cannot see in Glance is not there. The requests go through Nova's client, with its retries, and are given
the user's token.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import glanceclient.exc
from nova import exception
from nova.image import glance

from cloudlet_ext.api import errors
from cloudlet_ext.api import image as properties
from cloudlet_ext.api.image import BASE, MEMORY, Image, from_glance

_PAGE = 200
"""Images for which Glance is asked at once: the client's own 20 would make ten requests of a list of ours."""

_WORDS = {BASE: "base", MEMORY: "base memory"}


class Catalogue:
    """Finds, makes and deletes images. Every method takes the request's context first.

    All may raise :class:`errors.ImageServiceDown`, :class:`errors.ImageForbidden` and :class:`errors.ImageRefused`.
    """

    def get(self, context: Any, image_id: str) -> Image | None:
        """An image, None when there is none that the user can see."""
        try:
            return from_glance(self._call(context, image_id, "get", image_id))
        except errors.NotFound:
            return None

    def get_of_kind(self, context: Any, kind: str, image_id: str) -> Image:
        """A base or an overlay; :class:`errors.NotFound` also when the image is something else."""
        image = self.get(context, image_id)
        if image is None or image.kind != kind:
            raise errors.NotFound(what=_WORDS.get(kind, kind), id=image_id)
        return image

    def list(
        self,
        context: Any,
        kind: str,
        *,
        name: str | None = None,
        limit: int | None = None,
        marker: str | None = None,
        hidden: bool = False,
    ) -> list[Image]:
        """Images of a kind, newest first; ``marker`` is the id of the last one that was seen before."""
        filters: dict[str, Any] = {properties.TYPE: kind}
        if name is not None:
            filters["name"] = name
        if hidden:
            filters["os_hidden"] = True
        options: dict[str, Any] = {"filters": filters, "page_size": _PAGE}
        options |= {key: value for key, value in (("limit", limit), ("marker", marker)) if value is not None}
        found = self._call(context, marker or "", "list", **options)
        return [from_glance(record) for record in found]

    def memories(self, context: Any) -> dict[str, Image]:
        """All memory images that the user can see, by id."""
        return {image.id: image for image in self.list(context, MEMORY, hidden=True)}

    def create(self, context: Any, record: Mapping[str, Any]) -> Image:
        """A new image without content; :class:`errors.ImageQuotaExceeded`."""
        return from_glance(self._call(context, str(record.get("id", "")), "create", **record))

    def delete(self, context: Any, image_id: str) -> None:
        """Delete an image; :class:`errors.NotFound`, :class:`errors.ImageBusy`."""
        self._call(context, image_id, "delete", image_id)

    def _call(self, context: Any, image_id: str, method: str, *args: Any, **kwargs: Any) -> Any:
        with _translated(image_id):
            return glance.GlanceClientWrapper().call(context, 2, method, args=args, kwargs=kwargs)


@contextlib.contextmanager
def _translated(image_id: str) -> Iterator[None]:
    """Errors of the client and of Nova's wrapper around it, as ours."""
    try:
        yield
    except glanceclient.exc.HTTPNotFound:
        raise errors.NotFound(what="image", id=image_id) from None
    except (glanceclient.exc.HTTPForbidden, glanceclient.exc.HTTPUnauthorized) as failure:
        raise errors.ImageForbidden(id=image_id, reason=_text(failure)) from None
    except glanceclient.exc.HTTPConflict as failure:
        raise errors.ImageBusy(id=image_id, reason=_text(failure)) from None
    except glanceclient.exc.HTTPOverLimit as failure:
        raise errors.ImageQuotaExceeded(reason=_text(failure)) from None
    except exception.GlanceConnectionFailed as failure:
        raise errors.ImageServiceDown() from failure
    except glanceclient.exc.HTTPException as failure:
        if int(failure.code) >= 500:
            raise errors.ImageServiceDown() from failure
        raise errors.ImageRefused(reason=_text(failure)) from None


def _text(failure: Exception) -> str:
    """What Glance says, in one line and without the status before it."""
    said = " ".join(str(failure).split())
    return said.removeprefix(f"HTTP {getattr(failure, 'code', '')} ").rstrip(".") or type(failure).__name__
