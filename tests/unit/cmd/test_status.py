# SPDX-License-Identifier: Apache-2.0
"""cloudlet-status upgrade check, on hosts made of files: nova.conf, api-paste.ini, a Nova, a libvirt, processes."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
from oslo_upgradecheck import upgradecheck
from oslo_upgradecheck.upgradecheck import Code, Result

from cloudlet_ext.cmd import compute_host, driver_link, status
from cloudlet_ext.cmd.paste_file import PasteFile
from cloudlet_ext.cmd.status import Checks, configuration, main
from cloudlet_ext.hypervisor import userfault
from tests.unit.cmd.installation import PASTE, as_another_user, make_nova, open_folder

PROBE = """\
def openReadOnly(uri):
    if uri != "qemu:///system":
        raise RuntimeError("no such place: " + uri)
    return Connection()

class Connection:
    def getLibVersion(self):
        return {libvirt}

    def getVersion(self):
        return {qemu}

    def getCapabilities(self):
        label = "<model>dac</model><doi>0</doi><baselabel type='kvm'>+{user}:+{user}</baselabel>"
        return "<capabilities><host><secmodel>" + label + "</secmodel></host></capabilities>"
"""


class Host:
    """One host. Nothing is there at first but an empty /proc and Nova's state path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc, self.nova, self.state = folder / "proc", folder / "site", folder / "state"
        self.paste, self.modules = folder / "api-paste.ini", folder / "modules"
        for name in (self.proc, self.state, self.modules):
            name.mkdir()
        self.rootwrap, self.filters = folder / "rootwrap.conf", folder / "rootwrap.d"
        self.conf = folder / "nova.conf"
        self.configure("")

    def configure(self, default: str, rest: str = "") -> None:
        """Write nova.conf."""
        default = f"state_path = {self.state}\nrootwrap_config = {self.rootwrap}\n{default}"
        self.conf.write_text(f"[DEFAULT]\n{default}\n[wsgi]\napi_paste_config = {self.paste}\n{rest}\n")

    def run_process(self, *words: str) -> None:
        """Let it look as if a process ran."""
        folder = self.proc / str(len(list(self.proc.iterdir())) + 100)
        folder.mkdir()
        (folder / "cmdline").write_bytes("".join(f"{word}\0" for word in words).encode())

    def link_driver(self) -> None:
        """A linked driver that can be imported."""
        make_nova(self.nova)
        package = self.nova / "cloudlet_ext/nova"
        package.mkdir(parents=True)
        (package.parent / "__init__.py").touch()
        (package / "__init__.py").touch()
        (package / "driver.py").write_text("class CloudletDriver: ...\n")
        driver_link.link(self.nova)

    def install_libvirt(self, libvirt: int, qemu: int, user: int | None = None) -> None:
        """A Python module that answers as libvirt's does, and runs QEMU as ``user`` (None: of these tests)."""
        user = os.geteuid() if user is None else user
        (self.modules / "libvirt.py").write_text(PROBE.format(libvirt=libvirt, qemu=qemu, user=user))

    def install_rootwrap(self, *contexts: str) -> None:
        """Rootwrap that lets pass daemons of these contexts."""
        self.filters.mkdir(exist_ok=True)
        self.rootwrap.write_text(f"[DEFAULT]\nfilters_path = /usr/share/none,{self.filters}\nexec_dirs = /usr/bin\n")
        lines = [f"name: RegExpFilter, privsep-helper, root, --privsep_context, {context}\n" for context in contexts]
        (self.filters / "compute.filters").write_text("[Filters]\n" + "".join(lines))

    def install_qemu(self, version: str) -> None:
        """A QEMU that knows its version."""
        path = self.modules / f"qemu-system-{platform.machine()}"
        path.write_text(f"#!/bin/sh\necho 'QEMU emulator version {version} (Debian)'\n")
        path.chmod(0o755)

    def check(self) -> dict[str, Result]:
        """Results by the checks' names."""
        conf = configuration()
        conf(["--config-file", str(self.conf)], project="nova")
        checks = Checks(conf, nova_path=self.nova, proc=self.proc, sockets=self.folder / "run/cloudlet")
        return {name: check(checks) for name, check in Checks._upgrade_checks}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(host.modules))
    monkeypatch.setenv("PATH", f"{host.modules}")
    return host


