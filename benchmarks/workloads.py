# SPDX-License-Identifier: Apache-2.0
"""The workloads: guests, what runs in them, what they are asked."""

from __future__ import annotations

from dataclasses import dataclass, field

READY = "console:CLOUDLET-GUEST ready"


@dataclass(frozen=True)
class Workload:
    """One workload.

    ``script`` (of apps/) sets the app up in a server of a plain base, with ``settings`` in its environment; ``files``
    are what it fetches: bundles of tools/guest, and data that benchmarks.data makes. ``probe`` is the question whose
    answer must be that of the captured server.
    """

    name: str
    title: str
    memory_mib: int
    probe: str
    guest: str = "debian"
    script: str | None = None
    files: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)


def _service(mode: str, packages: str, data: str) -> dict[str, object]:
    return {
        "probe": "http://:8000/",
        "script": "service.sh",
        "files": (packages, data, "service.py"),
        "settings": {"MODE": mode, "PACKAGES": packages, "DATA": data},
    }


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("W0", "null: nothing changed", 128, "http://:80/nonce", guest="busybox"),
        Workload(
            "W1",
            "web: nginx with 12 MiB of data, redis with 20,000 keys",
            256,
            "http://:80/nonce",
            script="web.sh",
            files=("app-web-files.tar", "web.data"),
        ),
        Workload(
            "W2",
            "Python service, a 64 MB array of which a reply needs an eighth",
            512,
            **_service("array", "app-numpy-files.tar", "array.data"),  # type: ignore[arg-type]
        ),
        Workload(
            "W3",
            "vision-like: nearest neighbour among 100 MB of features",
            1024,
            **_service("features", "app-numpy-files.tar", "features.data"),  # type: ignore[arg-type]
        ),
        Workload(
            "W4",
            "database: 90 MB read from disk before the first reply",
            1024,
            **_service("database", "app-database-files.tar", "database.data"),  # type: ignore[arg-type]
        ),
        Workload(
            "W5",
            "churn: 100 MB written and deleted before the capture",
            512,
            "http://:8000/nonce",
            script="churn.sh",
            files=("churn.data",),
        ),
    )
}
