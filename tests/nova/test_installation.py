# SPDX-License-Identifier: Apache-2.0
"""The installation into Nova itself: a copy of the installed package, its paste file, its way to load a driver."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from paste.deploy import loadwsgi

from cloudlet_ext.cmd import driver_link
from cloudlet_ext.cmd.manage import main
from cloudlet_ext.cmd.paste_file import PIPELINES

LOADED = """\
import json, sys
from nova import monkey_patch; monkey_patch.patch()
import nova.virt.cloudlet
from nova import config, objects
from nova.virt import driver
config.parse_args(["nova-compute"], default_config_files=[])
nova.conf.CONF.set_override("state_path", sys.argv[1])
loaded = driver.load_compute_driver(None, "cloudlet.CloudletDriver")
print(json.dumps([nova.__file__, type(loaded).__module__, [each.__name__ for each in type(loaded).__mro__]]))
"""

PROJECT = {
    "pyproject.toml": '[build-system]\nrequires = ["pbr", "setuptools"]\nbuild-backend = "pbr.build"\n',
    "setup.cfg": "[metadata]\nname = nova\nversion = 34.0.0\n[files]\npackages =\n    nova\n",
    "setup.py": "import setuptools\n\nsetuptools.setup(setup_requires=['pbr'], pbr=True)\n",
}
"""What Nova's own source tree says of how it is built."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nova as a source tree: the package in a folder, without a record of an installer."""
    spec = importlib.util.find_spec("nova")
    assert spec is not None and spec.origin is not None
    tree = tmp_path_factory.mktemp("tree")
    # The cloud's own may be linked.
    left_out = shutil.ignore_patterns("tests", "locale", "cloudlet.*")
    shutil.copytree(Path(spec.origin).parent, tree / "nova", ignore=left_out)
    return tree


@pytest.fixture(scope="module")
def editable(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which Nova is installed from its tree (``pip install -e``), as DevStack does it.

    All else in it is this environment's own, by symbolic links.
    """
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, symlinks=True)
    (site,) = environment.glob("lib/python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("nova-", "nova.", "cloudlet", "__editable__")) and entry.name != "nova":
            (site / entry.name).symlink_to(entry)
    (site / "cloudlet_ext").symlink_to(Path(driver_link.__file__).parents[1])
    for name, content in PROJECT.items():
        (tree / name).write_text(content)
    words = ["install", "-q", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    python = environment / "bin/python"
    environ = {**os.environ, "PBR_VERSION": "34.0.0"}
    run(sys.executable, "-m", "pip", "--python", python, *words, "-e", tree, environ=environ)
    return python


def run(*words: object, environ: dict[str, str] | None = None, code: int = 0) -> str:
    """What a command prints, which is to end with ``code``, in a folder that has nothing to do with it."""
    command = list(map(str, words))
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environ, cwd="/")
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout


def assert_loaded(said: str, tree: Path) -> None:
    """What LOADED has printed: our driver, in that tree's Nova."""
    place, module, classes = json.loads(said.splitlines()[-1])
    assert place == str(tree / "nova/__init__.py")
    assert module == "cloudlet_ext.nova.driver"
    assert classes[0] == "CloudletDriver" and "LibvirtDriver" in classes


def test_nova_loads_the_driver_by_the_link(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["driver", "link", "--nova-path", str(tree)]) == 0
    capsys.readouterr()
    assert main(["driver", "check", "--nova-path", str(tree), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["driver"] == "cloudlet_ext.nova.driver.CloudletDriver"
    path = os.pathsep.join([str(tree), str(Path(driver_link.__file__).parents[2])])
    assert_loaded(run(sys.executable, "-c", LOADED, tree, environ={**os.environ, "PYTHONPATH": path}), tree)
    assert main(["driver", "unlink", "--nova-path", str(tree)]) == 0
    assert main(["driver", "check", "--nova-path", str(tree)]) == 1


def test_an_editable_nova(editable: Path, tree: Path, tmp_path: Path) -> None:
    """Nobody says where Nova is: a finder of pip's knows it, in every process of this Python."""
    manage = [editable, "-m", "cloudlet_ext.cmd.manage", "driver"]
    link = tree / "nova/virt/cloudlet.py"
    assert json.loads(run(*manage, "link", "--json"))["path"] == str(link)
    assert json.loads(run(*manage, "check", "--json"))["driver"] == "cloudlet_ext.nova.driver.CloudletDriver"
    assert_loaded(run(editable, "-c", LOADED, tmp_path), tree)
    assert json.loads(run(*manage, "unlink", "--json"))["removed"] == [str(link)]
    assert not list((tree / "nova/virt").glob("**/cloudlet.*"))
    run(*manage, "check", code=1)


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
