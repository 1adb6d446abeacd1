# SPDX-License-Identifier: Apache-2.0
"""The same errors are told at the command line and to users of Nova: each gets the words that are right there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from cloudlet_ext.cmd import border
from cloudlet_ext.cmd.interruption import Watch
from cloudlet_ext.engine.errors import EngineError, Unsigned
from cloudlet_ext.exception import CloudletError
from cloudlet_ext.hypervisor.errors import AcceleratorUnknown, HypervisorError, QemuMissing, ScratchFull
from cloudlet_ext.worker.errors import SourceLost

COMMAND_LINE = re.compile(r"CLOUDLET_[A-Z]|(^|\s)--\w|\bcloudlet (base|server|overlay) ")
"""Words that mean nothing to a user of Nova."""


def below(kind: type[CloudletError]) -> Iterator[type[CloudletError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from below(one)


@pytest.mark.parametrize("kind", [*below(EngineError), *below(HypervisorError), SourceLost])
def test_a_message_is_right_in_nova_too(kind: type[CloudletError]) -> None:
    # What is wrong there is the variable itself.
    assert kind is AcceleratorUnknown or not COMMAND_LINE.search(kind.msg_fmt)


@pytest.mark.parametrize(
    ("error", "told", "only_at_the_command_line"),
    [
        (ScratchFull(path="/var/x", what="the disk"), "No space is left in /var/x", "CLOUDLET_HOME"),
        (SourceLost(overlay="o", reason="gone"), "did not come back: gone", "The server was removed"),
        (QemuMissing(binary="qemu", reason="gone"), "Install", "CLOUDLET_QEMU"),
        (Unsigned(path="o"), "Ask its maker", "do not require"),
    ],
)
def test_a_hint_of_the_command_line(error: CloudletError, told: str, only_at_the_command_line: str) -> None:
    """A worker of Nova tells ``str(error)``."""
    assert told in str(error) and only_at_the_command_line not in str(error)
    message = border._told(error, Watch()).message
    assert message.startswith(str(error)) and only_at_the_command_line in message
