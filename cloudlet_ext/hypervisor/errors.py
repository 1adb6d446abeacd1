# SPDX-License-Identifier: Apache-2.0
"""Errors of the hypervisor layer: QEMU, its monitor, its migration stream, its guests."""

from __future__ import annotations

from cloudlet_ext.exception import CloudletError


class HypervisorError(CloudletError):
    """Root of the hypervisor layer's errors."""

    exit_code = 7


class BadStream(HypervisorError):
    """The migration stream is not understood."""

    msg_fmt = "The migration stream makes no sense at byte %(offset)d: %(reason)s."


class BadDeviceState(HypervisorError):
    """Stored device state is damaged or of another version."""

    exit_code = 3
    msg_fmt = "The device state is not usable: %(reason)s. Create the base or overlay again."


class CaptureFailed(HypervisorError):
    """QEMU did not hand over its state."""

    msg_fmt = "The guest's state could not be captured: %(reason)s. The guest goes on as before."


class ScratchFull(HypervisorError):
    """There is no room for what a capture takes."""

    exit_code = 8
    msg_fmt = "No space is left in %(path)s for %(what)s. Free some and try again."
    hint = "Or choose another CLOUDLET_HOME."


class MonitorFailed(HypervisorError):
    """The monitor's connection failed, or QEMU is gone."""

    msg_fmt = "QEMU's monitor did not answer to %(command)s: %(reason)s."


class MonitorRefused(MonitorFailed):
    """QEMU answered with an error."""

    msg_fmt = "QEMU refused %(command)s: %(reason)s."


class BadMachine(HypervisorError):
    """A machine description is not usable."""

    exit_code = 3
    msg_fmt = "The machine description is not usable: field %(field)s: %(reason)s."


class MachineMismatch(HypervisorError):
    """Two machines that must be the same are not."""

    exit_code = 5
    msg_fmt = "%(what)s: %(field)s is %(found)s, expected %(expected)s. Both must be made on the same machine model."


class AcceleratorMismatch(MachineMismatch):
    """This host runs guests under another accelerator than the one that a guest was captured under."""

    msg_fmt = (
        "%(what)s: accelerator is %(found)s, expected %(expected)s. It is %(found)s because %(reason)s. "
        "A guest goes on only under the accelerator that it was captured under."
    )


class CpuUnavailable(MachineMismatch):
    """This host has no CPU like that of the captured guest."""

    msg_fmt = (
        "The base needs a CPU of model %(expected)s, this host offers %(found)s (%(reason)s). Start it on another "
        "host, or make the base with a model that all hosts have ([libvirt] cpu_mode = custom and cpu_models)."
    )


class QemuMissing(HypervisorError):
    """No usable QEMU."""

    msg_fmt = "QEMU (%(binary)s) cannot be used: %(reason)s. Install qemu-system-x86 8.2 or newer."
    hint = "Or set CLOUDLET_QEMU."


class QemuImgMissing(HypervisorError):
    """QEMU's tool for images is not installed."""

    msg_fmt = "There is no program qemu-img on PATH. Install qemu-utils."


class QemuTooOld(HypervisorError):
    """QEMU lacks what is needed."""

    msg_fmt = "%(binary)s is QEMU %(found)s, %(needed)s or newer is needed. Install a newer one."
    hint = "Or set CLOUDLET_QEMU."


class MachineTypeUnknown(HypervisorError):
    """This QEMU cannot be the machine that was captured."""

    exit_code = 5
    msg_fmt = "Machine type %(needed)s is needed; QEMU %(version)s here knows up to %(newest)s. Use a newer QEMU."


class QemuDied(HypervisorError):
    """QEMU ended by itself or was killed."""

    msg_fmt = "QEMU ended while %(stage)s: %(reason)s."


class ResumeFailed(HypervisorError):
    """QEMU did not take the state that was sent to it."""

    msg_fmt = "The guest could not be resumed: %(reason)s."


# Disks over NBD


class NbdSocketUnusable(HypervisorError):
    """The unix socket of an NBD server could not be made."""

    exit_code = 8
    msg_fmt = (
        "The disk's socket %(path)s cannot be made: %(reason)s. Choose a directory that can be written, "
        "and remove what has that name."
    )


class NotGranted(HypervisorError):
    """QEMU's user could not be let in."""

    exit_code = 8
    msg_fmt = (
        "QEMU's user cannot be let in to %(path)s: %(reason)s. It must be on a file system with access lists, in a "
        "folder of this process's user."
    )


class FolderUnusable(HypervisorError):
    """A folder for sockets could not be made."""

    exit_code = 8
    msg_fmt = (
        "The folder for sockets %(path)s cannot be used: %(reason)s. Make %(parent)s for user %(user)d with mode 0711, "
        "by systemd-tmpfiles for instance."
    )


class AgentSilent(HypervisorError):
    """No guest agent answers."""

    msg_fmt = "The guest agent does not answer: %(reason)s. Install and start qemu-guest-agent in the guest."


class AgentRefused(HypervisorError):
    """The guest agent answered with an error."""

    msg_fmt = "The guest agent refused %(command)s: %(reason)s."


class CardsKept(HypervisorError):
    """A guest keeps the network cards that it was captured with."""

    msg_fmt = "The guest's network cards could not be replaced: %(reason)s."


class ImageUnusable(HypervisorError):
    """A disk image cannot be used."""

    exit_code = 3
    msg_fmt = "The image %(path)s cannot be used: %(reason)s."


class AcceleratorUnknown(HypervisorError):
    """CLOUDLET_ACCEL has a value that means nothing."""

    exit_code = 2
    msg_fmt = "CLOUDLET_ACCEL is %(found)r, expected kvm or tcg."


class NetworkFailed(HypervisorError):
    """A network for a guest could not be made."""

    msg_fmt = (
        "The network of a scratch guest could not be made (%(command)s): %(reason)s. CAP_SYS_ADMIN and CAP_NET_ADMIN "
        "are needed, and iproute2."
    )
