# SPDX-License-Identifier: Apache-2.0
"""CloudletDriver: Nova's libvirt driver, whose servers may begin with a captured state instead of a boot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nova import conf as nova_conf
from nova.virt.libvirt import driver
from nova.virt.libvirt import guest as libvirt_guest

from cloudlet_ext import conf as cloudlet_conf
from cloudlet_ext.hypervisor import domain_xml
from cloudlet_ext.nova import synthesiser
from cloudlet_ext.nova.manager import CloudletManager

_EMULATORS = ("kvm", "qemu")


class CloudletDriver(driver.LibvirtDriver):  # type: ignore[misc]  # Nova has no types
    """``compute_driver = cloudlet.CloudletDriver``."""

    manager: CloudletManager | None = None

    def init_host(self, host: str) -> None:
        """As Nova's, and serve our RPC interface."""
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
        if self.manager is None or not power_on or not synthesiser.is_wanted(instance):
            # A boot: with a VM generation id, so that clones of what it becomes can be told that they are clones.
            xml = domain_xml.with_genid(domain_xml.plain(xml))
            return super()._create_guest(context, xml, instance, power_on, pause, post_xml_callback)

        def create(final: str) -> libvirt_guest.Guest:
            guest = libvirt_guest.Guest.create(final, self._host)
            if post_xml_callback is not None:
                post_xml_callback()
            self.cpu_api.power_up_for_instance(instance)
            guest.launch(pause=True)
            return guest

        return self.manager.synthesiser.start(context, xml, instance, create, pause=pause)
