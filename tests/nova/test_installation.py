# SPDX-License-Identifier: Apache-2.0
"""The installation into Nova itself: a copy of the installed package, its paste file, its way to load a driver."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paste.deploy import loadwsgi

from cloudlet_ext.cmd.manage import main
from cloudlet_ext.cmd.paste_file import PIPELINES

LOADED = """\
import json, sys
sys.path.insert(0, sys.argv[1])
from nova import monkey_patch; monkey_patch.patch()
import nova.virt.cloudlet
from nova import config, objects
from nova.virt import driver
config.parse_args(["nova-compute"], default_config_files=[])
nova.conf.CONF.set_override("state_path", sys.argv[1])
loaded = driver.load_compute_driver(None, "cloudlet.CloudletDriver")
print(json.dumps([nova.__file__, type(loaded).__module__, [each.__name__ for each in type(loaded).__mro__]]))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nova as a source tree: the package in a folder that is on the search path, without a record of an installer."""
    spec = importlib.util.find_spec("nova")
    assert spec is not None and spec.origin is not None
    tree = tmp_path_factory.mktemp("tree")
    shutil.copytree(Path(spec.origin).parent, tree / "nova", ignore=shutil.ignore_patterns("tests", "locale", "*.pyc"))
    # The cloud's own may be linked.
    (tree / "nova/virt/cloudlet.py").unlink(missing_ok=True)
    return tree


def test_nova_loads_the_driver_by_the_link(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["driver", "link", "--nova-path", str(tree)]) == 0
    capsys.readouterr()
    assert main(["driver", "check", "--nova-path", str(tree), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["driver"] == "cloudlet_ext.nova.driver.CloudletDriver"
    command = [sys.executable, "-c", LOADED, str(tree)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    place, module, classes = json.loads(ended.stdout.splitlines()[-1])
    assert place == str(tree / "nova/__init__.py")
    assert module == "cloudlet_ext.nova.driver"
    assert classes[0] == "CloudletDriver" and "LibvirtDriver" in classes
    assert main(["driver", "unlink", "--nova-path", str(tree)]) == 0
    assert main(["driver", "check", "--nova-path", str(tree)]) == 1


def test_the_stock_paste_file(tmp_path: Path) -> None:
    stock = Path(sys.prefix, "etc/nova/api-paste.ini").read_bytes()
    paste = tmp_path / "api-paste.ini"
    paste.write_bytes(stock)
    assert main(["paste", "enable", str(paste)]) == 0
    edited = paste.read_bytes()
    assert main(["paste", "enable", str(paste)]) == 0
    assert paste.read_bytes() == edited
    # Paste itself finds the filter where it was put.
    loader = loadwsgi.ConfigLoader(str(paste))
    for name in PIPELINES:
        words = loader.parser.get(f"composite:{name}", "keystone").split()
        assert words.index("cloudlet") == words.index("keystonecontext") + 1
    assert loader.get_context(loadwsgi.FILTER, "cloudlet").object.__name__ == "filter_factory"
    assert main(["paste", "disable", str(paste)]) == 0
    assert paste.read_bytes() == stock
