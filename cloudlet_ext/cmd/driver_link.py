# SPDX-License-Identifier: Apache-2.0
"""The driver link: one file in the installed Nova by which ``compute_driver = cloudlet.CloudletDriver`` is found.

Nova imports ``nova.virt.`` + ``compute_driver`` and offers no entry point for drivers. A ``nova`` folder in our own
package would hide the whole of a Nova that is installed from its source tree. So one file is written beside Nova's own.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from cloudlet_ext.exception import CloudletError

FILE_NAME = "cloudlet.py"
IMPORT_LINE = "from cloudlet_ext.nova.driver import CloudletDriver"
MARK = '# Written by "cloudlet-manage driver link"'
"""By this line our own file is known, whichever version wrote it."""

CONTENT = f"""\
# SPDX-License-Identifier: Apache-2.0
{MARK} of cloudlet-ext; "cloudlet-manage driver unlink" removes it.
# Nova imports "nova.virt." + compute_driver: here it finds cloudlet.CloudletDriver.
{IMPORT_LINE}
"""

IMPORT_TIMEOUT_S = 120
"""Nova's libvirt driver is imported in 3 s on an idle core."""

_PROBE = """\
import importlib, json, sys
sys.path[:] = json.loads(sys.argv[1])
driver = importlib.import_module("nova.virt.cloudlet").CloudletDriver
print(json.dumps({"driver": driver.__module__ + "." + driver.__name__}))
"""


class LinkError(CloudletError):
    """Root of the errors of the driver link."""


class NovaMissing(LinkError):
    """No Nova where this Python, or the user, says."""

    msg_fmt = (
        "there is no Nova with a libvirt driver in %(place)s. Run this with the Python environment that nova-compute "
        "runs in, or name the folder of its package with --nova-path"
    )


class NovaAmbiguous(LinkError):
    """Several folders share the name."""

    msg_fmt = (
        "Python finds several folders named nova: %(places)s. One of them hides the others; remove what is not Nova, "
        "or name the right one with --nova-path"
    )


class ForeignFile(LinkError):
    """The name is taken by something else."""

    msg_fmt = (
        "%(path)s was not written by cloudlet-manage (its mark is missing), so it is left as it is. "
        "Move it away if nothing needs it"
    )


class NotWritable(LinkError):
    """No permission."""

    msg_fmt = (
        "%(path)s cannot be written: %(reason)s. You are %(user)s, %(folder)s belongs to %(owner)s: "
        "run this as its owner or as root"
    )


@dataclass(frozen=True)
class Link:
    """What ``check`` found. ``driver``: full name of the class that was imported; ``error``: why it was not."""

    path: Path
    linked: bool
    driver: str | None
    error: str | None

    @property
    def is_well(self) -> bool:
        """Whether nova-compute would find the driver."""
        return self.linked and self.driver is not None


def nova_folder(given: Path | None = None) -> Path:
    """Folder of the package ``nova``, found without importing it; :class:`NovaMissing`, :class:`NovaAmbiguous`.

    ``given`` may be that folder or the tree that holds it.
    """
    places = list(_places(given))
    found = [place for place in places if _is_nova(place)]
    if not found:
        raise NovaMissing(place=", ".join(map(str, places)) or "the search path of this Python")
    if len(found) > 1:
        raise NovaAmbiguous(places=", ".join(map(str, found)))
    return found[0]


def link(given: Path | None = None) -> tuple[Path, bool]:
    """Write the link; its path, and whether there was anything to do."""
    path = nova_folder(given) / "virt" / FILE_NAME
    if _is_ours(path) and path.read_text() == CONTENT:
        return path, False
    with _told_who(path):
        _write(path)
    return path, True


def unlink(given: Path | None = None) -> list[Path]:
    """Remove the link wherever it is, even from what is left of a Nova that was uninstalled; the removed files."""
    removed = []
    for place in _places(given):
        path = place / "virt" / FILE_NAME
        if not _is_ours(path):
            continue
        with _told_who(path):
            path.unlink()
            for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
                compiled.unlink()
        removed.append(path)
    return removed


def check(given: Path | None = None) -> Link:
    """Look for the link, and import the driver through it as nova-compute does, in a process of its own."""
    folder = nova_folder(given)
    path = folder / "virt" / FILE_NAME
    if not _is_ours(path):
        return Link(path, False, None, 'there is no link. Write it with "cloudlet-manage driver link"')
    driver, error = _import_driver([] if given is None else [str(folder.parent)])
    return Link(path, True, driver, error)


def _places(given: Path | None) -> Iterator[Path]:
    """Folders that may be the package ``nova``."""
    if given is not None:
        inner = given / "nova"
        yield (inner if not (given / "virt").is_dir() and inner.is_dir() else given).absolute()
        return
    spec = util.find_spec("nova")
    if spec is not None:
        yield from map(Path, spec.submodule_search_locations or ())


def _is_nova(folder: Path) -> bool:
    return (folder / "virt/__init__.py").is_file() and (folder / "virt/libvirt").is_dir()


def _is_ours(path: Path) -> bool:
    """Whether the link is there; :class:`ForeignFile` when another file is."""
    if not os.path.lexists(path):
        return False
    if path.is_symlink() or not path.is_file() or MARK not in path.read_text(errors="replace"):
        raise ForeignFile(path=path)
    return True


def _write(path: Path) -> None:
    """Write the file whole or not at all."""
    descriptor, name = tempfile.mkstemp(prefix=f".{FILE_NAME}.", dir=path.parent)
    temporary = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(CONTENT)
            file.flush()
            # nova-compute runs as another user than who installs.
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _told_who(path: Path) -> Iterator[None]:
    """Turn a refusal of the file system into :class:`NotWritable`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        folder = path.parent
        raise NotWritable(
            path=path,
            reason=error.strerror or str(error),
            user=user_name(os.geteuid()),
            folder=folder,
            owner=user_name(folder.stat().st_uid),
        ) from error


def user_name(uid: int) -> str:
    """Name and number of a user, as told to people."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def _import_driver(first: list[str]) -> tuple[str | None, str | None]:
    """Full name of the driver's class, or why it cannot be imported. ``first``: what to search before all else."""
    # Without -B compiled files would lie in Nova's folders, of whatever user asks.
    command = [sys.executable, "-B", "-c", _PROBE, json.dumps([*first, *sys.path])]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"the import took more than {IMPORT_TIMEOUT_S} s"
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"Python ended with status {ended.returncode}"]
        return None, f"the driver cannot be imported: {lines[-1]}"
    # Libraries may write lines of their own before.
    return json.loads(ended.stdout.splitlines()[-1])["driver"], None
