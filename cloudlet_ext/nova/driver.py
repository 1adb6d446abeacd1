# SPDX-License-Identifier: Apache-2.0
"""CloudletDriver: Nova's libvirt driver, whose servers may begin with a captured state instead of a boot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nova import conf as nova_conf
from nova import exception
from nova.virt.libvirt import driver
from nova.virt.libvirt import guest as libvirt_guest

from cloudlet_ext import conf as cloudlet_conf
from cloudlet_ext.api.image import TRAIT
from cloudlet_ext.hypervisor import domain_xml
from cloudlet_ext.nova import jobs, marks, synthesiser
from cloudlet_ext.nova.manager import CloudletManager

_EMULATORS = ("kvm", "qemu")
_MAPPED = (
    "what the server has not changed of its memory is mapped from the base that this host holds. "
    "Reboot it hard before, or migrate it cold"
)


class CloudletDriver(driver.LibvirtDriver):  # type: ignore[misc]  # Nova has no types
    """``compute_driver = cloudlet.CloudletDriver``."""

    manager: CloudletManager | None = None
    _beginning: set[str]
    """Servers whose first start is under way, with a disk that Nova makes for it."""

    def init_host(self, host: str) -> None:
        """As Nova's, and serve our RPC interface."""
        self._beginning = set()
        super().init_host(host)
        cloudlet_conf.register(nova_conf.CONF)
        self.manager = CloudletManager(self, host)
        self.manager.start()

    def cleanup_host(self, host: str) -> None:
        """As Nova's."""
        if self.manager is not None:
            self.manager.stop()
        super().cleanup_host(host)

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        """As Nova's, and which bases this host holds, for the scheduler."""
        resources: dict[str, Any] = super().get_available_resource(nodename)
        if self.manager is not None:
            resources["stats"] = {**resources.get("stats", {}), **self.manager.stats()}
        return resources

    def update_provider_tree(self, provider_tree: Any, nodename: str, allocations: Any = None) -> None:
        """As Nova's, and the trait that bases ask for: other drivers would boot them, and ignore overlays."""
        super().update_provider_tree(provider_tree, nodename, allocations)
        if nova_conf.CONF.libvirt.virt_type in _EMULATORS:
            provider_tree.add_traits(nodename, TRAIT)
        else:
            provider_tree.remove_traits(nodename, TRAIT)

    def spawn(self, context: Any, instance: Any, *args: Any, **kwargs: Any) -> None:
        """As Nova's. A server that was evacuated keeps its disk where hosts share them: it is booted from that."""
        begins = synthesiser.begins(instance)
        if begins and self._has_disk(instance):
            begins = False
            if synthesiser.is_built(instance) and synthesiser.is_of_base(instance):
                reason = "A disk is left of an earlier attempt to build the server. Delete it, and make a new server."
                raise exception.BuildAbortException(instance_uuid=instance.uuid, reason=reason)
        if begins:
            # What it was before says nothing about its new disk.
            marks.clear(instance)
            if not synthesiser.is_built(instance):
                marks.new_generation(instance)
            self._beginning.add(instance.uuid)
        try:
            beginner = self._synthesiser_of(instance)
            if kwargs.get("power_on", True) and beginner is not None:
                beginner.begin_early(context, instance)
            super().spawn(context, instance, *args, **kwargs)
        except BaseException as failure:
            self._end_beginning(instance, failure)
            raise
        finally:
            self._beginning.discard(instance.uuid)

    def _synthesiser_of(self, instance: Any) -> synthesiser.Synthesiser | None:
        """What has a server take up a captured state now; None for one that boots."""
        if self.manager is None or nova_conf.CONF.libvirt.virt_type not in _EMULATORS:
            return None
        takes_up = instance.uuid in self._beginning and synthesiser.is_of_base(instance)
        return self.manager.synthesiser if takes_up else None

    def _end_beginning(self, instance: Any, failure: BaseException) -> None:
        """Nova could not build a server: end what was begun, and have nobody try again what cannot work."""
        if self.manager is None or instance.uuid not in self._beginning:
            return
        self.manager.synthesiser.withdraw(instance, failure)
        if isinstance(failure, Exception) and marks.STARTED in instance.system_metadata:
            self.manager.synthesiser.abandon(instance, failure)

    def check_can_live_migrate_source(
        self, context: Any, instance: Any, dest_check_data: Any, block_device_info: Any = None
    ) -> Any:
        """As Nova's; a guest whose memory is a map of a file of this host stays until it was started anew."""
        if domain_xml.is_mapped(self._host.get_guest(instance).get_xml_desc()):
            raise exception.MigrationPreCheckError(reason=_MAPPED)
        return super().check_can_live_migrate_source(context, instance, dest_check_data, block_device_info)

    def _has_disk(self, instance: Any) -> bool:
        """Whether the server's disk is there before Nova makes one."""
        if self.image_backend.backend().is_file_in_instance_path():
            return Path(jobs.disk_path(instance)).exists()
        # What keeps it elsewhere has to be asked, which takes its time.
        return synthesiser.is_of_base(instance) and bool(self.image_backend.by_name(instance, "disk").exists())

    def destroy(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        """As Nova's; what is being done with a server that goes for good is ended first."""
        if destroy_disks and self.manager is not None:
            self.manager.end_operations_of(instance)
        super().destroy(context, instance, network_info, block_device_info, destroy_disks, destroy_secrets)

    def _create_guest(
        self,
        context: Any,
        xml: str,
        instance: Any,
        power_on: bool = True,
        pause: bool = False,
        post_xml_callback: Callable[[], None] | None = None,
    ) -> libvirt_guest.Guest:
        """Called for every start of a domain: the first one of a server of a base image takes up the captured state."""
        if nova_conf.CONF.libvirt.virt_type not in _EMULATORS:
            return super()._create_guest(context, xml, instance, power_on, pause, post_xml_callback)
        beginner = self._synthesiser_of(instance)
        if not power_on or beginner is None:
            synthesiser.require_whole(instance)
            # A boot: with a VM generation id, so that clones of what it becomes can be told that they are clones.
            xml = domain_xml.with_genid(domain_xml.plain(xml), marks.generation(instance))
            return super()._create_guest(context, xml, instance, power_on, pause, post_xml_callback)

        def create(final: str) -> libvirt_guest.Guest:
            guest = libvirt_guest.Guest.create(final, self._host)
            if post_xml_callback is not None:
                post_xml_callback()
            self.cpu_api.power_up_for_instance(instance)
            guest.launch(pause=True)
            return guest

        return beginner.start(context, xml, instance, create, pause=pause)
