# SPDX-License-Identifier: Apache-2.0
"""What the filter lets through, and the form of what it answers."""

from __future__ import annotations

import io
from typing import Any

import pytest
import webob
from nova import policy
from oslo_config import cfg

from cloudlet_ext import conf, policies
from cloudlet_ext.nova import filter as filter_module
from cloudlet_ext.nova import task_states
from cloudlet_ext.nova.filter import CloudletFilter
from tests.nova.cloud import MEMBER, MINE, OTHER, THEIRS, Cloud
from tests.nova.conftest import Images


class Unread(io.RawIOBase):
    """A body that nobody may look at."""

    def readinto(self, buffer: Any) -> int:
        raise AssertionError("the body was read")

    read = readline = readinto  # type: ignore[assignment]


class Next:
    """The application behind the filter: keeps what it is given."""

    def __init__(self) -> None:
        self.environ: dict[str, Any] | None = None
        self.body = b""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.environ = environ
        if not isinstance(environ["wsgi.input"], Unread):
            self.body = webob.Request(environ).body
        start_response("299 Passed", [])
        return [b""]


@pytest.fixture
def passed(cloud: Cloud) -> tuple[CloudletFilter, Next]:
    from nova import conf as nova_conf

    behind = Next()
    return CloudletFilter(behind, filter_module.Services.of(nova_conf.CONF)), behind


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/servers/detail"),
        ("GET", "/servers"),
        ("PUT", "/servers/1"),
        ("POST", "/servers/1/os-volume_attachments"),
        ("POST", f"/{MINE}/flavors"),
        ("POST", "/os-keypairs"),
        ("DELETE", "/servers/1"),
    ],
)
def test_what_is_not_ours_passes_unread(passed: tuple[CloudletFilter, Next], method: str, path: str) -> None:
    filtered, behind = passed
    request = webob.Request.blank(path, method=method)
    request.environ["wsgi.input"] = Unread()
    request.environ["CONTENT_LENGTH"] = "7"
    before = dict(request.environ)
    # No context is in it: it is not even asked for.
    assert filtered(request.environ, lambda *_: None) == [b""]
    assert behind.environ is request.environ
    assert {name: request.environ[name] for name in before} == before


@pytest.mark.parametrize("body", [b'{"reboot": {"type": "SOFT"}}', b"", b'{"x": "cloudlet-base"}', b"\xff{{{"])
@pytest.mark.parametrize("path", ["/servers/1/action", "/servers"])
def test_what_was_read_can_be_read_again(
    passed: tuple[CloudletFilter, Next], cloud: Cloud, path: str, body: bytes
) -> None:
    filtered, behind = passed
    for chunked in (False, True):
        request = webob.Request.blank(path, method="POST")
        request.environ["wsgi.input"] = io.BufferedReader(io.BytesIO(body))  # type: ignore[arg-type]
        if chunked:
            request.environ["wsgi.input_terminated"] = True
            request.environ["HTTP_TRANSFER_ENCODING"] = "chunked"
        else:
            request.environ["CONTENT_LENGTH"] = str(len(body))
        request.environ["nova.context"] = cloud.context
        filtered(request.environ, lambda *_: None)
        assert behind.body == body


def test_versions(cloud: Cloud) -> None:
    for version in (None, "cloudlet 1.0", "cloudlet latest", "compute 2.90, cloudlet 1.0", "compute 99.9"):
        answer = cloud.request(MEMBER, "GET", "/os-cloudlet", version=version)
        assert answer.status_int == 200
        assert answer.headers["OpenStack-API-Version"] == "cloudlet 1.0"
        assert "OpenStack-API-Version" in answer.headers["Vary"]
    unknown = cloud.request(MEMBER, "GET", "/os-cloudlet", version="cloudlet 1.7")
    assert unknown.status_int == 406
    assert "1.7" in unknown.json["computeFault"]["message"]
    assert cloud.request(MEMBER, "GET", "/os-cloudlet", version="cloudlet seven").status_int == 400


def test_versions_of_what_nova_shares(cloud: Cloud, images: Images) -> None:
    server = {"name": "s", "imageRef": images.base, "flavorRef": "1", "networks": "none"}
    synthesis = {"server": {**server, "metadata": {"overlay_url": f"glance:{images.overlay}"}}}
    for body in (synthesis, {"server": server}):
        assert cloud.request(MEMBER, "POST", "/servers", body, "compute 2.90, cloudlet 1.7").status_int == 406
    path = f"/servers/{cloud.server().uuid}/action"
    body = {"cloudlet-base": {"name": "n"}}
    assert cloud.request(MEMBER, "POST", path, body, "cloudlet 1.7").status_int == 406
    answer = cloud.request(MEMBER, "POST", path, body, "cloudlet 1.0")
    assert answer.headers["OpenStack-API-Version"] == "cloudlet 1.0"


