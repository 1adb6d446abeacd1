# SPDX-License-Identifier: Apache-2.0
"""devstack/lib/cloudlet: what its functions do to the files of a DevStack, once, twice and undone."""

from __future__ import annotations

import configparser
from pathlib import Path

from tests.devstack.conftest import ROOT, DevStack

WEIGHER = "cloudlet_ext.nova.scheduler.BaseWeigher"
STACK = "install_cloudlet; configure_cloudlet; init_cloudlet; start_cloudlet"


def read(path: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read(path)
    return parser


def test_install(devstack: DevStack) -> None:
    devstack.do("install_cloudlet")
    assert f"setup_develop {ROOT}" in devstack.calls
    assert "from cloudlet_ext.nova.driver import CloudletDriver\n" in devstack.link.read_text()


def test_install_uses_the_installed_command(devstack: DevStack) -> None:
    devstack.program("cloudlet-manage")
    devstack.do("install_cloudlet")
    assert f"cloudlet-manage driver link --nova-path {devstack.nova}" in devstack.calls
    assert not devstack.link.exists()


def test_another_hypervisor_is_refused(devstack: DevStack) -> None:
    devstack.variables["VIRT_DRIVER"] = "fake"
    assert devstack.run("install_cloudlet").returncode == 1
    assert "die cloudlet-ext needs VIRT_DRIVER=libvirt, not fake" in devstack.calls
    assert not devstack.link.exists()


def test_configure(devstack: DevStack) -> None:
    devstack.variables |= {"CLOUDLET_MAX_WORKERS": "3", "CLOUDLET_OVERLAY_SOURCES": "glance:,http:"}
    devstack.do("configure_cloudlet")
    conf, paste = read(devstack.conf), read(devstack.paste)
    assert conf["DEFAULT"]["compute_driver"] == "cloudlet.CloudletDriver"
    assert dict(conf["cloudlet"])["state_path"] == str(devstack.state)
    assert conf["cloudlet"]["max_workers"] == "3"
    assert conf["cloudlet"]["overlay_sources"] == "glance:,http:"
    assert "allowed_networks" not in read(devstack.conf)._sections["cloudlet"]
    assert conf["filter_scheduler"]["weight_classes"] == f"nova.scheduler.weights.all_weighers,{WEIGHER}"
    assert conf["filter_scheduler"]["enabled_filters"] == "ComputeFilter,SameHostFilter"
    for composite in ("openstack_compute_api_v21", "openstack_compute_api_v21_legacy_v2_compatible"):
        words = paste[f"composite:{composite}"]["keystone"].split()
        assert words.index("cloudlet") == words.index("keystonecontext") + 1
    assert paste["filter:cloudlet"]["paste.filter_factory"] == "cloudlet_ext.nova.filter:filter_factory"
    assert devstack.state.stat().st_mode & 0o777 == devstack.run_dir.stat().st_mode & 0o777 == 0o711
    user = devstack.variables["STACK_USER"]
    assert (devstack.tmpfiles / "cloudlet.conf").read_text() == f"d {devstack.run_dir} 0711 {user} - -\n"


def test_twice_is_once(devstack: DevStack) -> None:
    for program in ("cloudlet-status", "glance-manage"):
        devstack.program(program)
    devstack.do(STACK)
    once = devstack.files()
    devstack.do(STACK)
    assert devstack.files() == once


def test_other_weighers_stay(devstack: DevStack) -> None:
    text = devstack.conf.read_text().replace("[filter_scheduler]\n", "[filter_scheduler]\nweight_classes = a.B, c.D\n")
    devstack.conf.write_text(text)
    devstack.do("configure_cloudlet; configure_cloudlet")
    assert read(devstack.conf)["filter_scheduler"]["weight_classes"] == f"a.B, c.D,{WEIGHER}"
    devstack.do("unconfigure_cloudlet")
    assert read(devstack.conf)["filter_scheduler"]["weight_classes"] == "a.B,c.D"


def test_a_host_does_only_what_its_services_need(devstack: DevStack) -> None:
    devstack.variables["ENABLED_SERVICES"] = "n-cpu"
    before = devstack.paste.read_bytes()
    devstack.do("install_cloudlet; configure_cloudlet")
    assert devstack.link.exists()
    assert devstack.paste.read_bytes() == before
    assert "weight_classes" not in devstack.conf.read_text()

    devstack.do("unconfigure_cloudlet")
    devstack.variables["ENABLED_SERVICES"] = "n-api,n-sch"
    devstack.do("install_cloudlet; configure_cloudlet")
    assert not devstack.link.exists()
    assert devstack.paste.read_bytes() != before
    assert read(devstack.conf)["DEFAULT"]["compute_driver"] == "libvirt.LibvirtDriver"


def test_undone_to_the_byte(devstack: DevStack) -> None:
    devstack.program("cloudlet-status", exit_code=1)
    (devstack.apparmor / "libvirt-qemu.d").mkdir(parents=True)
    (devstack.apparmor / "libvirt-qemu").write_text("  include if exists <abstractions/libvirt-qemu.d>\n")
    policy = devstack.folder / "policy.yaml"
    policy.write_text('"os_compute_api:os-cloudlet:synthesize": "role:admin"\n')
    devstack.variables |= {"CLOUDLET_POLICY_FILE": policy, "CLOUDLET_ALLOWED_NETWORKS": "10.0.0.0/8"}
    before = devstack.files()
    devstack.do(STACK)
    devstack.variables["NOVA_CPU_CONF"].write_bytes(devstack.conf.read_bytes())
    made = {"api-paste.ini", "nova.conf", "nova-cpu.conf", "cloudlet.py", "cloudlet.yaml", "cloudlet.conf", "cloudlet"}
    made |= {"cloudlet.filters", "60-cloudlet.conf"}
    assert {Path(name).name for name, content in devstack.files().items() if before.get(name) != content} == made
    devstack.do("stop_cloudlet; unconfigure_cloudlet")
    cpu_conf = devstack.variables["NOVA_CPU_CONF"]
    assert cpu_conf.read_bytes() == before["etc/nova/nova.conf"]
    cpu_conf.unlink()
    assert devstack.files() == before
    assert devstack.state.exists(), "bases stay until clean.sh"
    devstack.do("cleanup_cloudlet; cleanup_cloudlet")
    assert devstack.files() == before
    assert not devstack.state.exists() and not devstack.run_dir.exists()


def test_undo_where_all_is_gone(devstack: DevStack) -> None:
    """clean.sh calls unstack.sh first, and a stack.sh may have ended before the plugin was reached."""
    for file in (devstack.conf, devstack.paste):
        file.unlink()
    ended = devstack.run("stop_cloudlet; unconfigure_cloudlet; cleanup_cloudlet; echo done", errexit=False)
    assert ended.stdout.splitlines()[-1] == "done"
    assert not list(devstack.etc.iterdir())


def test_a_driver_of_somebody_else_stays(devstack: DevStack) -> None:
    devstack.do("configure_cloudlet")
    text = devstack.conf.read_text().replace("cloudlet.CloudletDriver", "fake.FakeDriver")
    devstack.conf.write_text(text)
    devstack.do("unconfigure_cloudlet")
    assert read(devstack.conf)["DEFAULT"]["compute_driver"] == "fake.FakeDriver"


def test_what_a_user_added_to_our_section_stays(devstack: DevStack) -> None:
    devstack.do("configure_cloudlet; iniset $NOVA_CONF cloudlet placement early; unconfigure_cloudlet")
    assert dict(read(devstack.conf)["cloudlet"])["placement"] == "early"
    assert "state_path" not in read(devstack.conf)._sections["cloudlet"]


def test_descriptions_of_images(devstack: DevStack) -> None:
    devstack.program("glance-manage")
    devstack.do("init_cloudlet")
    conf = devstack.variables["GLANCE_API_CONF"]
    load = f"db load_metadefs --path {ROOT}/etc/metadefs --merge --prefer_new"
    assert devstack.calls[-1] == f"glance-manage --config-file {conf} {load}"
    devstack.program("glance-manage", exit_code=1)
    devstack.do("init_cloudlet")
    assert devstack.calls[-1].startswith("warn The descriptions")
    devstack.variables["ENABLED_SERVICES"] = "n-cpu"
    devstack.do("init_cloudlet")
    assert not [call for call in devstack.calls if call.startswith("glance-manage")]


def test_stop_ends_operations(devstack: DevStack) -> None:
    devstack.do("stop_cloudlet")
    assert devstack.calls[-2:] == ["stop_process n-cpu", "systemctl kill devstack@n-cpu.service"]


def test_the_check_reads_the_configuration_of_the_service(devstack: DevStack) -> None:
    devstack.program("cloudlet-status", exit_code=2)
    devstack.do("start_cloudlet")
    assert f"cloudlet-status --config-file {devstack.conf} upgrade check" in devstack.calls
    cpu_conf = devstack.variables["NOVA_CPU_CONF"]
    cpu_conf.touch()
    devstack.do("start_cloudlet")
    assert f"cloudlet-status --config-file {cpu_conf} upgrade check" in devstack.calls


def test_policies(devstack: DevStack) -> None:
    policy = devstack.folder / "overrides"
    policy.write_text("{}\n")
    devstack.variables["CLOUDLET_POLICY_FILE"] = policy
    devstack.do("configure_cloudlet")
    target = devstack.etc / "policy.d/cloudlet.yaml"
    assert target.read_bytes() == policy.read_bytes()
    devstack.variables["CLOUDLET_POLICY_FILE"] = ""
    devstack.do("configure_cloudlet")
    assert not target.exists()


def test_apparmor(devstack: DevStack) -> None:
    rules = devstack.apparmor / "libvirt-qemu.d/cloudlet"
    devstack.do("configure_cloudlet")
    assert not devstack.apparmor.exists(), "a host without AppArmor"
    devstack.apparmor.mkdir()
    (devstack.apparmor / "libvirt-qemu").write_text("# nothing is included\n")
    devstack.do("configure_cloudlet")
    assert not rules.exists()
    assert any(call.startswith("echo_summary AppArmor") for call in devstack.calls)
    (devstack.apparmor / "libvirt-qemu").write_text("  include if exists <abstractions/libvirt-qemu.d>\n")
    devstack.do("configure_cloudlet")
    assert rules.read_text().splitlines()[1:] == [
        f'"{devstack.state}/bases/**" rk,',
        f'"{devstack.run_dir}/**" rw,',
        "/dev/userfaultfd rw,",
    ]


def test_what_a_guest_that_starts_early_needs(devstack: DevStack) -> None:
    devstack.do("configure_cloudlet")
    assert (devstack.sysctl / "60-cloudlet.conf").read_text() == "vm.unprivileged_userfaultfd = 1\n"
    assert "sysctl -q -w vm.unprivileged_userfaultfd=1" in devstack.calls


def test_what_recording_needs(devstack: DevStack) -> None:
    devstack.do("configure_cloudlet")
    guide = (ROOT / "doc/source/admin/install.rst").read_text()
    lines = (devstack.etc / "rootwrap.d/cloudlet.filters").read_text().splitlines()
    assert lines[0] == "[Filters]" and len(lines) == 2
    assert all(f"    {line}\n" in guide for line in lines)
    devstack.variables["ENABLED_SERVICES"] = "n-api"
    devstack.do("unconfigure_cloudlet; configure_cloudlet")
    assert not (devstack.etc / "rootwrap.d/cloudlet.filters").exists()


def test_a_folder_outside_is_never_removed(devstack: DevStack) -> None:
    devstack.do('CLOUDLET_STATE_PATH=; rm() { echo "rm $*" >>"$CALLS"; }; cleanup_cloudlet')
    assert not [call for call in devstack.calls if call.startswith("rm -rf")]
