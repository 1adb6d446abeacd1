# SPDX-License-Identifier: Apache-2.0
"""cloudlet-manage: the driver link in Novas made of empty files, and the filter in paste files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudlet_ext.cmd import driver_link
from cloudlet_ext.cmd.manage import main
from tests.unit.cmd.conftest import Ended
from tests.unit.cmd.installation import PASTE, as_another_user, make_nova, open_folder

Manage = Callable[..., Ended]


@pytest.fixture
def manage(capsys: pytest.CaptureFixture[str]) -> Manage:
    def run(*words: object) -> Ended:
        code = main([*map(str, words)])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run


@pytest.fixture
def nova(tmp_path: Path) -> Path:
    return make_nova(tmp_path / "tree")


@pytest.fixture
def paste(tmp_path: Path) -> Path:
    path = tmp_path / "api-paste.ini"
    path.write_bytes(PASTE)
    path.chmod(0o640)
    return path


def file_of(nova: Path) -> Path:
    return nova / "virt/cloudlet.py"


def identity(path: Path) -> tuple[int, int]:
    """Changes when a file is replaced or written."""
    return path.stat().st_ino, path.stat().st_mtime_ns


# The driver link


def test_link_and_unlink(manage: Manage, nova: Path) -> None:
    before = sorted(nova.rglob("*"))
    assert manage("driver", "link", "--nova-path", nova).output == f"linked: {file_of(nova)}\n"
    lines = file_of(nova).read_text().splitlines()
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
    assert [line for line in lines if not line.startswith("#")] == [
        "from cloudlet_ext.nova.driver import CloudletDriver"
    ]
    assert file_of(nova).stat().st_mode & 0o777 == 0o644
    compiled = nova / "virt/__pycache__"
    compiled.mkdir()
    for name in ("cloudlet.cpython-311.pyc", "cloudlet.cpython-311.opt-1.pyc", "cloudlets.cpython-311.pyc"):
        (compiled / name).touch()
    assert manage("driver", "unlink", "--nova-path", nova).output == f"removed: {file_of(nova)}\n"
    assert [path.name for path in compiled.iterdir()] == ["cloudlets.cpython-311.pyc"]
    (compiled / "cloudlets.cpython-311.pyc").unlink()
    compiled.rmdir()
    assert sorted(nova.rglob("*")) == before
    ended = manage("driver", "unlink", "--nova-path", nova)
    assert (ended.code, ended.output) == (0, "there is no link\n")


def test_twice_is_once(manage: Manage, nova: Path) -> None:
    manage("driver", "link", "--nova-path", nova)
    before = identity(file_of(nova))
    ended = manage("driver", "link", "--nova-path", nova, "--json")
    assert ended.document == {"linked": True, "path": str(file_of(nova)), "changed": False}
    assert identity(file_of(nova)) == before


def test_another_version_of_ours_is_replaced(manage: Manage, nova: Path) -> None:
    file_of(nova).write_text(f"{driver_link.MARK} of an older release.\nfrom elsewhere import CloudletDriver\n")
    assert manage("driver", "link", "--nova-path", nova, "--json").document["changed"] is True
    assert file_of(nova).read_text() == driver_link.CONTENT


def test_the_folder_may_be_the_tree(manage: Manage, nova: Path) -> None:
    assert manage("driver", "link", "--nova-path", nova.parent).code == 0
    assert file_of(nova).exists()


@pytest.mark.parametrize("verb", ["link", "unlink", "check"])
def test_what_is_not_ours_stays(manage: Manage, nova: Path, verb: str) -> None:
    file_of(nova).write_text("class CloudletDriver: ...\n")
    ended = manage("driver", verb, "--nova-path", nova)
    assert ended.code == 1
    assert str(file_of(nova)) in ended.error and "not written by cloudlet-manage" in ended.error
    assert file_of(nova).read_text() == "class CloudletDriver: ...\n"


@pytest.mark.parametrize("target", ["elsewhere.py", "missing.py"])
def test_a_symbolic_link_is_not_ours(manage: Manage, nova: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "elsewhere.py").write_text(driver_link.CONTENT)
    file_of(nova).symlink_to(tmp_path / target)
    for verb in ("link", "unlink"):
        assert manage("driver", verb, "--nova-path", nova).code == 1
    assert file_of(nova).is_symlink()


def test_no_nova(manage: Manage, tmp_path: Path) -> None:
    ended = manage("driver", "link", "--nova-path", tmp_path)
    assert ended.code == 1
    assert ended.error.startswith(f"cloudlet-manage: there is no Nova with a libvirt driver in {tmp_path}.")
    assert ended.error.count("\n") == 1
    told = json.loads(manage("driver", "check", "--nova-path", tmp_path, "--json").error)["error"]
    assert told["kind"] == "NovaMissing" and str(tmp_path) in told["message"]


def test_no_nova_on_the_search_path(manage: Manage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    ended = manage("driver", "link")
    assert ended.code == 1 and "the search path of this Python" in ended.error


def test_nova_is_found_where_python_finds_it(manage: Manage, nova: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nova / "__init__.py").write_text("raise AssertionError('Nova was imported')\n")
    monkeypatch.syspath_prepend(str(nova.parent))
    assert manage("driver", "link", "--json").document["path"] == str(file_of(nova))


def test_an_editable_nova(nova: Path, tmp_path: Path) -> None:
    """Installed from its tree: a finder of its own, put into site-packages, knows the folder."""
    site = tmp_path / "site-packages"
    site.mkdir()
    finder = f"""\
