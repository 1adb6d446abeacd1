# SPDX-License-Identifier: Apache-2.0
"""Routes: the whole URL space in one table, and which requests are ours.

Paths are as they are below the version (``/v2.1``). The id of the project may stand before them, as in Nova.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cloudlet_ext.api import errors

ROUTES: dict[str, dict[str, str]] = {
    "/os-cloudlet": {"GET": "root.show"},
    "/os-cloudlet/bases": {"GET": "bases.index"},
    "/os-cloudlet/bases/{base_id}": {"GET": "bases.show", "DELETE": "bases.delete"},
    "/os-cloudlet/bases/{base_id}/precache": {"POST": "bases.precache"},
    "/os-cloudlet/overlays": {"GET": "overlays.index"},
    "/os-cloudlet/overlays/{overlay_id}": {"GET": "overlays.show", "DELETE": "overlays.delete"},
    "/os-cloudlet/operations": {"GET": "operations.index"},
    "/os-cloudlet/operations/{operation_id}": {"GET": "operations.show", "DELETE": "operations.cancel"},
}
"""Path -> method -> handler, as MODULE.FUNCTION."""

SHARED_ROUTES: dict[str, dict[str, str]] = {
    "/servers": {"POST": "servers.create"},
    "/os-volumes_boot": {"POST": "servers.create"},
    "/servers/{server_id}/action": {"POST": "server_actions.act"},
    "/extensions": {"GET": "extensions.index"},
    "/extensions/os-cloudlet": {"GET": "extensions.show"},
}
"""URLs of Nova's where only some requests are ours; their handlers pass on what is not."""


@dataclass(frozen=True)
class Route:
    """Where a request goes. ``args`` are the parts of the path by name; ``project_id`` is None where it has none."""

    handler: str
    args: Mapping[str, str]
    project_id: str | None
    shared: bool


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template))


_OWN = {_pattern(template): methods for template, methods in ROUTES.items()}
_SHARED = {_pattern(template): methods for template, methods in SHARED_ROUTES.items()}
# Every request comes by here: one look decides for nearly all of them.
_PERHAPS = re.compile(
    r"(?:/(?P<project>[0-9a-f-]+))?"
    r"(?P<path>/(?:os-cloudlet(?:/.*)?|servers(?:/[^/]+/action)?|extensions(?:/os-cloudlet)?|os-volumes_boot))/?"
)


def match(method: str, path: str) -> Route | None:
    """The route of a request, None when it is not ours.

    :class:`errors.NoSuchUrl`, :class:`errors.MethodNotAllowed` for requests below ``/os-cloudlet``.
    """
    perhaps = _PERHAPS.fullmatch(path)
    if perhaps is None:
        return None
    project_id, rest = perhaps["project"], perhaps["path"].rstrip("/")
    own = rest.startswith("/os-cloudlet")
    for pattern, methods in (_OWN if own else _SHARED).items():
        found = pattern.fullmatch(rest)
        if found is None:
            continue
        handler = methods.get(method)
        if handler is not None:
            return Route(handler, found.groupdict(), project_id, not own)
        if own:
            raise errors.MethodNotAllowed(method=method, allowed=", ".join(sorted(methods)))
    if own:
        raise errors.NoSuchUrl()
    return None
