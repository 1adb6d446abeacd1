# SPDX-License-Identifier: Apache-2.0
"""/os-cloudlet/bases."""

from __future__ import annotations

from typing import Any

from nova import context as nova_context

from cloudlet_ext import operation_id
from cloudlet_ext.api import errors, fit
from cloudlet_ext.api import image as properties
from cloudlet_ext.api.image import BASE, Image
from cloudlet_ext.api.schemas import bases as schemas
from cloudlet_ext.api.views import bases as view
from cloudlet_ext.nova import hosts
from cloudlet_ext.nova.call import Call
from cloudlet_ext.nova.handlers.images import list_options, reader_project
from cloudlet_ext.policies import bases as policies


def index(call: Call) -> Any:
    """The bases that the user can read."""
    call.authorize(policies.INDEX, call.context.project_id)
    options = list_options(call, schemas.INDEX_QUERY)
    catalogue = call.services.catalogue
    found = catalogue.list(call.context, BASE, **options)
    memories = catalogue.memories(call.context) if found else {}
    shown = [view.show(base, memories.get(base.image_id(properties.MEMORY_IMAGE) or "")) for base in found]
    return call.answer(200, {"bases": shown}, schemas.INDEX_ANSWER)


def show(call: Call) -> Any:
    """One base."""
    call.query(schemas.NO_QUERY)
    base = call.services.catalogue.get_of_kind(call.context, BASE, call.args["base_id"])
    call.authorize(policies.SHOW, reader_project(call, base))
    shown = view.show(base, _memory(call, base))
    return call.answer(200, {"base": shown}, schemas.SHOW_ANSWER)


def delete(call: Call) -> Any:
    """Delete both images of a base.

    The memory goes first: when the disk then cannot be deleted the base is still listed, and the request can be made
    again.
    """
    call.query(schemas.NO_QUERY)
    catalogue = call.services.catalogue
    base = catalogue.get_of_kind(call.context, BASE, call.args["base_id"])
    call.authorize(policies.DELETE, base.owner)
    memory = _memory(call, base)
    for image in filter(None, (base, memory)):
        if image.protected:
            raise errors.ImageProtected(what="base", id=image.id)
    if memory is not None:
        catalogue.delete(call.context, memory.id)
    catalogue.delete(call.context, base.id)
    return call.answer(204, None, schemas.DELETE_ANSWER)


def precache(call: Call) -> Any:
    """Bring a base to one compute host, or to all that are up."""
    call.query(schemas.NO_QUERY)
    base = call.services.catalogue.get_of_kind(call.context, BASE, call.args["base_id"])
    name = call.body(schemas.PRECACHE, "precache")["precache"].get("host")
    call.authorize(policies.PRECACHE if name is None else policies.PRECACHE_HOST, base.owner)
    fit.check_base(base)
    # A host without our driver would never take the cast, and the operation would never be there.
    operations = [_precache(call, base, host) for host in _hosts(call, name)]
    return call.answer(202, {"operations": operations}, schemas.PRECACHE_ANSWER)


def _memory(call: Call, base: Image) -> Image | None:
    """The memory image of a base; what another project's property points at is nobody's memory."""
    image_id = base.image_id(properties.MEMORY_IMAGE)
    memory = call.services.catalogue.get(call.context, image_id) if image_id else None
    if memory is None or memory.kind != properties.MEMORY or memory.owner != base.owner:
        return None
    return memory


def _hosts(call: Call, name: str | None) -> list[hosts.Host]:
    if name is not None:
        host = hosts.find(call.context, name)
        if not host.up:
            raise errors.HostDown(what=f"the name {name}")
        with nova_context.target_cell(call.context, host.cell) as targeted:
            hosts.ask(f"the name {name}", lambda: call.services.rpc.describe(targeted, name))
        return [host]

    def answers(context: Any, name: str) -> str:
        call.services.rpc.describe(context, name)
        return name

    known = hosts.all_hosts(call.context)
    # Who was silent a moment ago may be back: each is asked.
    answering = set(hosts.ask_all(call.context, known, answers, hosts.Silence()))
    if not answering:
        raise errors.NoHostUp()
    return [host for host in known if host.name in answering]


def _precache(call: Call, base: Image, host: hosts.Host) -> str:
    identifier = operation_id.new(host.name)
    with nova_context.target_cell(call.context, host.cell) as targeted:
        call.services.rpc.precache_base(targeted, host.name, identifier, base.id)
    return identifier
