# SPDX-License-Identifier: Apache-2.0
"""Scripts that hand their arguments on: names of files belong to the folder that they are called in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SHOW = """#!{python}
import json, os, sys
from pathlib import Path
path = Path(sys.argv[sys.argv.index("--json") + 1])
path.write_text(json.dumps({{"words": sys.argv[1:], "work": os.environ["CLOUDLET_WORK"]}}))
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The scripts, with nothing to install, and a Python that writes what it was given where --json says."""
    tree = tmp_path / "tree"
    for name in ("tools/quickstart", "tools/lib.sh", "benchmarks/run", "benchmarks/api_overhead"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    for name in ("tools/install", "tools/guest"):
        (tree / name).write_text("#!/bin/sh\n")
        (tree / name).chmod(0o755)
    python = tree / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(SHOW.format(python=sys.executable).replace("path = ", 'if "-c" in sys.argv: sys.exit()\npath = '))
    python.chmod(0o755)
    return tree


@pytest.mark.parametrize("script", ["tools/quickstart", "benchmarks/run", "benchmarks/api_overhead"])
def test_where_a_file_is_written(tree: Path, tmp_path: Path, script: str) -> None:
    """And where a relative CLOUDLET_WORK is."""
    mine = tmp_path / "mine"
    mine.mkdir()
    environment = {**os.environ, "CLOUDLET_WORK": "work", "CLOUDLET_PYTHON": str(tree / ".venv/bin/python")}
    words = ["--json", "figures.json", "--quick"]
    subprocess.run([tree / script, *words], cwd=mine, env=environment, check=True)
    given = json.loads((mine / "figures.json").read_text())
    assert given["words"][-3:] == words
    if script != "benchmarks/api_overhead":
        assert given["work"] == str(mine / "work")
    assert not (tree / "figures.json").exists()


@pytest.mark.parametrize("program", ["benchmarks", "benchmarks.quickstart"])
def test_what_stands_in_the_callers_folder_is_not_imported(tmp_path: Path, program: str) -> None:
    for name in ("benchmarks", "cloudlet_ext"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    script = ROOT / ("benchmarks/run" if program == "benchmarks" else "tools/quickstart")
    (line,) = [line for line in script.read_text().splitlines() if f"-m {program}" in line]
    assert "PYTHONSAFEPATH=1" in line and "PYTHONPATH=" in line
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", program, "--json", "none/figures.json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"{tmp_path}/none/figures.json cannot be a file" in done.stderr
