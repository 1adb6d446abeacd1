# SPDX-License-Identifier: Apache-2.0
"""A weigher for nova-scheduler: hosts that hold the base of a request's image come first.

To be named in nova.conf of nova-scheduler::

    [filter_scheduler]
    weight_classes = nova.scheduler.weights.all_weighers,cloudlet_ext.nova.scheduler.BaseWeigher

What hosts hold, they tell as :mod:`cloudlet_ext.nova.held_bases` says. For an image that no host knows, an ordinary one
above all, every host weighs the same and nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import nova.conf
from nova.scheduler import utils, weights
from oslo_config import cfg

from cloudlet_ext.nova import held_bases

CONF = nova.conf.CONF

OPTS = [
    cfg.FloatOpt(
        "base_weight_multiplier",
        default=5.0,
        help="How much nova-scheduler prefers hosts that hold the base of a server that is to be resumed or "
        "synthesised. Nova's weighers for memory, CPU and disk give up to 1.0 each by default, so that with more than "
        "3.0 the base decides; with less, a host that is emptier may be taken, and fetches the base. 0 switches the "
        "weigher off, a negative value spreads. Aggregates may have a value of their own, in their metadata "
        "cloudlet_base_weight_multiplier.",
    ),
]

CONF.register_opts(OPTS, group="cloudlet")


class BaseWeigher(weights.BaseHostWeigher):  # type: ignore[misc]  # Nova has no types
    """1.0 for a host that holds the base of the request's image, 0.0 for others."""

    minval = 0.0
    maxval = 1.0

    def weight_multiplier(self, host_state: Any) -> float:
        """``[cloudlet] base_weight_multiplier``, or what the host's aggregates say."""
        name, value = "cloudlet_base_weight_multiplier", CONF.cloudlet.base_weight_multiplier
        return float(utils.get_weight_multiplier(host_state, name, value))

    def weigh_objects(self, weighed_obj_list: Iterable[Any], weight_properties: Any) -> list[float]:
        """Weights of all hosts, in their order. Any host that knows the image tells for all which base it is."""
        hosts = [weighed.obj for weighed in weighed_obj_list]
        image_id = _image_id(weight_properties)
        wanted = {held_bases.base_of_image(host.stats, image_id) for host in hosts} if image_id else set()
        wanted.discard(None)
        return [1.0 if wanted & held_bases.bases_of(host.stats) else 0.0 for host in hosts]

    def _weigh_object(self, obj: Any, weight_properties: Any) -> float:
        """Weight of one host, as far as it can tell by itself."""
        image_id = _image_id(weight_properties)
        return 1.0 if image_id and held_bases.base_of_image(obj.stats, image_id) else 0.0


def _image_id(request_spec: Any) -> str | None:
    """Id of the image to boot from; none for a server that boots from a volume."""
    image = request_spec.image
    return image.id if image and "id" in image else None


def list_opts() -> list[tuple[str, list[Any]]]:
    """For oslo-config-generator."""
    return [("cloudlet", OPTS)]
