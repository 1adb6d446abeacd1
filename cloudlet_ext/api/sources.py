# SPDX-License-Identifier: Apache-2.0
"""Overlay sources: which URLs an overlay may be fetched from.

A source is checked in two steps: :meth:`SourceRules.parse` by its text alone, :meth:`SourceRules.resolve` by the
addresses that its host has at the moment. Whoever fetches does both for the URL and for everything that it redirects
to, and connects to the very addresses that ``resolve`` returned, so that a name that changes its mind is no way in.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from cloudlet_ext.api import errors

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_LENGTH = 255
"""Of ``overlay_url``: what Nova keeps of a value in a server's metadata."""

_MAX_URL_LENGTH = 8192
"""Of any URL, such as those that are redirected to."""

_PORTS = {"https": 443, "http": 80}
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?")
_METADATA = {
    ipaddress.ip_address("169.254.169.254"): "the address of a metadata service",
    ipaddress.ip_address("fe80::a9fe:a9fe"): "the address of a metadata service",
    ipaddress.ip_address("fd00:ec2::254"): "the address of a metadata service",
}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class GlanceSource:
    """An image of this cloud."""

    image_id: str

    @property
    def text(self) -> str:
        """As it is written in ``overlay_url``."""
        return f"glance:{self.image_id}"


@dataclass(frozen=True)
class UrlSource:
    """A file on a web server. ``url`` is as it was given, ``host`` in lower case and without brackets."""

    url: str
    scheme: str
    host: str
    port: int
    path: str

    @property
    def text(self) -> str:
        """As it is written in ``overlay_url``."""
        return self.url


Source = GlanceSource | UrlSource


@dataclass(frozen=True)
class _Rule:
    """One entry of ``overlay_sources``. An empty host is any host, with any port."""

    scheme: str
    host: str = ""
    port: int = 0
    folder: str = "/"

    @classmethod
    def parse(cls, entry: str) -> _Rule:
        text = entry.strip()
        if text in ("glance:", "https:", "http:"):
            return cls(text[:-1])
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise errors.SourceRuleMalformed(entry=entry) from None
        host = (parts.hostname or "").rstrip(".")
        plain = not (parts.query or parts.fragment or "@" in parts.netloc) and (parts.path or "/").endswith("/")
        named = _HOST.fullmatch(host.removeprefix("*.")) or _literal(host) is not None
        if parts.scheme not in _PORTS or not named or not plain or ".." in parts.path:
            raise errors.SourceRuleMalformed(entry=entry)
        return cls(parts.scheme, host, port or _PORTS[parts.scheme], parts.path or "/")

    def allows(self, source: UrlSource) -> bool:
        if source.scheme != self.scheme:
            return False
        if not self.host:
            return True
        if self.host.startswith("*."):
            same_host = source.host.endswith(self.host[1:])
        else:
            same_host = source.host == self.host
        return same_host and source.port == self.port and source.path.startswith(self.folder)


Resolver = Callable[[str, int], Iterable[str]]
"""Host and port to addresses as text; OSError when there are none."""


