# SPDX-License-Identifier: Apache-2.0
"""Errors of the hypervisor layer: QEMU, its monitor, its migration stream, its guests."""

from __future__ import annotations

from cloudlet_ext.exception import CloudletError


class HypervisorError(CloudletError):
    """Root of the hypervisor layer's errors."""

    exit_code = 7
