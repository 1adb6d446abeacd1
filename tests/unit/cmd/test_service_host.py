# SPDX-License-Identifier: Apache-2.0
"""What a restart of nova-compute ends, and what nova-conductor cannot send: told from /proc, systemd and nova.conf."""

from __future__ import annotations

from pathlib import Path

import pytest
from oslo_upgradecheck.upgradecheck import Code

from cloudlet_ext.cmd.service_host import judge_notifications, judge_restart
from cloudlet_ext.cmd.status import configuration

SYSTEMCTL = """\
#!/bin/sh
[ "$*" = "show --property=KillMode --value nova-compute.service" ] || exit 4
{answer}
"""


class Proc:
    """A /proc, and a systemctl in front of all others."""

    def __init__(self, folder: Path) -> None:
        self.path, self.systemctl = folder / "proc", folder / "bin/systemctl"
        self.systemctl.parent.mkdir()
        self.run(1, "systemd", parent=0)

    def run(self, pid: int, *words: str, parent: int = 1, group: str = "0::/") -> None:
        folder = self.path / str(pid)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cmdline").write_bytes("".join(f"{word}\0" for word in words).encode())
        (folder / "comm").write_text(words[0] + "\n")
        (folder / "cgroup").write_text(group + "\n")
        (folder / "stat").write_text(f"{pid} (a (b) c) S {parent} 1 1")

    def answer(self, script: str) -> None:
        self.systemctl.write_text(SYSTEMCTL.format(answer=script))
        self.systemctl.chmod(0o755)


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    made = Proc(tmp_path)
    monkeypatch.setenv("PATH", f"{made.systemctl.parent}:/usr/bin:/bin")
    return made


COMPUTE = ("/usr/bin/python3", "/usr/bin/nova-compute", "--config-file", "/etc/nova/nova.conf")
UNIT = "0::/system.slice/nova-compute.service"


@pytest.mark.parametrize("group", [UNIT, f"12:pids:/\n1:name=systemd:{UNIT[3:]}\n0::/", f"{UNIT}/payload"])
@pytest.mark.parametrize(
    ("mode", "code"),
    [
        ("control-group", Code.WARNING),
        ("mixed", Code.WARNING),
        ("process", Code.SUCCESS),
        ("none", Code.SUCCESS),
    ],
)
def test_a_unit_of_systemd(proc: Proc, group: str, mode: str, code: Code) -> None:
    proc.run(77, *COMPUTE, group=group)
    proc.answer(f"echo {mode}")
    found = judge_restart(proc.path)
    assert found.code == code
    assert f"nova-compute.service has KillMode={mode}" in found.details
    assert ("KillMode=process." in found.details) == (code == Code.WARNING)


@pytest.mark.parametrize("script", ["exit 1", None])
def test_systemd_does_not_tell(proc: Proc, script: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    proc.run(77, *COMPUTE, group=UNIT)
    if script is None:
        monkeypatch.setenv("PATH", str(proc.path))
    else:
        proc.answer(script)
    found = judge_restart(proc.path)
    assert found.code == Code.WARNING
    assert "cannot be told" in found.details


@pytest.mark.parametrize(
    "group",
    [
        "0::/system.slice/docker-0f3a.scope",
        "0::/machine.slice/libpod-0f3a.scope/container",
        "0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-0f3a.scope",
        "4:memory:/docker/0f3a\n1:name=systemd:/docker/0f3a",
    ],
)
def test_a_container_from_outside(proc: Proc, group: str) -> None:
    proc.run(77, *COMPUTE, group=group)
    found = judge_restart(proc.path)
    assert found.code == Code.WARNING
    assert "container" in found.details


@pytest.mark.parametrize(("first", "pid"), [(("dumb-init", "--single-child"), 7), (COMPUTE, 1)])
def test_a_container_from_inside(proc: Proc, first: tuple[str, ...], pid: int) -> None:
    proc.run(1, *first, parent=0)
    proc.run(pid, *COMPUTE, parent=1 if pid > 1 else 0)
    assert judge_restart(proc.path).code == Code.WARNING


@pytest.mark.parametrize("group", ["session-1.scope", "user@0.service/app.slice/run-7.scope"])
def test_started_by_hand(proc: Proc, group: str) -> None:
    proc.run(77, *COMPUTE, group=f"0::/user.slice/user-0.slice/{group}")
    assert judge_restart(proc.path).code == Code.SUCCESS


def test_no_nova_compute(proc: Proc) -> None:
    proc.run(77, "/usr/bin/vi", "nova-compute.log", group=UNIT)
    (proc.path / "78").mkdir()
    assert judge_restart(proc.path).code == Code.SUCCESS


CONDUCTOR = ("/usr/bin/python3", "/usr/bin/nova-conductor")
UPDATES = "[notifications]\nnotification_format = {}\nnotify_on_state_change = {}\n"
MESSAGING = "[oslo_messaging_notifications]\ndriver = messagingv2\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", Code.SUCCESS),
        (MESSAGING + UPDATES.format("unversioned", "vm_and_task_state"), Code.SUCCESS),
        (MESSAGING + "[notifications]\nnotification_format = both\n", Code.SUCCESS),
        (UPDATES.format("both", "vm_state"), Code.SUCCESS),
        ("[oslo_messaging_notifications]\ndriver = noop\n" + UPDATES.format("both", "vm_state"), Code.SUCCESS),
        (MESSAGING + UPDATES.format("both", "vm_and_task_state"), Code.WARNING),
        (MESSAGING + UPDATES.format("versioned", "vm_state"), Code.WARNING),
        (f"[DEFAULT]\nnotify_on_state_change = vm_state\nnotification_format = both\n{MESSAGING}", Code.WARNING),
    ],
)
def test_versioned_notifications(proc: Proc, tmp_path: Path, text: str, code: Code) -> None:
    (tmp_path / "nova.conf").write_text(text)
    conf = configuration()
    conf(["--config-file", str(tmp_path / "nova.conf")], project="nova")
    assert judge_notifications(conf, proc.path).code == Code.SUCCESS, "that of another host may be set otherwise"
    proc.run(78, *CONDUCTOR)
    assert judge_notifications(conf, proc.path).code == code
