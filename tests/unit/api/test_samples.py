# SPDX-License-Identifier: Apache-2.0
"""The samples in etc/ are what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from cloudlet_ext import conf, policies

ETC = Path(__file__).parents[3] / "etc/cloudlet"
AGAIN = "Generate it again, see the first line of the generator's file in etc/cloudlet."


def test_options() -> None:
    sample = (ETC / "cloudlet.conf.sample").read_text()
    listed = re.findall(r"^#(\w+) =", sample, re.MULTILINE)
    (_, opts), *_ = conf.list_opts()
    assert listed == [opt.name for opt in opts], AGAIN
    plain = " ".join(sample.replace("\n#", " ").split())
    for opt in opts:
        assert " ".join(opt.help.split()) in plain, AGAIN


def test_policies() -> None:
    sample = (ETC / "policy.yaml.sample").read_text()
    listed = dict(re.findall(r'^#"([^"]+)": "([^"]+)"', sample, re.MULTILINE))
    assert listed == {rule.name: rule.check_str for rule in policies.list_rules()}, AGAIN
    plain = " ".join(sample.replace("\n#", " ").split())
    for rule in policies.list_rules():
        assert rule.description in plain, AGAIN
