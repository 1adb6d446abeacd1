# SPDX-License-Identifier: Apache-2.0
"""Access lists: files that one user more than their owner may use, whom no mode can name; mostly QEMU's.

A worker makes files as the user of nova-compute, and the QEMU that libvirt starts is another user. With the modes of
files alone either a group would have to be shared, or everybody could read what tenants have in memory. An access list
(POSIX ACL, acl(5)) can be set by the owner, needs no privilege, and lets in that one user.
"""

from __future__ import annotations

import errno
import functools
import operator
import os
import struct
from collections.abc import Collection
from pathlib import Path

from cloudlet_ext.hypervisor import errors

READ, WRITE, PASS = 4, 2, 1
"""Permissions; those of a file are ``READ | WRITE``, of a folder all three."""

_ACCESS, _DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
_HEADER, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")  # the kernel's posix_acl_xattr.h: version; tag, perm, id
_VERSION, _NOBODY = 2, 0xFFFFFFFF
_OWNER, _USER, _GROUP, _NAMED_GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


def grant(path: Path, user: int | None, permissions: int) -> None:
    """Let ``user`` use a file of ours, and nobody else but its owner; :class:`errors.NotGranted`.

    None, or its owner: nobody else at all.
    """
    try:
        status = path.stat()
        owner = status.st_mode >> 6 & 7
        if user is None or user == status.st_uid:
            path.chmod(owner << 6)
        else:
            _set(path, _ACCESS, owner, {user: permissions})
    except OSError as failure:
        raise _not_granted(path, failure) from failure


def keep(path: Path, user: int | None) -> None:
    """Let ``user`` and ourselves use a file, and nobody else, whoever its owner will be; :class:`errors.NotGranted`.

    libvirt gives disks to QEMU's user and does not touch their lists.
    """
    if user is None or user == os.geteuid():
        return
    try:
        _set(path, _ACCESS, READ | WRITE, {os.geteuid(): READ | WRITE, user: READ | WRITE})
    except OSError as failure:
        raise _not_granted(path, failure) from failure


def grant_inside(folder: Path, user: int | None) -> None:
    """As :func:`grant`, for all that is made in a folder from now on, be it by us or by ``user``: both may use it.

    What a program makes with a narrow mode, or under a narrow umask, stays closed to the other one until it gets group
    permissions: in a file with an access list these are the most that anybody in the list has.
    """
    if user is None or user == os.geteuid():
        return
    everything = READ | WRITE | PASS
    try:
        _set(folder, _DEFAULT, everything, {os.geteuid(): everything, user: everything})
    except OSError as failure:
        raise _not_granted(folder, failure) from failure


def let_pass(folder: Path, user: int | None) -> None:
    """Let ``user`` reach what is in a folder, unless everybody may; :class:`errors.NotGranted`.

    In another user's folder that is the affair of whoever made it.
    """
    status = folder.stat()
    if user is not None and status.st_uid == os.geteuid() and not status.st_mode & PASS:
        grant(folder, user, PASS)


def may_use(path: Path, user: int, groups: Collection[int], permissions: int) -> bool:
    """Whether a user without privileges, who is in these groups, has all of these permissions; OSError."""
    status = path.stat()
    mode, mask, users, members = status.st_mode, 7, dict[int, int](), {status.st_gid: status.st_mode >> 3 & 7}
    for tag, granted, one in _get(path):
        if tag == _USER:
            users[one] = granted
        elif tag == _GROUP:
            members[status.st_gid] = granted
        elif tag == _NAMED_GROUP:
            members[one] = granted
        elif tag == _MASK:
            mask = granted
    if user == status.st_uid:
        found = [mode >> 6 & 7]
    elif user in users:
        found = [users[user] & mask]
    else:
        # The first group that has all of them decides, not all groups together.
        found = [granted & mask for group, granted in members.items() if group in groups] or [mode & 7]
    return any(one & permissions == permissions for one in found)


def is_kept(path: Path) -> bool:
    """Whether the file system of ``path`` keeps access lists; OSError."""
    try:
        os.getxattr(path, _ACCESS)
    except OSError as failure:
        if failure.errno != errno.ENODATA:
            if failure.errno == errno.ENOTSUP:
                return False
            raise
    return True


def _get(path: Path) -> list[tuple[int, int, int]]:
    """The entries of a list: tag, permissions, id; none when the file has no list."""
    try:
        value = os.getxattr(path, _ACCESS)
    except OSError as failure:
        if failure.errno not in (errno.ENODATA, errno.ENOTSUP):
            raise
        return []
    return list(_ENTRY.iter_unpack(value[_HEADER.size :]))


def _set(path: Path, kind: str, owner: int, users: dict[int, int]) -> None:
    entries = [(_OWNER, owner, _NOBODY)]
    entries += [(_USER, permissions, user) for user, permissions in sorted(users.items())]
    mask = functools.reduce(operator.or_, users.values())
    entries += [(_GROUP, 0, _NOBODY), (_MASK, mask, _NOBODY), (_OTHER, 0, _NOBODY)]
    os.setxattr(path, kind, _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries))


def _not_granted(path: Path, failure: OSError) -> errors.NotGranted:
    reason = failure.strerror or str(failure)
    if failure.errno == errno.ENOTSUP:
        reason = "its file system keeps no access lists (POSIX ACLs): mount it with them"
    return errors.NotGranted(path=str(path), reason=reason)
