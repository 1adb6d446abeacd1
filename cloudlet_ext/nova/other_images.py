# SPDX-License-Identifier: Apache-2.0
"""Other images: which are no bases, remembered for a while, so that most new servers cost no question to Glance."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LASTS_S = 300.0
"""How long an image is taken for what it was. It may become a base meanwhile: then a server of it is not checked before
it is scheduled, and its compute host tells what is wrong."""

_LIMIT = 4096
"""Images that are remembered: half a megabyte."""


class OtherImages:
    """Ids of images that were seen to be no bases. What one user may not see is not remembered: another may."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}

    def note(self, image_id: str) -> None:
        """The image is none now. Beyond a limit those that were noted first are forgotten."""
        with self._lock:
            self._since.pop(image_id, None)
            if len(self._since) >= _LIMIT:
                del self._since[next(iter(self._since))]
            self._since[image_id] = self._clock()

    def holds(self, image_id: str) -> bool:
        """Whether the image was none a moment ago."""
        since = self._since.get(image_id)
        return since is not None and self._clock() - since < LASTS_S