import sys
from importlib.machinery import PathFinder

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [{str(nova.parent)!r}]) if name == "nova" else None

sys.meta_path.append(Finder)
"""
    (site / "nova_finder.py").write_text(finder)
    code = "import nova_finder, sys; from cloudlet_ext.cmd.manage import main; sys.exit(main())"
    # Without what another Nova may have put into this Python.
    path = os.pathsep.join([str(site), str(Path(driver_link.__file__).parents[2])])
    command = [sys.executable, "-S", "-c", code, "driver", "link", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": path})
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["path"] == str(file_of(nova))


def test_two_folders_of_the_name(manage: Manage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (make_nova(tmp_path / name) / "__init__.py").unlink()
    # A package without __init__.py is the sum of all folders of its name.
    monkeypatch.setattr(sys, "path", [str(tmp_path / "one"), str(tmp_path / "two")])
    ended = manage("driver", "link")
    assert ended.code == 1 and str(tmp_path / "one") in ended.error and str(tmp_path / "two") in ended.error


def test_unlink_after_nova_was_uninstalled(manage: Manage, nova: Path) -> None:
    """An uninstallation removes only what it installed, so that the link stays in an empty folder."""
    manage("driver", "link", "--nova-path", nova)
    for file in nova.rglob("__init__.py"):
        file.unlink()
    assert manage("driver", "check", "--nova-path", nova).code == 1
    assert manage("driver", "unlink", "--nova-path", nova, "--json").document["removed"] == [str(file_of(nova))]


def test_not_writable() -> None:
    with open_folder() as folder:
        nova = make_nova(folder)
        (nova / "virt").chmod(0o555)
        ended = as_another_user("driver", "link", "--nova-path", nova)
        assert ended.returncode == 1
        assert f"{file_of(nova)} cannot be written: Permission denied. You are" in ended.stderr
        assert "run this as its owner or as root" in ended.stderr
        assert not [path for path in (nova / "virt").iterdir() if "cloudlet" in path.name]
        (nova / "virt").chmod(0o755)


def test_check(manage: Manage, nova: Path) -> None:
    ended = manage("driver", "check", "--nova-path", nova)
    assert ended.code == 1
    assert ended.output.startswith(f"not linked: {file_of(nova)}\nthere is no link.")
    manage("driver", "link", "--nova-path", nova)
    # What is linked here is a driver of an empty Nova.
    ended = manage("driver", "check", "--nova-path", nova, "--json")
    assert ended.code == 1
    assert ended.document["linked"] is True and ended.document["driver"] is None
    assert "cannot be imported" in ended.document["error"] and "Error: " in ended.document["error"]


def test_check_imports_the_driver(manage: Manage, nova: Path) -> None:
    package = nova.parent / "cloudlet_ext/nova"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "driver.py").write_text("print('a library talks')\nclass CloudletDriver: ...\n")
    manage("driver", "link", "--nova-path", nova)
    ended = manage("driver", "check", "--nova-path", nova)
    assert ended.code == 0, ended.output
    assert "the driver can be imported: cloudlet_ext.nova.driver.CloudletDriver" in ended.output
    assert not (nova / "virt/__pycache__").exists(), "a check leaves nothing behind"


# The paste file


def test_paste(manage: Manage, paste: Path) -> None:
    assert manage("paste", "check", paste).code == 1
    assert manage("paste", "enable", paste).output == f"enabled: {paste}\n"
    lines = paste.read_bytes().splitlines()
    assert b"keystone = cors authtoken keystonecontext cloudlet osapi_compute_app_v21" in lines
    assert b"keystone = cors authtoken keystonecontext cloudlet legacy_v2_compatible osapi_compute_app_v21" in lines
    assert paste.read_bytes().endswith(
        b"factory\n\n[filter:cloudlet]\npaste.filter_factory = cloudlet_ext.nova.filter:filter_factory\n"
    )
    assert b"# caf\xe9\n" in paste.read_bytes()
    assert paste.stat().st_mode & 0o777 == 0o640
    ended = manage("paste", "check", paste)
    assert ended.code == 0 and "  yes  openstack_compute_api_v21\n" in ended.output
    assert manage("paste", "disable", paste).output == f"disabled: {paste}\n"
    assert paste.read_bytes() == PASTE
    assert manage("paste", "disable", paste).output == f"was not enabled: {paste}\n"


def test_paste_twice_is_once(manage: Manage, paste: Path) -> None:
    manage("paste", "enable", paste)
    before, content = identity(paste), paste.read_bytes()
    assert manage("paste", "enable", paste, "--json").document["changed"] is False
    assert (identity(paste), paste.read_bytes()) == (before, content)


@pytest.mark.parametrize(
    "original",
    [
        PASTE,
        PASTE.rstrip(b"\n"),
        PASTE + b"\n\n",
        PASTE.replace(b"\n", b"\r\n"),
        PASTE.replace(b"\n", b"\r\n").rstrip(b"\r\n"),
        PASTE.replace(b"keystonecontext ", b"keystonecontext\t "),
        PASTE.replace(b"keystonecontext ", b"keystonecontext\n  # a comment\n   "),
        PASTE.replace(b"keystone = cors ", b"keystone: cors\n  "),
        PASTE.replace(b"keystone =", b"noauth2 = cors osapi_compute_app_v21\nkeystone ="),
    ],
    ids=["plain", "open end", "blank end", "crlf", "crlf open", "tab", "two lines", "colon", "another pipeline"],
)
def test_paste_is_undone_to_the_byte(manage: Manage, paste: Path, original: bytes) -> None:
    paste.write_bytes(original)
    assert manage("paste", "enable", paste).code == 0
    document: Any = manage("paste", "check", paste, "--json").document
    assert document["enabled"] and document["section"] and set(document["pipelines"].values()) == {True}
    assert b"noauth2 = cors osapi" in paste.read_bytes() or b"noauth2" not in original
    manage("paste", "disable", paste)
    assert paste.read_bytes() == original


def test_what_was_half_done_is_finished(manage: Manage, paste: Path) -> None:
    paste.write_bytes(PASTE.replace(b"keystonecontext osapi", b"keystonecontext cloudlet osapi"))
    document = manage("paste", "check", paste, "--json").document
    assert document["enabled"] is False
    assert list(document["pipelines"].values()) == [True, False]
    manage("paste", "enable", paste)
    assert paste.read_bytes().count(b"keystonecontext cloudlet ") == 2
    manage("paste", "disable", paste)
    assert paste.read_bytes() == PASTE


def test_what_stands_behind_our_section_stays(manage: Manage, paste: Path) -> None:
    other = b"\n# of somebody else\n[filter:other]\npaste.filter_factory = other:factory\n"
    manage("paste", "enable", paste)
    with paste.open("ab") as file:
        file.write(other)
    manage("paste", "enable", paste)
    manage("paste", "disable", paste)
    assert paste.read_bytes() == PASTE + other


def test_a_section_written_by_hand_counts(manage: Manage, paste: Path) -> None:
    section = b"[filter:cloudlet]\nuse_this = too\npaste.filter_factory=cloudlet_ext.nova.filter:filter_factory\n\n"
    paste.write_bytes(section + PASTE)
    manage("paste", "enable", paste)
    assert paste.read_bytes().count(b"[filter:cloudlet]") == 1
    manage("paste", "disable", paste)
    assert b"use_this" not in paste.read_bytes() and b"keystonecontext osapi" in paste.read_bytes()


@pytest.mark.parametrize(
    ("original", "words"),
    [
        (b"", 'line "keystone =" in a section [composite:openstack_compute_api_v21]'),
        (PASTE.replace(b"keystone =", b"noauth2 ="), 'line "keystone ="'),
        (PASTE.replace(b"keystonecontext ", b""), 'filter "keystonecontext"'),
        (PASTE.replace(b"authtoken", b"cloudlet authtoken"), "stands before"),
        (PASTE + b"[filter:cloudlet]\npaste.filter_factory = their:factory\n", "their:factory"),
    ],
    ids=["empty", "no keystone", "no context", "misplaced", "foreign"],
)
def test_paste_files_that_are_refused(manage: Manage, paste: Path, original: bytes, words: str) -> None:
    paste.write_bytes(original)
    for verb in ("enable", "check"):
        ended = manage("paste", verb, paste)
        assert ended.code == 1 and words in ended.error and str(paste) in ended.error
        assert ended.error.count("\n") == 1
    assert paste.read_bytes() == original


def test_a_foreign_filter_is_not_disabled(manage: Manage, paste: Path) -> None:
    original = PASTE.replace(b"keystonecontext ", b"keystonecontext cloudlet ")
    original += b"[filter:cloudlet]\npaste.filter_factory = their:factory\n"
    paste.write_bytes(original)
    assert manage("paste", "disable", paste).code == 1
    assert paste.read_bytes() == original


def test_a_link_to_the_file_stays_a_link(manage: Manage, paste: Path) -> None:
    link = paste.with_name("linked.ini")
    link.symlink_to(paste)
    assert manage("paste", "enable", link).code == 0
    assert link.is_symlink() and b"[filter:cloudlet]" in paste.read_bytes()


def test_a_paste_file_that_is_not_there(manage: Manage, tmp_path: Path) -> None:
    ended = manage("paste", "enable", tmp_path / "missing.ini")
    assert ended.code == 1
    assert ended.error.startswith(f"cloudlet-manage: {tmp_path}/missing.ini: No such file or directory (you are")


def test_a_paste_file_that_cannot_be_written() -> None:
    with open_folder() as folder:
        paste = folder / "api-paste.ini"
        paste.write_bytes(PASTE)
        folder.chmod(0o555)
        ended = as_another_user("paste", "enable", paste)
        assert ended.returncode == 1 and "Permission denied (you are" in ended.stderr
        assert paste.read_bytes() == PASTE


# The command


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["driver"], ["paste", "enable"], ["driver", "break"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        assert "usage: cloudlet-manage" in capsys.readouterr().err


def test_it_needs_only_python(nova: Path) -> None:
    """From a tree where nothing is installed, as it is called to undo an installation."""
    root = Path(driver_link.__file__).parents[2]
    command = [sys.executable, "-S", "-m", "cloudlet_ext.cmd.manage", "driver", "link", "--nova-path", str(nova)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(root)})
    assert ended.returncode == 0, ended.stderr
    assert file_of(nova).exists()
