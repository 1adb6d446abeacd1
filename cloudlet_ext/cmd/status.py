# SPDX-License-Identifier: Apache-2.0
"""``cloudlet-status upgrade check``: whether this host is ready to run Nova with the extension.

Reads nova.conf as Nova does (``--config-file`` names another), imports nothing of Nova into itself and changes nothing.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from oslo_config import cfg
from oslo_upgradecheck import upgradecheck
from oslo_upgradecheck.upgradecheck import Code, Result

from cloudlet_ext import conf as cloudlet_conf
from cloudlet_ext.cmd import driver_link, service_host
from cloudlet_ext.cmd.compute_host import ask_libvirt, recording_obstacle
from cloudlet_ext.cmd.driver_link import LinkError, NovaMissing, user_name
from cloudlet_ext.cmd.paste_file import PasteError, PasteFile
from cloudlet_ext.hypervisor import access, userfault

COMPUTE_DRIVER = "cloudlet.CloudletDriver"

SOCKETS = Path("/run/cloudlet")
"""Where workers make the sockets that QEMU connects to."""

QEMU_NEEDED = (8, 2)
"""The oldest QEMU whose migration stream the engine has been tried with."""

LIBVIRT_NEEDED = (10, 0)
"""What distributions have beside that QEMU; nothing older was tried."""

_LINK = 'Write the link with "cloudlet-manage driver link".'


class Checks(upgradecheck.UpgradeCommands):  # type: ignore[misc]  # oslo.upgradecheck has no types
    """The checks of one host. ``nova_path`` as :func:`driver_link.nova_folder` takes it."""

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        nova_path: Path | None = None,
        proc: Path = Path("/proc"),
        sockets: Path = SOCKETS,
    ) -> None:
        self._conf, self._nova_path, self._proc, self._sockets = conf, nova_path, proc, sockets

    def check_compute_driver(self) -> Result:
        """nova.conf, where nova-compute runs."""
        found = self._conf.compute_driver
        if found == COMPUTE_DRIVER:
            return Result(Code.SUCCESS)
        told = f"compute_driver is {found or 'not set'}, not {COMPUTE_DRIVER}"
        if self._runs("nova-compute"):
            return Result(Code.FAILURE, f"nova-compute runs here, but {told}.")
        if found:
            return Result(Code.WARNING, f"{told}. Set it where nova-compute is to run guests of bases and overlays.")
        return Result(Code.SUCCESS, "No nova-compute here.")

    def check_driver_link(self) -> Result:
        """The file in nova/virt, and the driver behind it."""
        try:
            link = driver_link.check(self._nova_path)
        except NovaMissing as error:
            return Result(Code.FAILURE if self._is_compute() else Code.WARNING, str(error))
        except LinkError as error:
            return Result(Code.FAILURE, str(error))
        if link.is_well:
            return Result(Code.SUCCESS, str(link.path))
        if link.linked:
            return Result(Code.FAILURE, f"{link.path} is there, but {link.error}")
        if self._is_compute():
            return Result(Code.FAILURE, f"There is no {link.path}, so nova-compute cannot start. {_LINK}")
        return Result(Code.SUCCESS, "Not linked, and not needed here.")

    def check_paste_filter(self) -> Result:
        """The filter, in both pipelines."""
        name = self._conf.wsgi.api_paste_config
        found = self._conf.find_file(name)
        if not found:
            if self._is_compute() and not self._runs_api():
                return Result(Code.SUCCESS, f"No {name} and no nova-api here.")
            return Result(Code.WARNING, f"{name} is not found, so the filter of nova-api cannot be looked for.")
        try:
            state = PasteFile(Path(found)).state()
        except (PasteError, OSError) as error:
            return Result(Code.FAILURE, str(error))
        if state.is_enabled:
            return Result(Code.SUCCESS, found)
        if state.is_absent and self._is_compute() and not self._runs_api():
            return Result(Code.WARNING, f"{found} has no filter cloudlet. It is needed where nova-api runs.")
        missing = [f"[composite:{pipeline}]" for pipeline, is_there in state.pipelines.items() if not is_there]
        missing += [] if state.section else ["a section [filter:cloudlet]"]
        told = f"In {found} the filter cloudlet is missing: {', '.join(missing)}."
        return Result(Code.FAILURE, f'{told} Put it in with "cloudlet-manage paste enable {found}".')

    def check_root_disks(self) -> Result:
        """What Nova makes root disks of: a base's or overlay's disk is a layer of a qcow2 file."""
        if not self._is_compute():
            return Result(Code.SUCCESS, "Not needed here.")
        found = self._conf.libvirt.images_type
        if found == "qcow2" or (found == "default" and self._conf.use_cow_images):
            return Result(Code.SUCCESS, "qcow2 files")
        told = f"[libvirt] images_type is {found}" if found != "default" else "use_cow_images is False"
        needed = "No server of this host can be resumed, synthesised or captured: they need qcow2 files"
        return Result(Code.FAILURE, f"{told}. {needed} (images_type = qcow2). Other servers are as ever.")

    def check_hypervisor(self) -> Result:
        """Versions of libvirt and QEMU, as libvirt tells them."""
        if not self._is_compute():
            return Result(Code.SUCCESS, "Not needed here.")
        uri = self._conf.libvirt.connection_uri or "qemu:///system"
        try:
            found = ask_libvirt(uri)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            return self._judge_qemu_program(f"libvirt does not answer at {uri} ({error})")
        told = f"libvirt {_dotted(found.version)}, QEMU {_dotted(found.qemu_version)}"
        if found.version < LIBVIRT_NEEDED or found.qemu_version < QEMU_NEEDED:
            needed = f"libvirt {_dotted(LIBVIRT_NEEDED)} and QEMU {_dotted(QEMU_NEEDED)}"
            return Result(Code.FAILURE, f"{told}; {needed} or newer are needed.")
        return Result(Code.SUCCESS, told)

    def check_state_path(self) -> Result:
        """The folder where bases and operations are kept."""
        if not self._is_compute():
            return Result(Code.SUCCESS, "Not needed here.")
        # Its default is in Nova's state_path, which is known only now that nova.conf has been read.
        cloudlet_conf.register(self._conf)
        return self._judge_folder(Path(self._conf.cloudlet.state_path), "[cloudlet] state_path is")

    def check_socket_folder(self) -> Result:
        """The folder that workers share with QEMU."""
        if not self._is_compute():
            return Result(Code.SUCCESS, "Not needed here.")
        return self._judge_folder(self._sockets, "sockets are in")

    def check_early_start(self) -> Result:
        """Whether QEMU may catch page faults, without which no guest runs while its overlay arrives."""
        if not self._is_compute():
            return Result(Code.SUCCESS, "Not needed here.")
        try:
            found = ask_libvirt(self._conf.libvirt.connection_uri or "qemu:///system")
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            return Result(Code.WARNING, f"libvirt does not tell as whom QEMU runs ({error}).")
        reason = userfault.obstacle(found.qemu_user, found.qemu_group)
        if reason is not None:
            return Result(Code.WARNING, f"No guest starts early, and no working set can be recorded: {reason}.")
        return Result(Code.SUCCESS)

    def check_recording(self) -> Result:
        """Whether the network of a scratch guest can be made."""
        if not self._is_compute():
            return Result(Code.SUCCESS, "Not needed here.")
        reason = recording_obstacle(self._conf.cloudlet_privileged.helper_command, self._conf.rootwrap_config)
        if reason is not None:
            return Result(Code.WARNING, f'No working set can be recorded: {reason}. See "Recording" in the guide.')
        return Result(Code.SUCCESS)

    def check_restart(self) -> Result:
        """What ends with nova-compute."""
        return service_host.judge_restart(self._proc)

    def check_notifications(self) -> Result:
        """What nova-conductor cannot send."""
        return service_host.judge_notifications(self._conf, self._proc)

    _upgrade_checks: ClassVar[tuple[tuple[str, Callable[[Checks], Result]], ...]] = (
        ("Compute driver", check_compute_driver),
        ("Driver link", check_driver_link),
        ("Filter in api-paste.ini", check_paste_filter),
        ("QEMU and libvirt", check_hypervisor),
        ("Root disks", check_root_disks),
        ("State path", check_state_path),
        ("Socket folder", check_socket_folder),
        ("Early start", check_early_start),
        ("Recording", check_recording),
        ("Restart", check_restart),
        ("Notifications", check_notifications),
    )

    def _judge_folder(self, path: Path, what: str) -> Result:
        """Whether nova-compute can write in a folder, or make it."""
        nearest = next(folder for folder in (path, *path.parents) if folder.exists())
        if not nearest.is_dir():
            return Result(Code.FAILURE, f"{what} {path}, but {nearest} is a file.")
        if not os.access(nearest, os.W_OK | os.X_OK):
            return Result(Code.FAILURE, f"{nearest} is not writable for {user_name(os.geteuid())}; {what} {path}.")
        if not access.is_kept(nearest):
            return Result(
                Code.FAILURE, f"The file system of {nearest} keeps no access lists (POSIX ACLs); {what} {path}."
            )
        nova = Path(self._conf.state_path)
        if os.geteuid() == 0 and nova.is_dir() and nearest.stat().st_uid != nova.stat().st_uid:
            # Root may write anywhere, nova-compute's user is told by what else is its.
            owner = user_name(nova.stat().st_uid)
            told = f"{nearest} belongs to {user_name(nearest.stat().st_uid)}, Nova's {nova} to {owner}"
            return Result(Code.WARNING, f"{told}. nova-compute must be able to write in it: {what} {path}.")
        return Result(Code.SUCCESS, str(path))

    def _is_compute(self) -> bool:
        return self._conf.compute_driver == COMPUTE_DRIVER or self._runs("nova-compute")

    def _runs_api(self) -> bool:
        # The server is uwsgi or another; "nova-api" is in the name of its configuration, or of its module.
        return self._runs("nova-api") or self._runs("nova.wsgi.osapi_compute")

    def _runs(self, word: str) -> bool:
        """Whether a process has the word in its command line. That of a metadata service is not meant."""
        for command in self._proc.glob("[0-9]*/cmdline"):
            try:
                words = command.read_bytes().decode(errors="replace").split("\0")
            except OSError:  # it has ended, or is not ours to see
                continue
            if any(word in name and "meta" not in name for name in words):
                return True
        return False

    def _judge_qemu_program(self, reason: str) -> Result:
        """QEMU's version by QEMU itself, where libvirt does not tell; never a success."""
        program = f"qemu-system-{platform.machine()}"
        try:
            said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
        except (OSError, subprocess.SubprocessError) as error:
            return Result(Code.FAILURE, f"{reason}, and {program} does not run: {error}")
        found = re.search(r"version (\d+)\.(\d+)\.(\d+)", said)
        version = tuple(map(int, found.groups())) if found else ()
        told = f"{reason}; {program} is {_dotted(version) or 'of an unknown version'}"
        if version < QEMU_NEEDED:
            return Result(Code.FAILURE, f"{told}, {_dotted(QEMU_NEEDED)} or newer is needed.")
        return Result(Code.WARNING, f"{told}. Check again when libvirt runs.")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def configuration() -> cfg.ConfigOpts:
    """Those of Nova's options that are looked at, with Nova's defaults."""
    conf = cfg.ConfigOpts()
    try:
        state_path = str(driver_link.nova_folder().parent)
    except LinkError:
        state_path = "/var/lib/nova"
    conf.register_opts([cfg.StrOpt("compute_driver"), cfg.StrOpt("state_path", default=state_path)])
    conf.register_opt(cfg.StrOpt("api_paste_config", default="api-paste.ini", deprecated_group="DEFAULT"), group="wsgi")
    conf.register_opt(cfg.BoolOpt("use_cow_images", default=True))
    conf.register_opts(
        [cfg.StrOpt("connection_uri", default=""), cfg.StrOpt("images_type", default="default")], group="libvirt"
    )
    notifications = [
        cfg.StrOpt("notification_format", default="unversioned", deprecated_group="DEFAULT"),
        cfg.StrOpt("notify_on_state_change", deprecated_group="DEFAULT"),
    ]
    conf.register_opts(notifications, group="notifications")
    conf.register_opt(cfg.MultiStrOpt("driver", default=[]), group="oslo_messaging_notifications")
    conf.register_opt(cfg.StrOpt("rootwrap_config", default="/etc/nova/rootwrap.conf"))
    conf.register_opt(cfg.StrOpt("helper_command"), group="cloudlet_privileged")
    return conf


def main(words: list[str] | None = None) -> int:
    """Entry point: 0 all is well, 1 warnings, 2 failures, 255 an error of this program."""
    conf = configuration()
    argv = sys.argv[1:] if words is None else words
    return int(upgradecheck.main(conf, project="nova", upgrade_command=Checks(conf), argv=argv))


if __name__ == "__main__":
    sys.exit(main())
