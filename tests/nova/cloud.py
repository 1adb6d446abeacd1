# SPDX-License-Identifier: Apache-2.0
"""A cloud in this process: the real nova-api on SQLite with our filter, two cells, and a Glance beside it.

Compute hosts are services in the database and, where they answer, a stand-in for our manager on the in-memory bus.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

import oslo_messaging
import webob
from nova import context as nova_context
from nova import objects, rpc
from nova.api.openstack import wsgi_app
from nova.conf import CONF
from nova.db.api import api as api_db
from nova.db.api import models as api_models
from nova.db.main import api as main_db
from nova.db.main import models as main_models
from nova.network import model as network_model
from nova.objects import base as objects_base
from oslo_utils import timeutils

from tests.nova.glance_service import FULL_PROJECT, Glance
from tests.nova.manager import Manager
from tests.nova.tokens import token

MINE, THEIRS, ROOTS = "1a" * 16, "2b" * 16, "3c" * 16

MEMBER = token("alice", MINE, "member", "reader")
READER = token("rita", MINE, "reader")
MANAGER = token("mary", MINE, "manager", "member", "reader")
OTHER = token("bob", THEIRS, "member", "reader")
ADMIN = token("root", ROOTS, "admin", "manager", "member", "reader")
FULL = token("fred", FULL_PROJECT, "member", "reader")
NOBODY = token("norole", MINE)

_CONF = """
[DEFAULT]
host = api
transport_url = fake:/
state_path = {folder}
service_down_time = 1000000
osapi_compute_unique_server_name_scope =
[api]
response_validation = error
[wsgi]
api_paste_config = {folder}/api-paste.ini
[api_database]
connection = sqlite:///{folder}/api.db
[database]
connection = sqlite:///{folder}/cell1.db
[glance]
num_retries = 0
[quota]
instances = -1
cores = -1
ram = -1
[service_user]
send_service_user_token = false
[oslo_concurrency]
lock_path = {folder}
[notifications]
notification_format = both
notify_on_state_change = vm_and_task_state
[oslo_messaging_notifications]
driver = noop
[cloudlet]
max_overlay_mb = 1
allowed_networks = 127.0.0.0/8
overlay_sources = glance:, https:
"""


EXTRA_SPECS = {
    "numa": {"hw:numa_nodes": "1"},
    "pinned": {"hw:cpu_policy": "dedicated"},
    "pages": {"hw:mem_page_size": "large"},
    "tpm": {"hw:tpm_version": "2.0"},
    "pmem": {"hw:pmem": "4GB"},
    "pci": {"pci_passthrough:alias": "a1:1"},
    "vgpu": {"resources:VGPU": "1"},
    "accelerator": {"accel:device_profile": "fpga"},
}
"""Flavors whose servers cannot be moved, by name."""


def paste_config(stock: str) -> str:
    """The stock file with our filter in both pipelines, as an operator puts it there."""
    ours = stock.replace("keystonecontext osapi_", "keystonecontext cloudlet osapi_")
    ours = ours.replace("keystonecontext legacy_v2", "keystonecontext cloudlet legacy_v2")
    assert ours.count(" cloudlet ") == 2
    ours += "\n[filter:cloudlet]\npaste.filter_factory = cloudlet_ext.nova.filter:filter_factory\n"
    return ours.replace("keystonemiddleware.auth_token:filter_factory", "tests.nova.tokens:filter_factory")


class Cloud:
    """The cloud; one for each process, since Nova's configuration is global."""

    def __init__(self, folder: Path) -> None:
        self.glance = Glance(folder / "glance")
        self.context = nova_context.get_admin_context()
        self._start_nova(folder)
        self.glance.wait()
        CONF.set_override("api_servers", [self.glance.url], group="glance")
        self.flavors = {
            name: self._flavor(number, name, memory_mb, vcpus, disk_gb)
            for number, (name, memory_mb, vcpus, disk_gb) in enumerate(
                [("fits", 512, 1, 2), ("small", 256, 1, 2), ("wide", 512, 2, 2), ("flat", 512, 1, 1)], start=1
            )
        }
        for number, (name, extra_specs) in enumerate(EXTRA_SPECS.items(), start=10):
            self.flavors[name] = self._flavor(number, name, 512, 1, 2, extra_specs)
        self.flavors["swap"] = self._flavor(5, "swap", 512, 1, 2, swap=64)
        self.flavors["ephemeral"] = self._flavor(6, "ephemeral", 512, 1, 2, ephemeral_gb=1)
        self.managers = {host: self._manager(host) for host in ("compute1", "compute2")}
        for host, cell, up in [
            ("compute1", 1, True),
            ("compute2", 2, True),
            ("silent", 1, True),
            ("down", 1, False),
        ]:
            self._host(host, self.cells[cell], up)

    def stop(self) -> None:
        self.glance.stop()

    def _start_nova(self, folder: Path) -> None:
        (folder / "nova.conf").write_text(_CONF.format(folder=folder))
        stock = Path(sys.prefix, "etc/nova/api-paste.ini").read_text()
        (folder / "api-paste.ini").write_text(paste_config(stock))
        os.environ["OS_NOVA_CONFIG_DIR"] = str(folder)
        arguments, sys.argv = sys.argv, ["nova-api"]
        try:
            wsgi_app.init_global_data([str(folder / "nova.conf")], "api", "nova-api")
            self._databases(folder)
            self.app = wsgi_app.init_application("osapi_compute", "nova-api")
        finally:
            sys.argv = arguments

    def _databases(self, folder: Path) -> None:
        # The schema as the migrations end up with it, in a tenth of their time.
        api_models.BASE.metadata.create_all(api_db.get_engine())
        main_models.BASE.metadata.create_all(main_db.get_engine())
        self.cells = []
        for number, transport in enumerate(["none:///", "fake:/", "fake://cell2/"]):
            if number != 1:
                shutil.copy(folder / "cell1.db", folder / f"cell{number}.db")
            cell = objects.CellMapping(
                self.context,
                uuid=objects.CellMapping.CELL0_UUID if number == 0 else str(uuid.uuid4()),
                name=f"cell{number}",
                transport_url=transport,
                database_connection=f"sqlite:///{folder}/cell{number}.db",
            )
            cell.create()
            self.cells.append(cell)

    def _flavor(
        self, number: int, name: str, memory_mb: int, vcpus: int, disk_gb: int, extra_specs: Any = None, **facts: int
    ) -> Any:
        flavor = objects.Flavor(
            self.context,
            name=name,
            flavorid=str(number),
            memory_mb=memory_mb,
            vcpus=vcpus,
            root_gb=disk_gb,
            **{"ephemeral_gb": 0, "swap": 0, **facts},
            rxtx_factor=1.0,
            vcpu_weight=0,
            disabled=False,
            is_public=True,
            extra_specs=extra_specs or {},
        )
        flavor.create()
        return flavor

    def _manager(self, host: str) -> Manager:
        manager = Manager(host)
        target = oslo_messaging.Target(topic="cloudlet", server=host)
        rpc.get_server(target, [manager], serializer=objects_base.NovaObjectSerializer()).start()
        return manager

    def _host(self, name: str, cell: Any, up: bool) -> None:
        objects.HostMapping(self.context, host=name, cell_mapping=cell).create()
        with nova_context.target_cell(self.context, cell) as context:
            service = objects.Service(context, host=name, binary="nova-compute", topic="compute", report_count=1)
            service.create()
            service.last_seen_up = timeutils.utcnow()
            service.forced_down = not up
            service.save()

    def cell_of(self, host: str | None) -> Any:
        return self.cells[2] if host == "compute2" else self.cells[1]

    def server(self, project: str = MINE, host: str | None = "compute1", **facts: Any) -> Any:
        """A server as Nova would have made it; ``facts`` are its fields. ``volumes``: where its disks are;
        ``network_info``: of its cards."""
        volumes = facts.pop("volumes", ["local"])
        flavor = facts.pop("flavor", self.flavors["fits"])
        network_info = facts.pop("network_info", network_model.NetworkInfo())
        cell = self.cell_of(host)
        with nova_context.target_cell(self.context, cell) as context:
            server = objects.Instance(
                context,
                uuid=str(uuid.uuid4()),
                project_id=project,
                user_id="alice",
                host=host,
                flavor=flavor,
                info_cache=objects.InstanceInfoCache(context, network_info=network_info),
                **{
                    "image_ref": str(uuid.uuid4()),
                    "display_name": "web",
                    "vm_state": "active",
                    "launched_at": timeutils.utcnow(),
                    "metadata": {},
                    "system_metadata": {},
                    "memory_mb": flavor.memory_mb,
                    "vcpus": flavor.vcpus,
                    "locked": False,
                    **facts,
                },
            )
            server.create()
            for number, where in enumerate(volumes):
                objects.BlockDeviceMapping(
                    context,
                    instance_uuid=server.uuid,
                    source_type="image" if where == "local" else "volume",
                    destination_type=where,
                    boot_index=number if number == 0 else -1,
                    device_name=f"/dev/vd{'abc'[number]}",
                    volume_id=None if where == "local" else str(uuid.uuid4()),
                ).create()
        objects.InstanceMapping(
            self.context, instance_uuid=server.uuid, cell_mapping=cell, project_id=project, user_id="alice"
        ).create()
        return server

    def again(self, server: Any) -> Any:
        """The server as it is in the database now."""
        with nova_context.target_cell(self.context, self.cell_of(server.host)) as context:
            return objects.Instance.get_by_uuid(context, server.uuid)

    def request(
        self, who: str | None, method: str, path: str, body: Any = None, version: str | None = None, **headers: str
    ) -> webob.Response:
        """The answer to a request to ``/v2.1``; ``body`` bytes are sent as they are."""
        request = webob.Request.blank(f"/v2.1{path}", method=method)
        if who is not None:
            request.headers["X-Auth-Token"] = who
        if version is not None:
            request.headers["OpenStack-API-Version"] = version
        if body is not None:
            request.body = body if isinstance(body, bytes) else json.dumps(body).encode()
            request.content_type = "application/json"
        for name, value in headers.items():
            request.headers[name.replace("_", "-")] = value
        return request.get_response(self.app)
