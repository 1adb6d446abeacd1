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


LISTING = """\
Hub -1 (net0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  13       127.0.0.1  8080       10.0.2.15    80     0     0
  TCP[HOST_FORWARD]  14               *  8081       10.0.2.15    80     0     0
  TCP[ESTABLISHED]   15       127.0.0.1  8080       10.0.2.15    80     0     0
  TCP[CLOSE_WAIT]    16       127.0.0.1  8080       10.0.2.15    80     0     0
  TCP[SYN_SENT]      17       127.0.0.1  8080       10.0.2.15    80     0     0
  TCP[FIN_WAIT_2]    18       127.0.0.1  8080       10.0.2.15    80     0     0
  TCP[ESTABLISHED]   19       127.0.0.1  8082       10.0.2.15    80     0     0
  TCP[ESTABLISHED]   20       127.0.0.1  8080       10.0.2.15    81     0     0
  TCP[ESTABLISHED]   21       10.0.2.15  8080        10.0.2.2    80     0     0
  TCP[ESTABLISHED]   80       10.0.2.15 40000        10.0.2.2  8080     0     0
  UDP[236 sec]       22       10.0.2.15    80        10.0.2.2  8080     0     0
  ICMP[3 sec]        23       10.0.2.15     -        10.0.2.2     -     0     0
"""


def test_connections_that_the_guest_has_accepted() -> None:
    assert probe.accepted(LISTING, 8080, 80) == {"15", "16"}
    assert probe.accepted(LISTING, 8082, 80) == {"19"}
    assert probe.accepted(LISTING, 8081, 80) == probe.accepted(LISTING, 40000, 8080) == set()
    assert probe.accepted("", 8080, 80) == set()