@pytest.fixture
def compute(host: Host) -> Host:
    """A host where nova-compute is installed as it should be."""
    host.configure("compute_driver = cloudlet.CloudletDriver")
    host.link_driver()
    host.install_libvirt(11_003_000, 10_000_002)
    host.install_rootwrap("nova.privsep.sys_admin_pctxt", CONTEXT)
    return host


CONTEXT = "cloudlet_ext.privsep.context"


def amiss(results: dict[str, Result]) -> dict[str, int]:
    """What is no success."""
    return {name: int(result.code) for name, result in results.items() if result.code}


def test_a_compute_host_as_it_should_be(compute: Host) -> None:
    results = compute.check()
    assert not amiss(results)
    assert results["Driver link"].details == str(compute.nova / "nova/virt/cloudlet.py")
    assert results["QEMU and libvirt"].details == "libvirt 11.3.0, QEMU 10.0.2"
    assert results["State path"].details == str(compute.state / "cloudlet")


def test_all_in_one(compute: Host) -> None:
    compute.paste.write_bytes(PASTE)
    compute.run_process("/usr/bin/python3", "/opt/bin/nova-compute", "--config-file", "nova.conf")
    compute.run_process("/usr/bin/uwsgi", "--ini", "/etc/nova/nova-api-uwsgi.ini")
    found = compute.check()["Filter in api-paste.ini"]
    assert found.code == Code.FAILURE and "[composite:openstack_compute_api_v21]" in found.details
    assert f"cloudlet-manage paste enable {compute.paste}" in found.details
    PasteFile(compute.paste).enable()
    assert not amiss(compute.check())


@pytest.mark.parametrize(
    ("default", "libvirt", "told"),
    [
        ("", "images_type = rbd", "[libvirt] images_type is rbd"),
        ("use_cow_images = False", "", "use_cow_images is False"),
        ("use_cow_images = False", "images_type = qcow2", ""),
        ("", "images_type = default", ""),
    ],
)
def test_root_disks(compute: Host, default: str, libvirt: str, told: str) -> None:
    compute.configure(f"compute_driver = cloudlet.CloudletDriver\n{default}", f"[libvirt]\n{libvirt}")
    found = compute.check()["Root disks"]
    assert found.code == (Code.FAILURE if told else Code.SUCCESS)
    assert told in found.details


def test_an_api_host(host: Host) -> None:
    make_nova(host.nova)
    host.paste.write_bytes(PASTE)
    assert amiss(host.check()) == {"Filter in api-paste.ini": 2}
    PasteFile(host.paste).enable()
    assert not amiss(host.check())


def test_one_pipeline_of_two(host: Host) -> None:
    make_nova(host.nova)
    PasteFile.enable(PasteFile(_written(host.paste, PASTE)))
    host.paste.write_bytes(host.paste.read_bytes().replace(b"cloudlet legacy", b"legacy"))
    found = host.check()["Filter in api-paste.ini"]
    assert found.code == Code.FAILURE
    assert "missing: [composite:openstack_compute_api_v21_legacy_v2_compatible]." in found.details


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_compute_host_with_an_unused_paste_file(compute: Host) -> None:
    """Some distributions install it everywhere."""
    compute.paste.write_bytes(PASTE)
    found = compute.check()["Filter in api-paste.ini"]
    assert found.code == Code.WARNING and "needed where nova-api runs" in found.details
    compute.run_process("uwsgi", "--ini", "/etc/nova/nova-api-meta-uwsgi.ini")
    assert compute.check()["Filter in api-paste.ini"].code == Code.WARNING


def test_no_paste_file_where_no_compute_is(host: Host) -> None:
    assert host.check()["Filter in api-paste.ini"].code == Code.WARNING


