# SPDX-License-Identifier: Apache-2.0
"""Probes from their texts."""

from __future__ import annotations

import pytest

from cloudlet_ext.worker import probe
from cloudlet_ext.worker.errors import ProbeInvalid


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("http://:80/", probe.HttpProbe),
        ("http://:8080/path?query=1&more=%20", probe.HttpProbe),
        ("http://", probe.HttpProbe),
        ("http:///path", probe.HttpProbe),
        ("tcp:22", probe.TcpProbe),
        ("tcp:65535", probe.TcpProbe),
        ("console:login:", probe.ConsoleProbe),
        ("console: ", probe.ConsoleProbe),
        ("command:test -e /x: && true", probe.CommandProbe),
    ],
)
def test_texts(text: str, kind: type[probe.Probe]) -> None:
    parsed = probe.parse(text)
    assert type(parsed) is kind
    assert parsed.text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "80",
        "tcp",
        "tcp:",
        "tcp:0",
        "tcp:65536",
        "tcp:-1",
        "tcp:http",
        "tcp:80/x",
        "udp:53",
        "https://:443/",
        "http://:0/",
        "http://:x/",
        "http://example.com:80/",
        "http://10.0.2.15/",
        "http://user@:80/",
        "http://:80/a b",
        "http://:80/\xe4",
        "console:",
        "command:",
        "CONSOLE:x",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ProbeInvalid) as caught:
        probe.parse(text)
    assert repr(text) in str(caught.value)
    assert caught.value.exit_code == 2
