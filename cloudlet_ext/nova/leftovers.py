# SPDX-License-Identifier: Apache-2.0
"""Images of operations that failed: deleted, however long the image service takes to answer again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import glanceclient
import glanceclient.exc
from keystoneauth1 import exceptions as auth_exceptions
from nova import conf as nova_conf
from nova import exception, service_auth
from nova.image import glance
from oslo_log import log as logging

CONF = nova_conf.CONF
LOG = logging.getLogger(__name__)

InBackground = Callable[[Callable[[], None], str], None]

_FIRST_PAUSE_S, _LAST_PAUSE_S, _PATIENCE_S = 1.0, 60.0, 3600.0
_GONE = (exception.ImageNotFound, glanceclient.exc.HTTPNotFound)
_REFUSED = (exception.Forbidden, glanceclient.exc.HTTPUnauthorized, glanceclient.exc.HTTPForbidden)


def delete_images(context: Any, images: list[str], in_background: InBackground) -> None:
    """Delete images as the user of ``context``, or as Nova's own service user where that user cannot (or is None).

    When the image service does not answer, it is asked again for an hour, in a thread; what is left over is logged.
    """
    left = [image for image in images if not _delete(context, image)]
    if left:
        in_background(lambda: _go_on(context, left), "cloudlet-leftovers")


def _go_on(context: Any, left: list[str]) -> None:
    pause_s, deadline = _FIRST_PAUSE_S, time.monotonic() + _PATIENCE_S
    while left := [image for image in left if not _delete(context, image)]:
        if time.monotonic() > deadline:
            LOG.warning("Images of an operation that failed are left over: %s", ", ".join(left))
            return
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LAST_PAUSE_S)


def _delete(context: Any, image_id: str) -> bool:
    """Whether there is nothing more to do about an image."""
    try:
        if context is None or not _delete_as_user(context, image_id):
            _service_client().images.delete(image_id)
    except _GONE:
        return True
    except _REFUSED as failure:
        LOG.warning("Image %s of an operation that failed is left over: %s", image_id, failure)
        return True
    except Exception as failure:  # noqa: BLE001 - clients of three libraries raise what they want
        LOG.info("Image %s of an operation that failed cannot be deleted yet: %s", image_id, failure)
        return False
    return True


def _delete_as_user(context: Any, image_id: str) -> bool:
    """Whether the user was allowed to."""
    try:
        glance.API().delete(context, image_id)
    except (*_REFUSED, exception.ImageNotAuthorized, auth_exceptions.Unauthorized):
        # The token may have ended with the operation.
        return False
    return True


def _service_client() -> Any:
    session = service_auth.get_service_auth_session("service_user")
    return glanceclient.Client(
        "2",
        session=session,
        auth=service_auth.get_service_auth_plugin("service_user"),
        region_name=CONF.glance.region_name,
        endpoint_override=CONF.glance.endpoint_override,
        interface=CONF.glance.valid_interfaces,
    )
