# SPDX-License-Identifier: Apache-2.0
"""QEMU: its processes, its monitor, its migration protocol. Nothing here knows what an overlay is."""