def test_a_damaged_paste_file(host: Host) -> None:
    host.paste.write_bytes(b"")
    found = host.check()["Filter in api-paste.ini"]
    assert found.code == Code.FAILURE and "Is this the api-paste.ini" in found.details


@pytest.mark.parametrize(("driver", "code"), [("libvirt.LibvirtDriver", 1), ("", 0)])
def test_another_driver(host: Host, driver: str, code: int) -> None:
    host.configure(f"compute_driver = {driver}" if driver else "")
    assert host.check()["Compute driver"].code == code
    host.run_process("/usr/bin/python3", "/usr/bin/nova-compute")
    found = host.check()["Compute driver"]
    assert found.code == Code.FAILURE
    assert f"compute_driver is {driver or 'not set'}, not cloudlet.CloudletDriver" in found.details


def test_the_link(compute: Host) -> None:
    driver_link.unlink(compute.nova)
    found = compute.check()["Driver link"]
    assert found.code == Code.FAILURE and "cloudlet-manage driver link" in found.details
    driver_link.link(compute.nova)
    (compute.nova / "cloudlet_ext/nova/driver.py").write_text("raise ImportError('no libvirt here')\n")
    found = compute.check()["Driver link"]
    assert found.code == Code.FAILURE and "no libvirt here" in found.details
    (compute.nova / "nova/virt/cloudlet.py").write_text("")
    found = compute.check()["Driver link"]
    assert found.code == Code.FAILURE and "not written by cloudlet-manage" in found.details


def test_no_nova(host: Host) -> None:
    assert host.check()["Driver link"].code == Code.WARNING
    host.configure("compute_driver = cloudlet.CloudletDriver")
    assert host.check()["Driver link"].code == Code.FAILURE


@pytest.mark.parametrize(
    ("libvirt", "qemu", "code"),
    [(11_003_000, 8_001_005, 2), (11_003_000, 8_002_000, 0), (9_010_000, 10_000_000, 2), (10_000_000, 11_000_000, 0)],
)
def test_versions(compute: Host, libvirt: int, qemu: int, code: int) -> None:
    compute.install_libvirt(libvirt, qemu)
    found = compute.check()["QEMU and libvirt"]
    assert found.code == code
    assert code == 0 or "QEMU 8.2 or newer are needed" in found.details


def test_libvirt_does_not_answer(compute: Host) -> None:
    compute.configure(
        "compute_driver = cloudlet.CloudletDriver", "[libvirt]\nconnection_uri = qemu+tcp://nowhere/system"
    )
    for version, code in (("10.0.2", Code.WARNING), ("7.2.9", Code.FAILURE)):
        compute.install_qemu(version)
        found = compute.check()["QEMU and libvirt"]
        assert found.code == code
        assert "no such place: qemu+tcp://nowhere/system" in found.details and version in found.details


def test_neither_libvirt_nor_qemu(compute: Host) -> None:
    (compute.modules / "libvirt.py").write_text("raise ImportError('no libvirt')\n")
    assert compute.check()["QEMU and libvirt"].code == Code.FAILURE


def test_the_state_path_is_a_file(compute: Host) -> None:
    (compute.state / "cloudlet").touch()
    found = compute.check()["State path"]
    assert found.code == Code.FAILURE and "is a file" in found.details


def test_the_state_path_is_where_nova_conf_says(compute: Host) -> None:
    path = compute.folder / "elsewhere/bases"
    compute.configure("compute_driver = cloudlet.CloudletDriver", f"[cloudlet]\nstate_path = {path}")
    assert compute.check()["State path"].details == str(path)


def test_the_state_path_is_not_writable() -> None:
    """Root may write anywhere, so that another user asks."""
    with open_folder() as folder:
        conf = folder / "nova.conf"
        conf.write_text(
            "[DEFAULT]\ncompute_driver = cloudlet.CloudletDriver\n"
            f"[wsgi]\napi_paste_config = {folder}/none\n[cloudlet]\nstate_path = {folder}/cloudlet/bases\n"
        )
        folder.chmod(0o555)
        ended = as_another_user("--config-file", conf, "upgrade", "check", command="status", rehearsed=True)
    assert ended.returncode == 2, ended.stderr
    assert "is not writable for" in " ".join(ended.stdout.replace("|", " ").split())


