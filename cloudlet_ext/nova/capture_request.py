# SPDX-License-Identifier: Apache-2.0
"""Capture request: from a user's wish to a compute host that works on it; all of it, or nothing.

A capture makes a base or an overlay of a server. Before the host is asked, the images that it will fill are made and
the server's task state is set; when anything fails on the way, both are undone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nova import conf as nova_conf
from nova import exception, objects
from nova import utils as nova_utils
from nova.compute import utils as compute_utils
from nova.compute import vm_states
from oslo_log import log as logging

from cloudlet_ext.api import errors
from cloudlet_ext.api import image as properties
from cloudlet_ext.api.image import Image
from cloudlet_ext.api.schemas.server_actions import RESUME
from cloudlet_ext.nova import hosts, unmovable
from cloudlet_ext.nova.call import Services

LOG = logging.getLogger(__name__)

_EVENT = "cloudlet_api_request"
_DISKS = "qcow2"
_STATES = (vm_states.ACTIVE, vm_states.PAUSED)


@dataclass(frozen=True)
class Capture:
    """A capture that is asked for: of which server, under which name of action and task state."""

    services: Services
    context: Any
    server: Any
    action: str
    task_state: str

    def check(self, on_finish: str = RESUME) -> None:
        """Whether the server can be captured as it is, and then be left as ``on_finish`` says.

        :class:`errors.ServerWrongState`, :class:`errors.ServerLocked`, :class:`errors.ServerNotLocal`,
        :class:`errors.ServerUnmovable`, :class:`errors.HostDown`, :class:`errors.HostSilent`,
        :class:`errors.ServerNotEnded`.
        """
        server = self.server
        if server.task_state is not None:
            raise self._wrong_state("task_state", server.task_state, "none")
        if server.vm_state not in _STATES or not server.launched_at:
            raise self._wrong_state("vm_state", server.vm_state, " or ".join(_STATES))
        if server.locked and on_finish != RESUME and not self.context.is_admin:
            raise errors.ServerLocked(id=server.uuid)
        _check_disks(self.context, server)
        unmoved = unmovable.of_server(server)
        if unmoved is not None:
            raise errors.ServerUnmovable(id=server.uuid, found=unmoved)
        what = f"server {server.uuid}"
        if not hosts.is_up(self.context, server.host):
            raise errors.HostDown(what=what)
        # A host without our driver would never take the cast, and the server would stay busy for good.
        told = hosts.ask(what, lambda: self.services.rpc.describe(self.context, server.host))
        if on_finish != RESUME and not told.get("ends_servers", True):
            raise errors.ServerNotEnded(id=server.uuid, how=on_finish)
        if told.get("images_type", _DISKS) != _DISKS:
            found = f"its root disk in no {_DISKS} file ([libvirt] images_type of its host is {told['images_type']})"
            raise errors.ServerNotLocal(id=server.uuid, what=found)

    def begin(self, images: Sequence[Mapping[str, Any]], cast: Callable[[], None]) -> list[Image]:
        """Make the images, take the server, tell the host. What was made is answered.

        :class:`errors.ServerWrongState` when somebody else was quicker; what the catalogue raises.
        """
        with contextlib.ExitStack() as undo:
            made = []
            for record in images:
                made.append(self.services.catalogue.create(self.context, record))
                undo.callback(self._delete_image, made[-1].id)
            self._take()
            undo.callback(self._release)
            objects.InstanceAction.action_start(self.context, self.server.uuid, self.action, want_result=False)
            undo.push(self._record_failure)
            cast()
            undo.pop_all()
        return made

    def image(self, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """A new image of the server's project: private, and without content."""
        record = {"name": name, "container_format": "bare", "visibility": "private", **facts}
        if self.context.project_id != self.server.project_id:
            record["owner"] = self.server.project_id
        return record

    def _take(self) -> None:
        """Set the task state, unless somebody else has done so since the checks."""
        self.server.task_state = self.task_state
        try:
            self.server.save(expected_vm_state=_STATES, expected_task_state=[None])
        except exception.InstanceUpdateConflict as failure:
            found = ", ".join(f"{name} {value}" for name, value in failure.kwargs.get("actual", {}).items())
            raise self._wrong_state("the state", found or "that it got meanwhile", "as it was") from None
        except exception.InstanceNotFound:
            raise errors.NotFound(what="server", id=self.server.uuid) from None

    def _release(self) -> None:
        self.server.task_state = None
        try:
            self.server.save(expected_task_state=[self.task_state])
        except (exception.UnexpectedTaskStateError, exception.InstanceNotFound):
            LOG.info("The server went on or away meanwhile.", instance=self.server)

    def _delete_image(self, image_id: str) -> None:
        try:
            self.services.catalogue.delete(self.context, image_id)
        except errors.ApiError as failure:
            LOG.warning("Image %s of a request that failed is left over: %s", image_id, failure)

    def _record_failure(self, kind: type[BaseException] | None, value: Any, traceback: Any) -> None:
        """End the action in the server's event list with the error."""
        context, uuid = self.context, self.server.uuid
        objects.InstanceActionEvent.event_start(context, uuid, _EVENT, want_result=False)
        objects.InstanceActionEvent.event_finish_with_failure(
            context, uuid, _EVENT, exc_val=value, exc_tb=traceback, want_result=False
        )
        objects.InstanceAction.action_finish(context, uuid, want_result=False)

    def _wrong_state(self, attribute: str, found: Any, expected: str) -> errors.ServerWrongState:
        return errors.ServerWrongState(
            action=self.action, id=self.server.uuid, attribute=attribute, found=found, expected=expected
        )


def _check_disks(context: Any, server: Any) -> None:
    """:class:`errors.ServerNotLocal` unless the server has one local disk and no other."""
    volumes = objects.BlockDeviceMappingList.get_by_instance_uuid(context, server.uuid)
    if compute_utils.is_volume_backed_instance(context, server, volumes):
        raise errors.ServerNotLocal(id=server.uuid, what="its root disk on a volume")
    if any(volume.is_volume for volume in volumes):
        raise errors.ServerNotLocal(id=server.uuid, what="volumes attached")
    if server.flavor.ephemeral_gb or server.flavor.swap:
        raise errors.ServerNotLocal(id=server.uuid, what="an ephemeral or swap disk")


def inherited_properties(server: Any) -> dict[str, str]:
    """Those properties of a server's image that an image made of the server has, too; Nova's options say which not.

    They tell what hardware the guest knows: a base that is resumed must get the same.
    """
    own = len(nova_utils.SM_IMAGE_PROP_PREFIX)
    given = {
        key[own:]: str(value)
        for key, value in server.system_metadata.items()
        if key.startswith(nova_utils.SM_IMAGE_PROP_PREFIX) and value is not None
    }
    never = {
        *nova_conf.CONF.non_inheritable_image_properties,
        *compute_utils.NON_INHERITABLE_IMAGE_PROPERTIES,
        *nova_utils.SM_INHERITABLE_KEYS,
        *nova_utils.SM_SKIP_KEYS,
    }
    foreign = (properties.PREFIX, "owner_specified.", *compute_utils.NON_INHERITABLE_IMAGE_NAMESPACES)
    return {key: value for key, value in given.items() if key not in never and not key.startswith(foreign)}
