# SPDX-License-Identifier: Apache-2.0
"""What follows a capture, through the cloud's own API: found in a catalogue, behind TLS, with the user's token."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keystoneauth1.fixture
import pytest
from keystoneauth1 import loading
from nova import service_auth
from nova.conf import CONF

from cloudlet_ext.nova import server_end
from cloudlet_ext.nova.server_end import NoComputeEndpoint
from tests.nova.cloud import Cloud
from tests.nova.compute import Compute, set_up

ENDPOINTS = [("public", "one"), ("internal", "one"), ("public", "two"), ("admin", "three")]


class Site(ThreadingHTTPServer):
    """Keystone and compute APIs behind one address; ``asked``: what the latter were asked for, and by whom."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"https://127.0.0.1:{self.server_port}"
        self.asked: list[tuple[str, str, str]] = []

    def catalogue(self) -> dict[str, Any]:
        token = keystoneauth1.fixture.V3Token()
        service = token.add_service("compute")
        for interface, region in ENDPOINTS:
            service.add_endpoint(interface, f"{self.url}/{interface}-{region}/v2.1", region=region)
        return token


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/auth/tokens"):
            self.answer(201, json.dumps(self.server.catalogue()).encode(), {"X-Subject-Token": "of the service"})
        else:
            self.do_DELETE()

    def do_DELETE(self) -> None:
        self.server.asked.append((self.command, self.path, self.headers["X-Auth-Token"]))
        self.answer(202, b"", {})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tls") / "site.pem"
    words = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    words += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(file)]
    subprocess.run(["openssl", "req", *words, "-out", f"{file}.crt"], check=True, capture_output=True)
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file


@pytest.fixture
def site(certificate: Path) -> Iterator[Site]:
    made = Site()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    made.socket = context.wrap_socket(made.socket, server_side=True)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def service_user(cloud: Cloud, site: Site, certificate: Path) -> Iterator[None]:
    """[service_user], as nova.conf would have it."""
    options = {
        "auth_type": "v3password",
        "auth_url": f"{site.url}/v3",
        "username": "nova",
        "password": "secret",
        "user_domain_id": "default",
        "project_name": "service",
        "project_domain_id": "default",
        "cafile": str(certificate),
    }
    CONF.register_opts(loading.get_auth_plugin_conf_options("v3password"), group="service_user")
    service_auth.reset_globals()
    for name, value in options.items():
        CONF.set_override(name, value, group="service_user")
    yield
    for name in options:
        CONF.clear_override(name, group="service_user")
    service_auth.reset_globals()


def end(how: str) -> str:
    server = str(uuid.uuid4())
    server_end.end(SimpleNamespace(auth_token="of the user"), SimpleNamespace(uuid=server), how)
    return server


@pytest.mark.parametrize(
    ("region", "interfaces", "expected"),
    [
        ("one", ["internal", "public"], "internal-one"),
        ("one", ["public"], "public-one"),
        ("two", ["internal", "public"], "public-two"),
        (None, ["admin"], "admin-three"),
    ],
)
@pytest.mark.usefixtures("service_user")
def test_the_endpoint(site: Site, region: str | None, interfaces: list[str], expected: str) -> None:
    with set_up(compute_region_name=region, compute_interfaces=interfaces):
        server = end("delete")
        stopped = end("stop")
    assert site.asked == [
        ("DELETE", f"/{expected}/v2.1/servers/{server}", "of the user"),
        ("POST", f"/{expected}/v2.1/servers/{stopped}/action", "of the user"),
    ]


@pytest.mark.usefixtures("service_user")
def test_the_region_of_placement(site: Site) -> None:
    CONF.set_override("region_name", "two", group="placement")
    try:
        end("delete")
    finally:
        CONF.clear_override("region_name", group="placement")
    assert site.asked[0][1].startswith("/public-two/")


@pytest.mark.usefixtures("service_user")
def test_insecure(site: Site) -> None:
    CONF.clear_override("cafile", group="service_user")
    CONF.set_override("insecure", True, group="service_user")
    try:
        end("delete")
    finally:
        CONF.clear_override("insecure", group="service_user")
    assert len(site.asked) == 1


@pytest.mark.usefixtures("service_user")
def test_no_endpoint(site: Site) -> None:
    with set_up(compute_region_name="four"), pytest.raises(NoComputeEndpoint) as caught:
        end("stop")
    assert "no compute API in region four with the interface internal or public" in str(caught.value)
    assert not site.asked


@pytest.mark.usefixtures("service_user")
def test_a_host_that_can(compute: Compute) -> None:
    assert compute.manager.describe(compute.context)["ends_servers"] is True
    CONF.set_override("auth_url", None, group="service_user")
    service_auth.reset_globals()
    assert compute.manager.describe(compute.context)["ends_servers"] is False, "it lacks what it needs"


def test_a_host_without_credentials(compute: Compute) -> None:
    assert compute.manager.describe(compute.context)["ends_servers"] is False
