# SPDX-License-Identifier: Apache-2.0
"""Reading local files, and choosing a source."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from cloudlet_ext.engine.errors import ShortRead, SourceClosed, SourceNotFound, SourceRefused, SourceUnreadable
from cloudlet_ext.engine.file_source import FileSource
from cloudlet_ext.engine.source import open_source
from tests.unit.engine.faulty_server import make_file


def test_ranges(tmp_path: Path) -> None:
    content = make_file(tmp_path / "file", 3 << 20)
    with FileSource(tmp_path / "file") as source:
        assert source.size_bytes == len(content)
        assert source.read(0, 10) == content[:10]
        assert source.read(7, (2 << 20) + 3) == content[7 : (2 << 20) + 10]
        for _ in range(10):
            assert b"".join(source.stream(0, len(content))) == content
        assert source.read(len(content), 0) == b""
        assert source.rate_bytes_per_s is not None
        assert source.rate_bytes_per_s > 0


@pytest.mark.parametrize(("offset", "length"), [(0, 1001), (1000, 1), (999, 2), (5000, 10), (0, 1 << 60)])
def test_past_the_end(offset: int, length: int, tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    with FileSource(tmp_path / "file") as source, pytest.raises(ShortRead) as caught:
        source.read(offset, length)
    assert (caught.value.offset, caught.value.length, caught.value.size) == (offset, length, 1000)


def test_file_that_shrinks(tmp_path: Path) -> None:
    make_file(tmp_path / "file", 3 << 20)
    with FileSource(tmp_path / "file") as source:
        stream = source.stream(0, 3 << 20)
        next(stream)
        os.truncate(tmp_path / "file", 100)
        with pytest.raises(ShortRead):
            list(stream)


def test_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(SourceUnreadable, match="not a regular file"):
            FileSource(path)
    with pytest.raises(SourceNotFound, match="no such file") as caught:
        FileSource(tmp_path / "none")
    assert caught.value.exit_code == 4


def test_closed(tmp_path: Path) -> None:
    make_file(tmp_path / "file", 1000)
    source = FileSource(tmp_path / "file")
    source.close()
    source.close()
    with pytest.raises(SourceClosed):
        source.read(0, 1)


def test_closing_while_others_read(tmp_path: Path) -> None:
    """The descriptor is not given up under a reader, who would read another file then."""
    content = make_file(tmp_path / "file", 4 << 20)
    source = FileSource(tmp_path / "file")
    wrong = []

    def read() -> None:
        while True:
            try:
                if source.read(0, len(content)) != content:
                    wrong.append(1)
            except SourceClosed:
                return

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    source.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert not wrong


def test_open_source(tmp_path: Path) -> None:
    make_file(tmp_path / "file", 10)
    with FileSource(tmp_path / "file"):
        source = open_source(str(tmp_path / "file"))
        assert source.read(0, 10)
        source.close()
    web = open_source("https://glance.example/v2/images/x/file?token=secret")
    assert web.describe() == "https://glance.example/v2/images/x/file"
    web.close()
    with pytest.raises(SourceRefused, match="scheme must be https or http"):
        open_source("file:///etc/passwd")
