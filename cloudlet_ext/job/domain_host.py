# SPDX-License-Identifier: Apache-2.0
"""Early start of a domain: nova-compute starts it, and decides when it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import libvirt

from cloudlet_ext.engine.fetch import Fetcher
from cloudlet_ext.engine.view import TargetView
from cloudlet_ext.hypervisor import domain_xml
from cloudlet_ext.hypervisor.errors import ResumeFailed
from cloudlet_ext.job.arriving_layer import ArrivingLayer
from cloudlet_ext.job.channel import Channel
from cloudlet_ext.job.guest import DomainGuest
from cloudlet_ext.worker.arrival import Arrival
from cloudlet_ext.worker.early_start import Feed

_POLL_S = 0.05
_COPY_STALL_S = 600.0


class DomainHost:
    """See :class:`cloudlet_ext.worker.early_start.Host`."""

    def __init__(
        self,
        channel: Channel,
        layer: ArrivingLayer,
        start: Callable[[], DomainGuest],
        personalise: Callable[[DomainGuest], dict[str, Any]],
    ) -> None:
        self._channel, self._layer, self._start, self._personalise = channel, layer, start, personalise
        self._guest: DomainGuest | None = None
        self.told: dict[str, Any] = {}

    @property
    def guest(self) -> DomainGuest:
        """The domain, once it is there."""
        assert self._guest is not None
        return self._guest

    def show(self, view: TargetView, fetcher: Fetcher) -> None:
        """What the disk holds."""
        self._layer.show(view, fetcher)

    def ready(self) -> None:
        """Have nova-compute start the domain."""
        self._guest = self._start()

    def proceed(self, ask: Callable[[str], Any]) -> None:
        """nova-compute lets it run, when its ports are plugged."""
        self._channel.event("running")

    def reply(self, feed: Feed) -> bytes | None:
        """Nobody is asked; the guest gets what is its own as soon as it runs."""
        while feed.ask("query-status")["status"] != "running":
            feed.check()
            time.sleep(_POLL_S)
        # libvirt may wait for the guest, and the guest for memory that does not come.
        told: Future[dict[str, Any]] = Future()
        threading.Thread(target=self._tell, args=(told,), name="personalise", daemon=True).start()
        while not told.done():
            feed.check()
            time.sleep(_POLL_S)
        self.told = told.result()
        return None

    def _tell(self, told: Future[dict[str, Any]]) -> None:
        """Thread."""
        try:
            told.set_result(self._personalise(self.guest))
        except BaseException as failure:  # noqa: BLE001 - raised again in reply()
            told.set_exception(failure)

    def keep_disk(self, run: Arrival) -> None:
        """Have libvirt copy the layer into the guest's own image; :class:`ResumeFailed`."""
        handle = self.guest.handle
        target = domain_xml.disk_target(self.guest.description)
        below = domain_xml.layer_below_view(self.guest.description)
        try:
            handle.blockRebase(target, below, 0, 0)
            self._await_copy(target)
        except libvirt.libvirtError as failure:
            raise ResumeFailed(reason=f"its disk could not be completed: {failure}") from failure
        if domain_xml.layer_below_view(self.guest.description) is not None:
            raise ResumeFailed(reason="its disk still needs the layer that was arriving")

    def _await_copy(self, target: str) -> None:
        """However long it takes, as long as it goes on."""
        handle = self.guest.handle
        copied, since = -1, time.monotonic()
        while job := handle.blockJobInfo(target, 0):
            if job["cur"] != copied:
                copied, since = job["cur"], time.monotonic()
            elif time.monotonic() - since > _COPY_STALL_S:
                handle.blockJobAbort(target, 0)
                raise ResumeFailed(reason=f"nothing more of its disk was copied for {_COPY_STALL_S:.0f} s")
            time.sleep(_POLL_S)
