# SPDX-License-Identifier: Apache-2.0
"""The minicloud's parts that can be looked at without a cloud: its scripts, its lock file, its table."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
PARTS = ROOT / "minicloud"
SCRIPTS = [ROOT / "tools" / "minicloud", ROOT / "tools" / "packages.sh", *sorted(PARTS.glob("*.sh"))]


def names(file: Path) -> set[str]:
    """Normalised names of the requirements in a file."""
    lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    return {re.split(r"[^A-Za-z0-9._-]", line)[0].lower().replace("_", "-").replace(".", "-") for line in lines if line}


@pytest.fixture(scope="module")
def status() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minicloud_status", PARTS / "status.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_whole_and_short(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert len(text.splitlines()) < 400
    for name, body in re.findall(r"^([a-z_]+)\(\) [{(]\n(.*?)^[})]", text, re.MULTILINE | re.DOTALL):
        # What a configuration file holds is no code.
        code = re.sub(r"<<'?(\w+)'?\n.*?^\1$", "", body, flags=re.MULTILINE | re.DOTALL)
        assert len(code.splitlines()) < 50, f"{script.name}: {name}"


def test_the_lock_has_all_requirements_and_no_address() -> None:
    locked = names(PARTS / "requirements.lock")
    assert names(PARTS / "requirements.in") <= locked
    assert names(ROOT / "requirements.txt") <= locked
    text = (PARTS / "requirements.lock").read_text()
    assert "://" not in text
    assert all("==" in line for line in text.splitlines() if line and not line.startswith("#"))


def test_settings_of_machines() -> None:
    script = f""". {ROOT}/tools/lib.sh; . {PARTS}/env.sh
    use_cloud one; echo $HOST $IP $TUNNEL_IP; use_cloud two 3; echo $HOST $IP $CONTROLLER $TUNNEL_IP
    (use_cloud five) 2>&1"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["one 10.77.0.11 10.77.1.11", "two-compute3 10.77.0.32 10.77.0.12 10.77.1.32"]
    assert "no cloud can have the name 'five'" in lines[2]


def test_a_service_is_up_only_with_its_own_start_time(status: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    record = tmp_path / "pids" / "api"
    assert status.service(tmp_path, "api").pid == 0
    record.write_text(f"{os.getpid()} {status.start_ticks(os.getpid())}\n")
    service = status.service(tmp_path, "api")
    assert service.pid == os.getpid()
    assert service.processes >= 1
    assert service.pss_mib > 0
    record.write_text(f"{os.getpid()} 1\n")
    assert status.service(tmp_path, "api").pid == 0
    assert " down" in status.table("one", [status.service(tmp_path, "api"), service])


def test_only_the_process_that_was_started_is_ended(tmp_path: Path) -> None:
    script = f""". {ROOT}/tools/lib.sh; . {PARTS}/env.sh; . {PARTS}/process.sh
    CLOUD=test C={tmp_path} MINICLOUD_PATIENCE=1
    OS_CLOUD=other launch nap sleep 60
    alive nap && read -r pid began <$C/pids/nap && echo $pid
    tr '\\0' '\\n' </proc/$pid/environ | grep -c ^OS_ || true
    echo "$pid 1" >$C/pids/stranger; alive stranger || echo stranger
    stop stranger; [ -d /proc/$pid ] && echo there
    stop nap; alive nap || [ -n "$(pid_start $pid)" ] || echo gone"""
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[1:] == ["0", "stranger", "there", "gone"]
