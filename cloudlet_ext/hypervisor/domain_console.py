# SPDX-License-Identifier: Apache-2.0
"""Console of a domain: what it writes to its first serial port, from libvirt, without a file that somebody may own."""

from __future__ import annotations

import contextlib
import threading

import libvirt

from cloudlet_ext.hypervisor import errors

_PIECE_BYTES = 4096
_KEPT_BYTES = 1 << 20


class DomainConsole:
    """Hears a domain from construction until :meth:`close`; :class:`errors.MonitorFailed`."""

    def __init__(self, connection: libvirt.virConnect, domain: libvirt.virDomain) -> None:
        self._said = bytearray()
        self._lock = threading.Lock()
        try:
            self._stream = connection.newStream(0)
            domain.openConsole(None, self._stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        except libvirt.libvirtError as failure:
            raise errors.MonitorFailed(command="openConsole", reason=str(failure)) from failure
        threading.Thread(target=self._listen, name="domain-console", daemon=True).start()

    def has(self, text: bytes) -> bool:
        """Whether the domain has written this, within the last megabyte."""
        with self._lock:
            return text in self._said

    def close(self) -> None:
        """Hear no more."""
        with contextlib.suppress(libvirt.libvirtError):
            self._stream.abort()

    def _listen(self) -> None:
        """Thread: until the stream ends."""
        with contextlib.suppress(libvirt.libvirtError):
            while piece := self._stream.recv(_PIECE_BYTES):
                with self._lock:
                    self._said += piece
                    del self._said[:-_KEPT_BYTES]
