# SPDX-License-Identifier: Apache-2.0
"""A cloud of which the benchmarks see as much as they ask for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Answer:
    """Of a request; servers and operations are told in JSON."""

    def __init__(self, status_code: int, document: Any = None) -> None:
        self.status_code, self._document = status_code, document
        self.text = str(document)

    def json(self) -> Any:
        return self._document


class FakeCompute:
    """Nova: every server has an address at the second look, and is ``status`` at the third."""

    def __init__(self) -> None:
        self.made: dict[str, dict[str, Any]] = {}
        self.looks: dict[str, int] = {}
        self.status = "ACTIVE"
        self.refused = False

    def find_flavor(self, name: str, ignore_missing: bool) -> Any:
        return SimpleNamespace(id=f"flavor-{name}")

    def post(self, url: str, json: dict[str, Any]) -> Answer:
        if self.refused:
            return Answer(403, "no")
        if url == "/servers":
            name = f"id-{len(self.made)}"
            self.made[name] = json["server"]
            return Answer(202, {"server": {"id": name}})
        return Answer(202, {"operation": "operation-1"})

    def get(self, url: str) -> Answer:
        server = url.rpartition("/")[2]
        if server not in self.made:
            return Answer(404)
        self.looks[server] = looks = self.looks.get(server, 0) + 1
        addresses = {"lab": [{"addr": "192.168.111.9"}]} if looks > 1 else {}
        status = self.status if looks > 2 else "BUILD"
        shown = {"status": status, "addresses": addresses, "fault": "why", "OS-EXT-STS:task_state": None}
        return Answer(200, {"server": shown})

    def servers(self, **_: Any) -> list[Any]:
        return [SimpleNamespace(id=server, name=made["name"]) for server, made in self.made.items()]

    def delete_server(self, server: str, ignore_missing: bool) -> None:
        del self.made[server]


class FakeGlance:
    """Glance: names of images by id, and all that is ``shown`` of some."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.shown: dict[str, dict[str, Any]] = {}

    def find_image(self, name: str) -> Any:
        return next((SimpleNamespace(id=image) for image, known in self.known.items() if known == name), None)

    def get(self, url: str) -> Answer:
        return Answer(200, self.shown[url.rpartition("/")[2]])

    def images(self, is_hidden: bool = False) -> list[Any]:
        return [] if is_hidden else [SimpleNamespace(id=image, name=name) for image, name in self.known.items()]

    def delete_image(self, image: str, ignore_missing: bool) -> None:
        self.known.pop(image, None)


class FakeCloud:
    """What ``tests.cloud.cloud.Cloud`` is for the benchmarks."""

    def __init__(self, folder: Path) -> None:
        self.name, self.folder = "one", folder
        self.compute, self.image = FakeCompute(), FakeGlance()
        self.network = SimpleNamespace(find_network=lambda name, ignore_missing: SimpleNamespace(id="lab-id"))
        self.restarts: list[str] = []
        self.operations: dict[str, dict[str, Any]] = {}

    @property
    def admin(self) -> FakeCloud:
        return self

    def connect(self, account: str) -> FakeCloud:
        return self

    def minicloud(self, *arguments: str) -> str:
        self.restarts.append(f"{' '.join(arguments)}: {(self.folder / 'etc' / 'nova-cpu.conf').read_text()}")
        return ""

    def operation_ended(self, operation_id: str, account: str, limit_s: float) -> dict[str, Any]:
        return self.operations[operation_id]


class FakeProber:
    """Every app answers at once, unless it is ``silent``."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.restarts = 0
        self.at = 0.0

    def begin(self, question: Any) -> None:
        self.asked.append(question)

    def answered(self) -> float:
        return self.at

    def restart(self) -> None:
        self.restarts += 1
