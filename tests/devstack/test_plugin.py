# SPDX-License-Identifier: Apache-2.0
"""devstack/plugin.sh and devstack/settings: they dispatch and declare, and do nothing else."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.devstack.conftest import ROOT, DevStack

FUNCTIONS = (
    "install_cloudlet",
    "configure_cloudlet",
    "init_cloudlet",
    "start_cloudlet",
    "stop_cloudlet",
    "unconfigure_cloudlet",
    "cleanup_cloudlet",
)

PHASES = {
    "stack pre-install": [],
    "stack install": ["install_cloudlet"],
    "stack post-config": ["configure_cloudlet"],
    "stack extra": ["init_cloudlet", "start_cloudlet"],
    "stack test-config": [],
    "unstack": ["stop_cloudlet", "unconfigure_cloudlet"],
    "clean": ["cleanup_cloudlet"],
}


def dispatched(devstack: DevStack, phase: str, before: str = "") -> list[str]:
    """Functions that are called in a phase, with a library that has nothing but recorders."""
    library = devstack.folder / "tree/devstack/lib/cloudlet"
    library.parent.mkdir(parents=True, exist_ok=True)
    library.write_text("".join(f"{name}() {{ called {name}; }}\n" for name in FUNCTIONS))
    devstack.do(f'{before}\nCLOUDLET_DIR="{devstack.folder}/tree"\nsource "{ROOT}/devstack/plugin.sh" {phase}')
    return [call for call in devstack.calls if call in FUNCTIONS]


@pytest.mark.parametrize(("phase", "functions"), PHASES.items(), ids=list(PHASES))
def test_phases(devstack: DevStack, phase: str, functions: list[str]) -> None:
    assert dispatched(devstack, phase) == functions


@pytest.mark.parametrize("phase", PHASES)
def test_a_disabled_service_does_nothing(devstack: DevStack, phase: str) -> None:
    assert dispatched(devstack, phase, "ENABLED_SERVICES=n-cpu") == []


def test_sourcing_touches_nothing(devstack: DevStack) -> None:
    before = devstack.files()
    devstack.do(f'source "{ROOT}/devstack/plugin.sh" stack test-config')
    assert devstack.files() == before
    assert devstack.calls == ["define_plugin cloudlet-ext", "enable_service cloudlet"]


def test_the_plugin_only_dispatches() -> None:
    lines = (ROOT / "devstack/plugin.sh").read_text().splitlines()
    allowed = r"#.*|source .*|if is_service_enabled cloudlet; then|fi|case .* in|esac|\".*\*?\)|;;|" + "|".join(
        FUNCTIONS
    )
    assert [line for line in lines if line.strip() and not re.fullmatch(allowed, line.strip())] == []


def test_settings_only_declare() -> None:
    lines = (ROOT / "devstack/settings").read_text().splitlines()
    allowed = r"#.*|define_plugin cloudlet-ext|enable_service cloudlet|(\w+)=\$\{\1:-.*\}(/cloudlet)?"
    assert [line for line in lines if line and not re.fullmatch(allowed, line)] == []


def test_settings_leave_what_is_set(devstack: DevStack) -> None:
    assert devstack.run('echo "$CLOUDLET_STATE_PATH"').stdout == f"{devstack.folder}/data/nova/cloudlet\n"
    devstack.variables["CLOUDLET_STATE_PATH"] = "/elsewhere"
    assert devstack.run('echo "$CLOUDLET_STATE_PATH"').stdout == "/elsewhere\n"
    script = f'CLOUDLET_DIR=; source "{ROOT}/devstack/settings"; echo "$CLOUDLET_DIR"'
    assert devstack.run(script).stdout == f"{devstack.folder}/cloudlet-ext\n"


def test_the_trace_setting_is_kept(devstack: DevStack) -> None:
    for setting in ("-o", "+o"):
        ended = devstack.run(f'set {setting} xtrace; source "{ROOT}/devstack/lib/cloudlet"; set +o | grep xtrace')
        assert ended.stdout.strip().endswith(f"set {setting} xtrace")


def test_setup_develop_finds_the_name() -> None:
    """DevStack reads it with awk, and stops without it."""
    assert re.search(r"^\[metadata\]\nname = cloudlet-ext$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)


@pytest.mark.parametrize("file", ["settings", "plugin.sh", "lib/cloudlet"])
def test_syntax(file: str) -> None:
    subprocess.run(["bash", "-n", ROOT / "devstack" / file], check=True)
