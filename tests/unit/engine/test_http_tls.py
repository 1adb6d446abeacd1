# SPDX-License-Identifier: Apache-2.0
"""Servers that prove who they are, and redirects between them and others."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloudlet_ext.engine.errors import SourceRefused, SourceUntrusted
from cloudlet_ext.engine.http_source import HttpSource
from cloudlet_ext.engine.source_policy import SourcePolicy
from tests.unit.engine import faulty_server as faulty
from tests.unit.engine.faulty_server import FaultyServer, make_file
from tests.unit.engine.test_http_closing import assert_closes

SIZE = 300_000


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    return make_file(tmp_path / "file", SIZE)


@pytest.fixture
def server(tmp_path: Path, content: bytes) -> Iterator[FaultyServer]:
    with FaultyServer(tmp_path) as running:
        yield running


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        now = dt.datetime.now(dt.UTC)
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .sign(key, hashes.SHA256())
        )
        path = tmp_path / "certificate.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
        return path

    @pytest.fixture
    def tls_server(self, tmp_path: Path, content: bytes, certificate: Path) -> Iterator[FaultyServer]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with FaultyServer(tmp_path, context) as running:
            yield running

    def test_trusted(self, tls_server: FaultyServer, certificate: Path, content: bytes) -> None:
        with HttpSource(tls_server.url("file"), SourcePolicy(ca_file=str(certificate))) as source:
            assert source.read(0, 200_000) == content[:200_000]
            assert source.read(200_000, 100_000) == content[200_000:]
        assert len({seen.connection for seen in tls_server.seen}) == 1

    def test_untrusted(self, tls_server: FaultyServer) -> None:
        with HttpSource(tls_server.url("file")) as source, pytest.raises(SourceUntrusted):
            source.read(0, 10)
        assert not tls_server.seen

    def test_never_from_https_to_http(self, tls_server: FaultyServer, server: FaultyServer, certificate: Path) -> None:
        tls_server.behaviour = faulty.redirect(server.url("file?plain"))
        with (
            HttpSource(tls_server.url("file"), SourcePolicy(ca_file=str(certificate))) as source,
            pytest.raises(SourceRefused, match="from https to http"),
        ):
            source.read(0, 10)
        assert not server.seen

    def test_from_http_to_https(
        self, tls_server: FaultyServer, server: FaultyServer, certificate: Path, content: bytes
    ) -> None:
        server.behaviour = faulty.redirect(tls_server.url("file?secure"))
        with HttpSource(server.url("file"), SourcePolicy(ca_file=str(certificate))) as source:
            assert source.read(0, 100) == content[:100]

    def test_closing_ends_a_body(self, tls_server: FaultyServer, certificate: Path) -> None:
        tls_server.behaviour = faulty.silent_body
        source = HttpSource(tls_server.url("file"), SourcePolicy(ca_file=str(certificate)))
        assert_closes(source, lambda: bool(tls_server.seen))
