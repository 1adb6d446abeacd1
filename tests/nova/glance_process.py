# SPDX-License-Identifier: Apache-2.0
"""A real Glance on SQLite in a process of its own: its options and Nova's do not fit into one.

Run with the folder of its configuration; writes its port there when it answers, and ends when its input does.
"""

from __future__ import annotations

import os
import socketserver
import sys
import threading
import wsgiref.simple_server
from pathlib import Path


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class Silent(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


class OverQuota:
    """One project has used up its quota: in Glance itself such quotas need a Keystone."""

    def __init__(self, app: object) -> None:
        self.app = app

    def __call__(self, environ: dict, start_response: object) -> object:
        full = os.environ["CLOUDLET_TEST_FULL_PROJECT"] in environ.get("HTTP_X_AUTH_TOKEN", "")
        if full and (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("POST", "/v2/images"):
            start_response("413 Request Entity Too Large", [("Content-Type", "text/plain")])
            return [b"The quota of images is used up"]
        return self.app(environ, start_response)


def main(folder: Path) -> None:
    os.environ["OS_GLANCE_CONFIG_DIR"] = str(folder)
    sys.argv = ["glance-api", "--config-file", str(folder / "glance-api.conf")]
    from glance.common import wsgi_app
    from glance.db.sqlalchemy import api, models

    app = OverQuota(wsgi_app.init_app())
    models.register_models(api.get_engine())
    with wsgiref.simple_server.make_server("127.0.0.1", 0, app, Server, Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (folder / "port").write_text(str(server.server_port))
        sys.stdin.read()
        # Threads of its own may still be at work.
        os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