def test_the_state_path_of_another_user(compute: Host) -> None:
    """Only root can give a folder away, and only root's own access says nothing of nova-compute's."""
    (compute.state / "cloudlet").mkdir()
    if os.geteuid() == 0:
        os.chown(compute.state, 65534, 65534)
    found = compute.check()["State path"]
    assert found.code == (Code.WARNING if os.geteuid() == 0 else Code.SUCCESS)
    assert os.geteuid() or ("(uid 0)" in found.details and "65534" in found.details)


def test_the_socket_folder(compute: Host) -> None:
    (compute.folder / "run").touch()
    found = compute.check()["Socket folder"]
    assert found.code == Code.FAILURE and f"{compute.folder}/run is a file" in found.details


def test_the_socket_folder_is_the_code_s() -> None:
    source = (Path(status.__file__).parents[1] / "nova/jobs.py").read_text()
    assert f'Path("{status.SOCKETS}")' in source


def test_the_state_path_on_a_file_system_without_access_lists(compute: Host) -> None:
    compute.configure("compute_driver = cloudlet.CloudletDriver", "[cloudlet]\nstate_path = /proc/self/none")
    found = compute.check()["State path"]
    assert found.code == Code.FAILURE
    # As another user than root nothing can be made there anyway.
    assert "keeps no access lists" in found.details or "is not writable" in found.details


def test_qemu_may_not_catch_page_faults(compute: Host) -> None:
    compute.install_libvirt(11_003_000, 10_000_002, user=65534)
    found, reason = compute.check()["Early start"], userfault.obstacle(65534, 65534)
    # It depends on the kernel that the tests run on.
    assert found.code == (Code.SUCCESS if reason is None else Code.WARNING)
    assert reason is None or reason in found.details
    (compute.modules / "libvirt.py").write_text("raise ImportError('no libvirt')\n")
    found = compute.check()["Early start"]
    assert found.code == Code.WARNING and "no libvirt" in found.details


def test_recording(compute: Host) -> None:
    compute.install_rootwrap("nova.privsep.sys_admin_pctxt")
    found = compute.check()["Recording"]
    assert found.code == Code.WARNING
    assert f"no filter in /usr/share/none, {compute.filters} of {compute.rootwrap} names {CONTEXT}" in found.details
    compute.rootwrap.unlink()
    found = compute.check()["Recording"]
    assert found.code == Code.WARNING and f"{compute.rootwrap} cannot be read" in found.details


@pytest.mark.parametrize(
    ("helper", "code"),
    [
        ("sudo privsep-helper --config-file /etc/nova/nova.conf", Code.SUCCESS),
        ("sudo nova-rootwrap $rootwrap_config privsep-helper --config-file /etc/nova/nova.conf", Code.WARNING),
        ("sudo /opt/bin/nova-rootwrap /etc/none.conf privsep-helper", Code.WARNING),
    ],
)
def test_recording_by_another_helper(compute: Host, helper: str, code: Code) -> None:
    compute.install_rootwrap()
    compute.configure("compute_driver = cloudlet.CloudletDriver", f"[cloudlet_privileged]\nhelper_command = {helper}")
    assert compute.check()["Recording"].code == code


def test_the_context_is_the_code_s() -> None:
    source = (Path(status.__file__).parents[1] / "privsep.py").read_text()
    assert f'CONTEXT = "{compute_host.PRIVSEP_CONTEXT}"' in source


def test_the_table(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    host.paste.write_bytes(PASTE)
    assert main(["--config-file", str(host.conf), "upgrade", "check"]) == 2
    output = capsys.readouterr().out
    assert "| Upgrade Check Results" in output
    for name, _ in Checks._upgrade_checks:
        assert f"| Check: {name} " in output
    assert "| Result: Failure" in output


def test_it_is_an_upgrade_check_as_others_are() -> None:
    assert issubclass(Checks, upgradecheck.UpgradeCommands)
