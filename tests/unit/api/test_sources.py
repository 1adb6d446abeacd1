# SPDX-License-Identifier: Apache-2.0
"""Which URLs an overlay may come from."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlet_ext.api import errors
from cloudlet_ext.api.sources import MAX_LENGTH, GlanceSource, SourceRules, UrlSource, system_resolver

IMAGE = "6f1b1d9c-8f3e-4d0e-9c46-1a9c2b7f1a55"
DEFAULT = SourceRules(["glance:", "https:"])
PUBLIC = "93.184.215.14"


def resolved(*addresses: str, rules: SourceRules = DEFAULT, url: str = "https://files.example.org/app") -> list[str]:
    source = rules.parse(url)
    assert isinstance(source, UrlSource)
    return rules.resolve(source, lambda host, port: addresses)


def test_an_image() -> None:
    source = DEFAULT.parse(f"glance:{IMAGE}")
    assert source == GlanceSource(IMAGE)
    assert source.text == f"glance:{IMAGE}"


@pytest.mark.parametrize("text", ["glance:", "glance:my-app", "glance://" + IMAGE, f"glance:{{{IMAGE}}}"])
def test_an_image_needs_an_id(text: str) -> None:
    with pytest.raises(errors.SourceMalformed):
        DEFAULT.parse(text)


def test_a_url_in_parts() -> None:
    source = DEFAULT.parse("HTTPS://Files.Example.org:8443/apps/face?x=1")
    assert source == UrlSource(
        "HTTPS://Files.Example.org:8443/apps/face?x=1", "https", "files.example.org", 8443, "/apps/face"
    )
    assert source.text == "HTTPS://Files.Example.org:8443/apps/face?x=1"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("https://user:word@example.org/app", "user name or password"),
        ("https://user@example.org/app", "user name or password"),
        ("https://@example.org/app", "user name or password"),
        ("https:///app", "host"),
        ("https:app", "host"),
        ("https://exa mple.org/app", "characters"),
        ("https://example.org/a\nb", "characters"),
        ("https://example.org/\\app", "characters"),
        ("https://exämple.org/app", "characters"),
        ("https://example.org/app#part", "fragment"),
        ("https://example.org:0/app", "port 0"),
        ("https://example.org:99999/app", "ort"),
        ("https://[::1/app", "IPv6"),
        ("https://example.org/a/../b", "parts"),
        ("https://example.org/a/%2E%2e/b", "parts"),
        ("https://-example.org/app", "host"),
        ("https://example.org/" + "a" * 8192, "longer"),
    ],
)
def test_malformed_urls_say_why(text: str, reason: str) -> None:
    with pytest.raises(errors.SourceMalformed, match=reason):
        DEFAULT.parse(text)


@pytest.mark.parametrize("scheme", ["https", "ftp"])
def test_passwords_are_not_repeated(scheme: str) -> None:
    with pytest.raises((errors.SourceMalformed, errors.SourceNotAllowed)) as refused:
        DEFAULT.parse(f"{scheme}://alice:secret@example.org/app")
    assert "secret" not in str(refused.value)
    assert "alice" not in str(refused.value)


def test_redirects_may_be_longer_than_metadata() -> None:
    text = "https://example.org/app?signature=" + "a" * 1000
    assert len(text) > MAX_LENGTH
    assert DEFAULT.parse(text).text == text


@pytest.mark.parametrize("text", ["http://example.org/app", "file:///etc/passwd", "ftp://example.org/a", "app", ""])
def test_other_schemes_are_not_allowed(text: str) -> None:
    with pytest.raises(errors.SourceNotAllowed, match="glance:, https:"):
        DEFAULT.parse(text)


def test_images_may_be_excluded() -> None:
    with pytest.raises(errors.SourceNotAllowed):
        SourceRules(["https:"]).parse(f"glance:{IMAGE}")


HOSTS = SourceRules(["https://files.example.org/apps/", "http://*.lab.example.org:8080"])


@pytest.mark.parametrize(
    "text",
    [
        "https://files.example.org/apps/face",
        "https://FILES.example.org:443/apps/face",
        "https://files.example.org./apps/face",
        "http://a.lab.example.org:8080/face",
        "http://b.a.lab.example.org:8080/face",
    ],
)
def test_named_hosts(text: str) -> None:
    assert isinstance(HOSTS.parse(text), UrlSource)


@pytest.mark.parametrize(
    "text",
    [
        "https://files.example.org/other/face",
        "https://files.example.org/apps",
        "https://files.example.org:8443/apps/face",
        "http://files.example.org/apps/face",
        "https://evilfiles.example.org/apps/face",
        "http://lab.example.org:8080/face",
        "http://evillab.example.org:8080/face",
        "http://a.lab.example.org/face",
    ],
)
def test_other_hosts_are_not_allowed(text: str) -> None:
    with pytest.raises(errors.SourceNotAllowed):
        HOSTS.parse(text)


@pytest.mark.parametrize(
    "entry",
    ["file:", "https", "https://user@example.org", "https://example.org/a", "https://e.org/?q", "", "https://*"],
)
def test_rules_that_are_not_understood(entry: str) -> None:
    with pytest.raises(errors.SourceRuleMalformed):
        SourceRules([entry])


def test_public_addresses() -> None:
    assert resolved(PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c") == [
        PUBLIC,
        "2606:2800:21f:cb07:6820:80da:af6b:8b2c",
    ]


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback"),
        ("127.8.8.8", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("169.254.169.254", "metadata"),
        ("::ffff:169.254.169.254", "metadata"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("fe80::a9fe:a9fe", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("169.254.1.1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("0.0.0.0", "no address"),
        ("::", "no address"),
        ("10.0.0.1", "private"),
        ("172.16.3.4", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("255.255.255.255", "private"),
        ("fc00::1", "private"),
    ],
)
def test_addresses_that_must_not_be_reached(address: str, reason: str) -> None:
    with pytest.raises(errors.SourceAddressRefused, match=reason):
        resolved(address)
    # One bad address among good ones is enough.
    with pytest.raises(errors.SourceAddressRefused, match=reason):
        resolved(PUBLIC, address)


def test_private_networks_can_be_allowed() -> None:
    rules = SourceRules(["https:"], ["10.1.0.0/16", "127.0.0.0/8", "fd12::/64"])
    assert resolved("10.1.2.3", "127.0.0.1", "fd12::7", rules=rules)
    for refused in ("10.2.0.1", "192.168.0.1", "::1"):
        with pytest.raises(errors.SourceAddressRefused):
            resolved(refused, rules=rules)


def test_a_metadata_service_is_never_allowed() -> None:
    rules = SourceRules(["https:"], ["0.0.0.0/0", "::/0"])
    assert resolved("169.254.1.1", rules=rules)
    for address in ("169.254.169.254", "fd00:ec2::254"):
        with pytest.raises(errors.SourceAddressRefused, match="metadata"):
            resolved(address, rules=rules)


def test_names_without_addresses() -> None:
    def nowhere(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    source = DEFAULT.parse("https://nowhere.invalid/app")
    assert isinstance(source, UrlSource)
    with pytest.raises(errors.SourceUnresolved, match="not known"):
        DEFAULT.resolve(source, nowhere)
    with pytest.raises(errors.SourceUnresolved):
        DEFAULT.resolve(source, lambda host, port: [])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0x7f.1", "2130706433", "[::1]", "[::ffff:7f00:1]"])
def test_the_system_resolver_sees_through_spellings(host: str) -> None:
    source = DEFAULT.parse(f"https://{host}/app")
    assert isinstance(source, UrlSource)
    with pytest.raises((errors.SourceAddressRefused, errors.SourceUnresolved)):
        DEFAULT.resolve(source, system_resolver)


@given(st.ip_addresses())
def test_whatever_is_let_through_is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    try:
        resolved(str(address))
    except errors.SourceAddressRefused:
        return
    assert address.is_global
    assert not address.is_multicast


@given(st.text(max_size=300))
def test_any_text_is_a_source_or_refused(text: str) -> None:
    for start in ("", "https://", "glance:", "https://example.org/"):
        try:
            source = DEFAULT.parse(start + text)
        except (errors.SourceMalformed, errors.SourceNotAllowed):
            continue
        assert source.text == start + text or isinstance(source, GlanceSource)
