# SPDX-License-Identifier: Apache-2.0
"""The real ``openstack`` shell in this process, against a cloud in this process."""

from __future__ import annotations

import io
import json
import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openstack
import pytest
from openstack.connection import Connection
from openstackclient.shell import OpenStackShell
from osc_lib.clientmanager import ClientCache, ClientManager

from cloudlet_ext.sdk import attach
from tests.osc.cloud import Cloud


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as running:
        yield running


@pytest.fixture
def access(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """How a user comes to the cloud, in the environment; nothing of the real user's is there."""
    access = {
        "OS_AUTH_TYPE": "password",
        "OS_AUTH_URL": f"{cloud.url}/identity/v3",
        "OS_USERNAME": "user",
        "OS_PASSWORD": "secret",
        "OS_PROJECT_NAME": "project",
        "OS_USER_DOMAIN_ID": "default",
        "OS_PROJECT_DOMAIN_ID": "default",
        "OS_REGION_NAME": "RegionOne",
        "OS_IDENTITY_API_VERSION": "3",
        "OS_CLIENT_CONFIG_FILE": str(tmp_path / "no-clouds.yaml"),
        "HOME": str(tmp_path),
    }
    for name, value in access.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OS_CLOUD", raising=False)
    # This cloud is quicker than others.
    monkeypatch.setattr("cloudlet_ext.sdk.waiting._FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("cloudlet_ext.sdk.waiting._LAST_PAUSE_S", 0.05)
    return access


@pytest.fixture
def connection(access: dict[str, str]) -> Connection:
    connection = openstack.connect(cloud="envvars")
    attach(connection)
    return connection


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Terminal(io.StringIO):
    """Standard error as a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


Command = Callable[..., Result]


@pytest.fixture
def run(access: dict[str, str]) -> Command:
    """``run("cloudlet base list")``: the command as the shell runs it; ``fails``: that it does not succeed."""

    def run(line: str, *words: object, fails: bool = False, err: io.StringIO | None = None) -> Result:
        err = err or io.StringIO()
        code, out = _run([*shlex.split(line), *map(str, words)], err)
        result = Result(code, out, err.getvalue())
        assert "Traceback" not in result.err
        assert bool(result.code) == fails, result
        return result

    return run


def _run(words: list[str], err: io.StringIO) -> tuple[int, str]:
    # A process of the shell runs one command; the client of it is kept by the class.
    for member in vars(ClientManager).values():
        if isinstance(member, ClientCache):
            member._handle = None
    root, out = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    try:
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = OpenStackShell().run(words)
            except SystemExit as end:
                code = int(end.code or 0)
    finally:
        root.handlers[:], root.level = handlers, level
    return code, out.getvalue()
