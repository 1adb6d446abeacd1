# SPDX-License-Identifier: Apache-2.0
"""Bytes: what differs from a base VM, how it is described, stored, fetched and put together again.

The disk and the memory of a VM are one sequence of 4 KiB chunks. An overlay tells, in runs, what each chunk of
the target is that differs from the base: zero, equal to another chunk of the base, or stored in the overlay. Stored
chunks are grouped to segments of 1 MiB that are compressed alone, in the order in which they will be wanted.
Nothing here knows QEMU.
"""
