# SPDX-License-Identifier: Apache-2.0
"""What a cloud has written since a test began: nova-compute with its workers, what went wrong elsewhere, its guests."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.cloud.cloud import Cloud

LINES, OTHER_LINES, GUEST_LINES = 60, 8, 15
WIDTH = 300
_REQUEST = re.compile(r"\[None req-[^]]*\] |\[req-[^]]*\] ")
_NOISE = re.compile(
    r"privsep log:|[Ee]ventlet|python binding code in neutronclient|is not a versioned notification|^\s*</?\w"
)
_TROUBLE = re.compile(r" (WARNING|ERROR|CRITICAL) |\|(ERR|EMER)\||: error :|Traceback| was down$")
_HARMLESS = re.compile("cgroup|dpif_netdev|netdev_linux")
"""Of libvirt without control groups, and of Open vSwitch when a tap goes."""


class Logs:
    """The ends of the logs of all services on all hosts, from now on."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud, self._since = cloud, time.time()
        self._began = {path: path.stat().st_size for path in sorted((cloud.folder / "logs").glob("*.log"))}

    def tails(self) -> dict[str, str]:
        """The last that was written since then, by its title: of each nova-compute, of all others, of each guest."""
        found, others = {}, list[str]()
        for path, began in self._began.items():
            lines = [line for line in _lines(path, began) if not _NOISE.search(line)]
            if path.name.startswith("compute"):
                found[f"{path.name} during this test"] = "\n".join(lines[-LINES:])
            else:
                bad = [line for line in lines if _TROUBLE.search(line) and not _HARMLESS.search(line)]
                others += [f"{path.name}: {line}" for line in bad[-OTHER_LINES:]]
        found["warnings and errors in other logs during this test"] = "\n".join(others)
        for path in sorted(self._cloud.folder.glob("hosts/*/state/nova/instances/*/console.log")):
            if path.exists() and path.stat().st_mtime >= self._since:
                found[f"console of {path.parent.name}"] = "\n".join(_lines(path)[-GUEST_LINES:])
        return found


def _lines(path: Path, began: int = 0) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(began)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    return [_REQUEST.sub("", line)[:WIDTH] for line in lines]
