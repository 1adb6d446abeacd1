# SPDX-License-Identifier: Apache-2.0
"""SourcePolicy: what URLs may be read, and how patiently."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cloudlet_ext.engine.patience import USUAL, Patience


@dataclass(frozen=True)
class SourcePolicy:
    """What URLs may be read, and how patiently.

    ``hosts``: allowed host names, empty for any. ``local_allowed``: loopback and link-local
    addresses may be contacted. ``timeout_s`` limits connecting, an answer's header, and every
    silence. ``min_rate_bytes_per_s`` is the least average over ``timeout_s`` of waiting for a body.
    ``headers`` are sent to the URL's own origin only, not to where it redirects. ``ca_file``: PEM
    file of the certificate authorities to trust instead of the system's. ``refuse_url`` and
    ``refuse_address`` say why a URL (the first, and each that it redirects to) or an address that a
    name has just now may not be used (None: it may).
    """

    schemes: tuple[str, ...] = ("https", "http")
    hosts: tuple[str, ...] = ()
    local_allowed: bool = True
    timeout_s: float = 10.0
    min_rate_bytes_per_s: int = 1024
    patience: Patience = USUAL
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    ca_file: str | None = None
    refuse_url: Callable[[str], str | None] | None = field(default=None, repr=False)
    refuse_address: Callable[[str], str | None] | None = field(default=None, repr=False)