def system_resolver(host: str, port: int) -> list[str]:
    """Addresses by the system's own resolver, each once, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class SourceRules:
    """What ``[cloudlet] overlay_sources`` and ``allowed_networks`` say.

    :class:`errors.SourceRuleMalformed` for an entry that is not understood.
    """

    def __init__(self, overlay_sources: Iterable[str], allowed_networks: Iterable[str] = ()) -> None:
        self.sources = tuple(overlay_sources)
        self._rules = tuple(_Rule.parse(entry) for entry in self.sources)
        self._networks: tuple[Network, ...] = tuple(ipaddress.ip_network(text) for text in allowed_networks)

    def parse(self, text: str) -> Source:
        """The source that a text names, if it is allowed.

        :class:`errors.SourceMalformed`, :class:`errors.SourceNotAllowed`.
        """
        scheme = text.partition(":")[0].lower()
        if scheme == "glance":
            source = _glance_source(text)
            if not any(rule.scheme == "glance" for rule in self._rules):
                raise self._not_allowed(text)
            return source
        if scheme not in _PORTS:
            # "file:" and the like must not be told apart from what is merely unknown.
            raise self._not_allowed(text)
        url = _url_source(text)
        if not any(rule.allows(url) for rule in self._rules):
            raise self._not_allowed(text)
        return url

    def resolve(self, source: UrlSource, resolver: Resolver = system_resolver) -> list[str]:
        """The addresses of the source's host; every one of them may be connected to.

        :class:`errors.SourceUnresolved`; :class:`errors.SourceAddressRefused` when one address alone is not allowed.
        """
        try:
            found = list(resolver(source.host, source.port))
        except (OSError, UnicodeError) as failure:
            raise errors.SourceUnresolved(source=source.url, reason=str(failure)) from None
        if not found:
            raise errors.SourceUnresolved(source=source.url, reason="the name has no addresses")
        for text in found:
            self.check_address(source.url, text)
        return found

    def check_address(self, source: str, text: str) -> None:
        """:class:`errors.SourceAddressRefused` unless the address may be connected to."""
        address = ipaddress.ip_address(text.partition("%")[0])
        for one in _meanings(address):
            reason = _METADATA.get(one)
            if reason is None and not any(one in network for network in self._networks):
                reason = _why_not_public(one)
            if reason is not None:
                raise errors.SourceAddressRefused(source=source, address=text, reason=reason)

    def _not_allowed(self, text: str) -> errors.SourceNotAllowed:
        return errors.SourceNotAllowed(source=_without_secret(text), allowed=", ".join(self.sources) or "none")


def _glance_source(text: str) -> GlanceSource:
    try:
        image_id = str(uuid.UUID(text.partition(":")[2]))
    except ValueError:
        raise errors.SourceMalformed(source=text, reason="the image's id is no UUID") from None
    if image_id != text.partition(":")[2].lower():
        raise errors.SourceMalformed(source=text, reason="the image's id is no UUID in its usual form")
    return GlanceSource(image_id)


def _url_source(text: str) -> UrlSource:
    reason = _what_is_wrong(text)
    if reason is not None:
        raise errors.SourceMalformed(source=_without_secret(text), reason=reason)
    parts = urlsplit(text)
    scheme = parts.scheme.lower()
    host = (parts.hostname or "").rstrip(".")
    return UrlSource(text, scheme, host, parts.port or _PORTS[scheme], parts.path or "/")


def _what_is_wrong(text: str) -> str | None:
    """Why a text is no URL of a file on a web server."""
    if len(text) > _MAX_URL_LENGTH:
        return f"it is longer than {_MAX_URL_LENGTH} characters"
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        return "it has characters that a URL cannot have"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as failure:
        return str(failure)
    return _what_is_wrong_with(parts, port)


def _what_is_wrong_with(parts: SplitResult, port: int | None) -> str | None:
    if "@" in parts.netloc:
        return "it contains a user name or password"
    if parts.fragment:
        return "it has a fragment (#...)"
    host = (parts.hostname or "").rstrip(".")
    if not host or not (_HOST.fullmatch(host) or _literal(host) is not None):
        return "it has no usable host"
    if port == 0:
        return "port 0 cannot be connected to"
    if any(part in (".", "..") for part in re.sub("%2e", ".", parts.path, flags=re.IGNORECASE).split("/")):
        return "its path has parts that are . or .."
    return None


def _without_secret(text: str) -> str:
    """A text for a message: without a user's name and password, and not longer than need be."""
    return re.sub(r"//[^/]*@", "//***@", text[:MAX_LENGTH])


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _meanings(address: Address) -> list[Address]:
    """The address and, where an IPv6 address leads to an IPv4 one, that one too."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    inner: list[Address] = [address]
    if address.sixtofour is not None:
        inner.append(address.sixtofour)
    if address.teredo is not None:
        inner.extend(address.teredo)
    if address in _NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    return inner


def _why_not_public(address: Address) -> str | None:
    if address.is_unspecified:
        return "no address of a host"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if not address.is_global:
        return "a private or reserved address, which [cloudlet] allowed_networks does not name"
    return None
