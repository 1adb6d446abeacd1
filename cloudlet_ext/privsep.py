# SPDX-License-Identifier: Apache-2.0
"""The one thing that needs privileges, by oslo.privsep: a network namespace for the scratch guest of ``--record``.

Each worker that records starts a daemon of its own, as nova-compute would start one of Nova's: by
``[cloudlet_privileged] helper_command``, or by Nova's root helper. :mod:`cloudlet_ext.job.scratch` has all that such a
daemon does.
"""

from __future__ import annotations

import shlex

from oslo_config import cfg
from oslo_privsep import capabilities, priv_context

GROUP = "cloudlet_privileged"
CONTEXT = "cloudlet_ext.privsep.context"

context = priv_context.PrivContext(
    "cloudlet_ext",
    cfg_section=GROUP,
    pypath=CONTEXT,
    # The first makes a network namespace and enters it, the second moves a device into it and gives it an address.
    capabilities=[capabilities.CAP_SYS_ADMIN, capabilities.CAP_NET_ADMIN],
)


def helper() -> str:
    """The command by which this process, nova-compute, starts such daemons."""
    words = context.helper_command("")
    return shlex.join(words[: words.index("--privsep_context")])


def use_helper(command: str) -> None:
    """Start them by this command, in a process that has not read nova.conf."""
    cfg.CONF.set_override("helper_command", command, group=GROUP)