def test_the_project_in_the_url(cloud: Cloud) -> None:
    assert cloud.request(MEMBER, "GET", f"/{MINE}/os-cloudlet/bases").status_int == 200
    answer = cloud.request(MEMBER, "GET", f"/{THEIRS}/os-cloudlet/bases")
    assert answer.status_int == 400
    assert "badRequest" in answer.json
    path = f"/{THEIRS}/servers/{cloud.server().uuid}/action"
    assert cloud.request(MEMBER, "POST", path, {"cloudlet-base": {"name": "n"}}).status_int == 400


def test_the_old_endpoint_has_it_too(cloud: Cloud) -> None:
    request = webob.Request.blank(f"/v2/{MINE}/os-cloudlet", headers={"X-Auth-Token": MEMBER})
    assert request.get_response(cloud.app).json["cloudlet"]["max_version"] == "1.0"


def test_urls_that_are_not_there(cloud: Cloud) -> None:
    answer = cloud.request(MEMBER, "GET", "/os-cloudlet/clouds")
    assert (answer.status_int, set(answer.json)) == (404, {"itemNotFound"})
    answer = cloud.request(MEMBER, "PATCH", "/os-cloudlet/bases")
    assert (answer.status_int, set(answer.json)) == (405, {"badMethod"})
    assert answer.headers["Allow"] == "GET"
    assert cloud.request(None, "GET", "/os-cloudlet/clouds").status_int == 401


def test_root(cloud: Cloud) -> None:
    shown = cloud.request(OTHER, "GET", "/os-cloudlet").json["cloudlet"]
    assert shown["min_version"] == shown["max_version"] == "1.0"
    assert "synthesis" in shown["capabilities"]
    assert shown["limits"]["max_overlay_bytes"] == 2**20
    assert shown["limits"]["overlay_sources"] == ["glance:", "https:"]
    assert cloud.request(MEMBER, "GET", "/os-cloudlet?x=1").status_int == 400


def test_extensions(cloud: Cloud) -> None:
    answer = cloud.request(MEMBER, "GET", "/extensions", version="compute 2.1")
    aliases = [extension["alias"] for extension in answer.json["extensions"]]
    assert "os-cloudlet" in aliases
    assert "os-keypairs" in aliases
    assert answer.headers["OpenStack-API-Version"] == "compute 2.1"
    one = cloud.request(MEMBER, "GET", "/extensions/os-cloudlet").json["extension"]
    assert one in answer.json["extensions"]
    assert cloud.request(MEMBER, "GET", "/extensions/os-keypairs").json["extension"]["alias"] == "os-keypairs"
    assert cloud.request(MEMBER, "GET", "/extensions/os-nothing").status_int == 404
    # Nova's own refusals stay Nova's.
    assert cloud.request(MEMBER, "GET", "/extensions?x=1", version="compute 2.102").status_int == 400


def test_policies_can_be_overridden(cloud: Cloud) -> None:
    rule = "os_compute_api:os-cloudlet:bases:index"
    filter_module.register_policies()
    before = policy._ENFORCER.rules[rule]
    policy.set_rules({rule: policy._ENFORCER.rules["context_is_admin"]}, overwrite=False)
    try:
        answer = cloud.request(MEMBER, "GET", "/os-cloudlet/bases")
        assert answer.status_int == 403
        assert rule in answer.json["forbidden"]["message"]
    finally:
        policy.set_rules({rule: before}, overwrite=False, use_conf=True)
    assert cloud.request(MEMBER, "GET", "/os-cloudlet/bases").status_int == 200


def test_our_rules_are_novas(cloud: Cloud) -> None:
    registered = policy._ENFORCER.registered_rules
    assert {rule.name for rule in policies.list_rules()} <= set(registered)


def test_task_states_can_be_notified(cloud: Cloud) -> None:
    """Nova's versioned notifications refuse states that they do not know."""
    from nova.notifications.objects.instance import InstancePayload

    field = InstancePayload.fields["task_state"]
    task_states.register()
    for state in (*task_states.ALL, "rebooting", None):
        assert field.coerce(None, "task_state", state) == state
    with pytest.raises(ValueError, match="dreaming"):
        field.coerce(None, "task_state", "dreaming")


def test_options_are_novas(cloud: Cloud) -> None:
    from nova import conf as nova_conf

    assert nova_conf.CONF.cloudlet.max_overlay_mb == 1
    assert nova_conf.CONF.cloudlet.state_path.endswith("/cloudlet")
    conf.register(nova_conf.CONF)
    assert isinstance(nova_conf.CONF.cloudlet, cfg.ConfigOpts.GroupAttr)
