# SPDX-License-Identifier: Apache-2.0
"""CloudletFilter: the paste filter that answers our requests inside nova-api.

It stands between ``keystonecontext`` and the application, so that a request has its authenticated context. What is not
ours goes on as it came.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

import webob.exc
from nova import conf as nova_conf
from nova import exception, policy
from nova.api.openstack import wsgi
from oslo_log import log as logging

from cloudlet_ext import conf, policies
from cloudlet_ext.api import errors, image, routes
from cloudlet_ext.nova import marks, task_states
from cloudlet_ext.nova.call import AnswerInvalid, Call, Services, add_version
from cloudlet_ext.nova.handlers import server_actions

LOG = logging.getLogger(__name__)

Handler = Callable[[Call], Any]


class CloudletFilter:
    """WSGI middleware around ``app``."""

    def __init__(self, app: Any, services: Services) -> None:
        self.app = app
        self._services = services
        self._handlers = _handlers()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        try:
            route = routes.match(environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""))
        except errors.ApiError as refused:
            return _fault(_wrapped(refused), None)(environ, start_response)
        if route is None or (route.handler == server_actions.ROUTE and not server_actions.may_be_ours(environ)):
            return self.app(environ, start_response)
        request = wsgi.Request(environ)
        call = Call(request, environ["nova.context"], route, self._services, self.app)
        response = self._answer(call)
        # A handler that has read the body of what is Nova's has left it to be read again.
        return (self.app if response is None else response)(environ, start_response)

    def _answer(self, call: Call) -> Any:
        """The handler's response, None for Nova's, or an error in the form that Nova gives its own."""
        try:
            if not call.route.shared:
                call.accept()
            return self._handlers[call.route.handler](call)
        except errors.ApiError as refused:
            return _fault(_wrapped(refused), call)
        except exception.Forbidden as refused:
            return _fault(webob.exc.HTTPForbidden(explanation=refused.format_message()), call)
        except exception.InvalidContentType:
            return _fault(webob.exc.HTTPUnsupportedMediaType(explanation="Unsupported Content-Type"), call)
        except exception.Invalid as refused:
            return _fault(webob.exc.HTTPBadRequest(explanation=refused.format_message()), call)
        except AnswerInvalid:
            LOG.exception("An answer does not fit its schema")
            return _fault(webob.exc.HTTPInternalServerError(), call)
        except webob.exc.HTTPException as refused:
            return _fault(refused, call)


def _handlers() -> dict[str, Handler]:
    """All handlers that the routes name; a name without a function is found when the service starts."""
    handlers = {}
    for table in (routes.ROUTES, routes.SHARED_ROUTES):
        for methods in table.values():
            for name in methods.values():
                module, function = name.split(".")
                handlers[name] = getattr(importlib.import_module(f"cloudlet_ext.nova.handlers.{module}"), function)
    return handlers


def _wrapped(refused: errors.ApiError) -> Any:
    """An error of ours as webob's."""
    # The text may hold a URL with a signature in it, which belongs into nobody's log.
    LOG.info("Refused with %s: %s", refused.status, type(refused).__name__)
    wrapped = webob.exc.status_map[refused.status](explanation=str(refused))
    if isinstance(refused, errors.MethodNotAllowed):
        wrapped.headers["Allow"] = refused.allowed
    return wrapped


def _fault(wrapped: Any, call: Call | None) -> Any:
    """An error in Nova's form, with the version where one is known."""
    if call is not None:
        with contextlib.suppress(errors.VersionMalformed, errors.VersionUnknown):
            add_version(wrapped.headers, call.version)
    return wsgi.Fault(wrapped)


def register_policies() -> None:
    """Make our rules known to Nova's enforcer; any number of times."""
    policy.init()
    enforcer = policy._ENFORCER
    missing = [rule for rule in policies.list_rules() if rule.name not in enforcer.registered_rules]
    if missing:
        enforcer.register_defaults(missing)
        enforcer.load_rules(force_reload=True)


def keep_from_snapshots(config: Any) -> None:
    """Have Nova's snapshots of our servers be ordinary images: their disks are not those of a base any more."""
    ours = (*image.PROPERTIES, image.NEEDS_TRAIT, *marks.ALL)
    known = config.non_inheritable_image_properties
    config.set_override("non_inheritable_image_properties", [*known, *(name for name in ours if name not in known)])


def filter_factory(global_conf: dict[str, str], **local_conf: str) -> Callable[[Any], CloudletFilter]:
    """For ``paste.filter_factory`` in api-paste.ini. Takes no options there: they are in nova.conf."""
    conf.register(nova_conf.CONF)
    task_states.register()
    register_policies()
    keep_from_snapshots(nova_conf.CONF)
    services = Services.of(nova_conf.CONF)
    return lambda app: CloudletFilter(app, services)
