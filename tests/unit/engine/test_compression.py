# SPDX-License-Identifier: Apache-2.0
"""Compression: frames with and without a prefix, declared sizes, and the choice of a level."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from backports import zstd

from cloudlet_ext.engine.compression import Content, compress, compress_all, compress_well, decompress
from cloudlet_ext.engine.errors import Malformed
from cloudlet_ext.engine.level import AUTO, choose_level

MIB = 1 << 20


def noise(size: int, seed: int = 0, values: int = 256) -> bytes:
    return np.random.default_rng(seed).integers(0, values, size, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("level", [1, 2, 3, 6, 8, 12, 19])
def test_a_frame_gives_back_its_content(level: int) -> None:
    content = Content(noise(300_000, values=20))
    stored = compress(content, level)
    assert len(stored) < 250_000
    assert decompress(stored, 300_000, b"", "file", "place") == content.data


@pytest.mark.parametrize("level", [1, 2, 3, 6, 8, 18, 19])
def test_changed_pages_cost_what_changed(level: int) -> None:
    """A whole segment of random pages of which each differs in 8 bytes from the base's."""
    prefix = noise(MIB)
    pages = np.frombuffer(prefix, dtype=np.uint8).reshape(-1, 4096).copy()
    pages[:, 2000:2008] ^= 255
    content = Content(pages.tobytes(), prefix)
    stored = compress(content, level)
    assert len(stored) < 256 * 40
    assert decompress(stored, MIB, prefix, "file", "place") == content.data


@pytest.mark.parametrize("level", [3, 8])
def test_tables_of_numbers_are_compressed_as_level_1_does(level: int) -> None:
    numbers = np.random.default_rng(0).integers(0, 1000, MIB // 8).astype(np.float64)
    content = Content(numbers.tobytes())
    stored = compress_well(content, level)
    assert len(stored) < len(compress(content, level))
    assert decompress(stored, MIB, b"", "file", "place") == content.data


@pytest.mark.parametrize("level", [1, 3, 8])
def test_a_second_try_is_never_larger(level: int) -> None:
    words = np.random.default_rng(0).integers(97, 123, (500, 8), dtype=np.uint8)
    text = words[np.random.default_rng(1).integers(0, 500, 20_000)].tobytes()
    for data in (text, noise(100_000), bytes(100_000), b"", b"x"):
        assert len(compress_well(Content(data), level)) <= len(compress(Content(data), level))


def test_another_prefix_is_noticed() -> None:
    prefix = noise(8192)
    stored = compress(Content(prefix[:4096] + b"changed" * 10, prefix), 3)
    other = prefix[:100] + bytes([prefix[100] ^ 1]) + prefix[101:]
    for wrong in (other, b"", prefix[1:]):
        with pytest.raises(Malformed, match="place"):
            decompress(stored, 4096 + 70, wrong, "file", "place")


@pytest.mark.parametrize("declared", [0, 1, 9999, 10_001, 20_000])
def test_another_size_than_declared_is_refused(declared: int) -> None:
    stored = compress(Content(bytes(10_000)), 3)
    with pytest.raises(Malformed, match=f"{declared} bytes that it declares"):
        decompress(stored, declared, b"", "file", "place")


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zstd.compress(bytes(256 * MIB), 3)
    before = peak_anonymous_bytes()
    with pytest.raises(Malformed, match="more than the 4096 bytes"):
        decompress(bomb, 4096, b"", "file", "place")
    assert peak_anonymous_bytes() - before < 32 * MIB


def peak_anonymous_bytes() -> int:
    with open("/proc/self/status") as status:
        return sum(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def test_a_frame_with_a_huge_window_is_refused() -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27}
    compressor = zstd.ZstdCompressor(options=options)
    stored = compressor.compress(noise(MIB)) + compressor.flush()
    with pytest.raises(Malformed, match="no zstd frame"):
        decompress(stored, MIB, b"", "file", "place")


@pytest.mark.parametrize("data", [b"", b"x", b"no zstd frame at all", bytes(100)])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        decompress(data, 100, b"", "file", "place")


def test_bytes_after_the_frame_are_refused() -> None:
    stored = compress(Content(b"abc"), 3)
    for tail in (b"x", stored, zstd.compress(b"")):
        with pytest.raises(Malformed):
            decompress(stored + tail, 3, b"", "file", "place")
    with pytest.raises(Malformed):
        decompress(stored[:-1], 3, b"", "file", "place")


def test_an_empty_frame_is_allowed() -> None:
    assert decompress(compress(Content(b""), 3), 0, b"", "file", "place") == b""


def test_frames_come_in_the_order_of_the_tasks() -> None:
    contents = [noise(1000 * (50 - number), seed=number) for number in range(50)]
    alive, most = 0, 0
    lock = threading.Lock()

    def task(data: bytes) -> Callable[[], Content]:
        def make() -> Content:
            nonlocal alive, most
            with lock:
                alive += 1
                most = max(most, alive)
            return Content(data)

        return make

    for number, (content, stored) in enumerate(compress_all([task(data) for data in contents], 3)):
        with lock:
            alive -= 1
        assert content.data == contents[number]
        assert decompress(stored, len(content.data), b"", "file", "place") == content.data
    assert most < 50


def test_an_error_in_a_task_comes_out() -> None:
    def fail() -> Content:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(compress_all([lambda: Content(b"x"), fail, lambda: Content(b"y")], 3))


def test_a_level_that_is_told_is_used() -> None:
    assert choose_level(7, []) == 7
    for level in (0, 20, -1, "fast", "7"):
        with pytest.raises(ValueError, match="neither"):
            choose_level(level, [])


def test_the_automatic_level_follows_the_budget() -> None:
    data = noise(MIB, values=30)
    tasks = [lambda: Content(data)] * 20
    chosen = [choose_level(AUTO, tasks, budget_s) for budget_s in (0.0, 0.5, 1e6)]
    assert chosen[0] == 1
    assert chosen == sorted(chosen)
    assert chosen[2] == 18
    assert choose_level(AUTO, []) == 19
