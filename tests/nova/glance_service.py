# SPDX-License-Identifier: Apache-2.0
"""Starts the Glance of the tests, and puts images into it as their owners do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

FULL_PROJECT = "f" * 32
"""A project whose quota of images is used up."""

_CONF = """
[DEFAULT]
enabled_backends = file:file
transport_url = fake:/
node_staging_uri = file://{folder}/staging
[database]
connection = sqlite:///{folder}/glance.db
[glance_store]
default_backend = file
[file]
filesystem_store_datadir = {folder}/images
[os_glance_staging_store]
filesystem_store_datadir = {folder}/staging
[os_glance_tasks_store]
filesystem_store_datadir = {folder}/tasks
[paste_deploy]
flavor = keystone
config_file = {folder}/glance-api-paste.ini
[oslo_concurrency]
lock_path = {folder}
[oslo_messaging_notifications]
driver = noop
"""


class Glance:
    """A Glance process with its own folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        for name in ("images", "staging", "tasks"):
            (folder / name).mkdir()
        (folder / "glance-api.conf").write_text(_CONF.format(folder=folder))
        stock = Path(sys.prefix, "etc/glance/glance-api-paste.ini").read_text()
        ours = stock.replace("keystonemiddleware.auth_token:filter_factory", "tests.nova.tokens:filter_factory")
        assert ours != stock
        (folder / "glance-api-paste.ini").write_text(ours)
        self._log = (folder / "log").open("w")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CLOUDLET_TEST_FULL_PROJECT": FULL_PROJECT}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.nova.glance_process", str(folder)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
        )
        self.folder = folder

    def wait(self) -> None:
        """Until it answers."""
        port = self.folder / "port"
        deadline = time.monotonic() + 120
        while not port.exists() or not port.read_text():
            assert self.process.poll() is None, (self.folder / "log").read_text()[-4000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        self.url = f"http://127.0.0.1:{port.read_text()}"

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)
        self._log.close()

    def request(self, token: str, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"X-Auth-Token": token}, method=method)
        if data is not None:
            request.add_header("Content-Type", kind)
        with urllib.request.urlopen(request, timeout=60) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def create(self, token: str, content: bytes | None = None, **record: Any) -> str:
        """A new image, active when it is given content; its id."""
        record = {"container_format": "bare", "disk_format": "raw", "visibility": "private", **record}
        image = self.request(token, "POST", "/v2/images", record)
        if content is not None:
            self.request(token, "PUT", f"/v2/images/{image['id']}/file", content, "application/octet-stream")
        return str(image["id"])

    def get(self, token: str, image_id: str) -> dict[str, Any] | None:
        try:
            return self.request(token, "GET", f"/v2/images/{image_id}")
        except urllib.error.HTTPError as failure:
            with failure:
                if failure.code == 404:
                    return None
            raise

    def names(self, token: str) -> set[str]:
        """Names of all images that the token sees, hidden ones included."""
        found = []
        for hidden in ("false", "true"):
            found += self.request(token, "GET", f"/v2/images?limit=1000&os_hidden={hidden}")["images"]
        return {image["name"] for image in found}
