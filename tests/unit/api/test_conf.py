# SPDX-License-Identifier: Apache-2.0
"""The options of [cloudlet]."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from oslo_config import cfg

from cloudlet_ext import conf


def options(tmp_path: Path, text: str = "", nova_state_path: str | None = None) -> cfg.ConfigOpts:
    file = tmp_path / "nova.conf"
    file.write_text(text)
    read = cfg.ConfigOpts()
    if nova_state_path is not None:
        read.register_opt(cfg.StrOpt("state_path", default=nova_state_path))
    read(["--config-file", str(file)], project="nova")
    conf.register(read)
    conf.register(read)
    return read


def test_defaults(tmp_path: Path) -> None:
    cloudlet = options(tmp_path).cloudlet
    assert cloudlet.overlay_sources == ["glance:", "https:"]
    assert cloudlet.allowed_networks == []
    assert cloudlet.max_workers == 2
    assert cloudlet.queue_timeout == 1800
    assert cloudlet.placement == "auto"
    assert cloudlet.worker_command == [sys.executable, "-m", "cloudlet_ext.cmd.worker"]
    assert cloudlet.state_path == "/var/lib/nova/cloudlet"
    assert cloudlet.keyring is None


def test_the_state_path_is_in_novas(tmp_path: Path) -> None:
    assert options(tmp_path, "[DEFAULT]\nstate_path = /srv/nova\n", "/x").cloudlet.state_path == "/srv/nova/cloudlet"
    assert options(tmp_path, "[cloudlet]\nstate_path = /srv/c\n", "/x").cloudlet.state_path == "/srv/c"


def test_networks(tmp_path: Path) -> None:
    text = "[cloudlet]\nallowed_networks = 10.0.0.0/8, fd00::/8\n"
    assert options(tmp_path, text).cloudlet.allowed_networks == ["10.0.0.0/8", "fd00::/8"]
    with pytest.raises(cfg.ConfigFileValueError):
        _ = options(tmp_path, "[cloudlet]\nallowed_networks = 10.0.0.1/8\n").cloudlet.allowed_networks


@pytest.mark.parametrize("line", ["max_workers = 0", "placement = fast", "operation_keep_hours = -1"])
def test_values_that_cannot_be(tmp_path: Path, line: str) -> None:
    read = options(tmp_path, f"[cloudlet]\n{line}\n")
    with pytest.raises(cfg.ConfigFileValueError):
        getattr(read.cloudlet, line.split(maxsplit=1)[0])


def test_every_option_is_explained() -> None:
    (group, opts), *rest = conf.list_opts()
    assert group.name == "cloudlet"
    assert not rest
    assert all(opt.help for opt in opts)
