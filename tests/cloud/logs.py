# SPDX-License-Identifier: Apache-2.0
"""What the compute hosts have written since a test began: nova-compute, and its workers, whose errors are there too."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cloud.cloud import Cloud

LINES = 40
WIDTH = 300
_NOISE = re.compile(r"\[None req-[^]]*\] |\[req-[^]]*\] ")


class Logs:
    """The ends of the logs of nova-compute on all hosts, from now on."""

    def __init__(self, cloud: Cloud) -> None:
        self._began = {path: path.stat().st_size for path in sorted((cloud.folder / "logs").glob("compute*.log"))}

    def tails(self) -> dict[str, str]:
        """What was written since then, at most the last LINES of each file, by its title."""
        return {f"{path.name} during this test": self._tail(path, began) for path, began in self._began.items()}

    def _tail(self, path: Path, began: int) -> str:
        with path.open("rb") as file:
            file.seek(began)
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(_NOISE.sub("", line)[:WIDTH] for line in lines[-LINES:])
