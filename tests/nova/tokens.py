# SPDX-License-Identifier: Apache-2.0
"""In place of keystonemiddleware: a token says for itself who it stands for, ``USER:PROJECT:ROLE,ROLE``.

What comes after it in the pipelines of Nova and Glance is as in a real cloud.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def token(user: str, project: str, *roles: str) -> str:
    return f"{user}:{project}:{','.join(roles)}"


class Authentication:
    """Sets the headers that keystonemiddleware sets; 401 without a token."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        parts = environ.get("HTTP_X_AUTH_TOKEN", "").split(":")
        if len(parts) != 3:
            start_response("401 Unauthorized", [("Content-Type", "text/plain")])
            return [b"Authentication required"]
        user, project, roles = parts
        environ |= {
            "HTTP_X_IDENTITY_STATUS": "Confirmed",
            "HTTP_X_USER_ID": user,
            "HTTP_X_USER_NAME": user,
            "HTTP_X_PROJECT_ID": project,
            "HTTP_X_PROJECT_NAME": project,
            "HTTP_X_ROLES": roles,
            "HTTP_X_SERVICE_CATALOG": "[]",
        }
        return self.app(environ, start_response)


def filter_factory(global_conf: dict[str, str], **local_conf: str) -> Callable[[Any], Authentication]:
    return Authentication
