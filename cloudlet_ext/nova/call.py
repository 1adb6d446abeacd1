# SPDX-License-Identifier: Apache-2.0
"""Call: a request of ours on its way through a handler, and the steps that all handlers share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import webob
from nova import exception
from nova.compute import api as compute_api
from oslo_log import log as logging

from cloudlet_ext.api import errors, microversion, validation
from cloudlet_ext.api.routes import Route
from cloudlet_ext.api.sources import SourceRules
from cloudlet_ext.nova.catalogue import Catalogue
from cloudlet_ext.nova.hosts import Silence
from cloudlet_ext.nova.other_images import OtherImages
from cloudlet_ext.nova.rpcapi import CloudletAPI

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Services:
    """What handlers work with; made once for each API process. ``conf`` is Nova's configuration."""

    conf: Any
    compute: Any
    catalogue: Catalogue
    rpc: CloudletAPI
    sources: SourceRules
    silence: Silence = field(default_factory=Silence)
    other_images: OtherImages = field(default_factory=OtherImages)

    @classmethod
    def of(cls, conf: Any) -> Services:
        """Services as the configuration says."""
        sources = SourceRules(conf.cloudlet.overlay_sources, conf.cloudlet.allowed_networks)
        return cls(conf, compute_api.API(), Catalogue(), CloudletAPI(), sources)


@dataclass(frozen=True)
class Call:
    """One request. ``next_app``: Nova, for what is not ours after all, or not ours alone."""

    request: Any
    context: Any
    route: Route
    services: Services
    next_app: Any

    @property
    def args(self) -> Mapping[str, str]:
        """Parts of the URL by name."""
        return self.route.args

    @property
    def version(self) -> str:
        """The version that is asked for; :class:`errors.VersionMalformed`, :class:`errors.VersionUnknown`."""
        return microversion.requested(self.request.headers)

    def accept(self) -> None:
        """The request is ours: check what every request of ours must have.

        :class:`errors.VersionMalformed`, :class:`errors.VersionUnknown`, :class:`errors.WrongProjectInUrl`.
        """
        _ = self.version
        found, expected = self.route.project_id, self.context.project_id
        if found is not None and found != expected:
            raise errors.WrongProjectInUrl(found=found, expected=expected)

    def authorize(self, rule: str, project_id: str | None) -> None:
        """``nova.exception.Forbidden`` unless the policy allows it on things of this project."""
        self.context.can(rule, target=self._target(project_id))

    def allows(self, rule: str, project_id: str | None) -> bool:
        """Whether the policy allows it on things of this project."""
        return bool(self.context.can(rule, target=self._target(project_id), fatal=False))

    def authorize_or_hide(self, rule: str, project_id: str | None, hidden: errors.ApiError) -> None:
        """As :meth:`authorize`; but ``hidden`` is raised to those to whom the thing does not belong."""
        try:
            self.authorize(rule, project_id)
        except exception.Forbidden:
            if project_id != self.context.project_id:
                raise hidden from None
            raise

    def _target(self, project_id: str | None) -> dict[str, Any]:
        return {"project_id": project_id, "user_id": self.context.user_id}

    def body(self, schema: validation.Schema, what: str) -> Any:
        """The request's body; :class:`errors.NotJson`, :class:`errors.SchemaRefused`, Nova's ``InvalidContentType``."""
        self.request.get_content_type()
        document = parse_json(self.request.body)
        validation.check(document, schema, what)
        return document

    def query(self, schema: validation.Schema) -> dict[str, str]:
        """The parameters after the ``?``; :class:`errors.SchemaRefused`."""
        try:
            parameters: dict[str, list[str]] = self.request.GET.dict_of_lists()
        except UnicodeDecodeError:
            raise errors.SchemaRefused(what="query parameters", reason="they are not UTF-8") from None
        return validation.query(parameters, schema)

    def answer(self, status: int, document: Any, schema: validation.Schema) -> Any:
        """A response; a document that does not fit its schema is treated as ``[api] response_validation`` says."""
        self.check_answer(document, schema)
        body = b"" if document is None else json.dumps(document).encode()
        response = webob.Response(body=body, status=status, content_type="application/json", charset="UTF-8")
        if status == 204:
            del response.content_type
        add_version(response.headers, self.version)
        return response

    def check_answer(self, document: Any, schema: validation.Schema) -> None:
        """Check what is about to be answered, as Nova checks its own answers."""
        mode = self.services.conf.api.response_validation
        if mode == "ignore":
            return
        try:
            validation.check(document, schema, "response")
        except errors.SchemaRefused:
            if mode == "error":
                raise AnswerInvalid() from None
            LOG.exception("An answer does not fit its schema")


def add_version(headers: Any, version: str) -> None:
    """Tell which version was answered, besides what Nova tells of its own."""
    headers.add(microversion.HEADER, microversion.header(version))
    headers.add("Vary", microversion.HEADER)


class AnswerInvalid(Exception):
    """Our own answer does not fit its schema, and the configuration asks for an error then."""


def parse_json(body: bytes) -> Any:
    """A JSON document; :class:`errors.NotJson`."""
    try:
        return json.loads(body)
    except ValueError as failure:
        raise errors.NotJson(reason=str(failure)) from None
