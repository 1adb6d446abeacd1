# SPDX-License-Identifier: Apache-2.0
"""The cloudlet API for openstacksdk: ``attach`` gives a connection its ``cloudlet`` proxy."""

from __future__ import annotations

from cloudlet_ext.sdk.service import CloudletService, attach

__all__ = ["CloudletService", "attach"]
