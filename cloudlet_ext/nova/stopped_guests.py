# SPDX-License-Identifier: Apache-2.0
"""Guests that stand still because a capture stopped them, and whoever did that is no more."""

from __future__ import annotations

import time
from typing import Any

import libvirt
from nova.compute import vm_states
from oslo_log import log as logging

LOG = logging.getLogger(__name__)

_LOOKS, _EVERY_S = 4, 0.2
"""QEMU itself lets a guest go on whose capture ends before it is complete: it is given time for that."""


def let_run(connection: Any, instance: Any) -> None:
    """Let the guest of a server run that Nova knows as running; one that somebody has paused stays so."""
    if instance.vm_state != vm_states.ACTIVE:
        return
    try:
        domain = connection.lookupByUUIDString(instance.uuid)
        for _ in range(_LOOKS):
            if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
                return
            time.sleep(_EVERY_S)
        LOG.warning("The guest was left standing still, and goes on now", instance=instance)
        domain.resume()
    except libvirt.libvirtError as failure:
        LOG.warning("Whether the guest runs is not known: %s", failure, instance=instance)
