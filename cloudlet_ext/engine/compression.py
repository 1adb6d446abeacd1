# SPDX-License-Identifier: Apache-2.0
"""Compression: zstd frames, each alone, on all cores.

A segment may be compressed with *prefix* content that the reader has too (zstd's refPrefix): a page
that differs from the base's in a few bytes then costs a few bytes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from backports import zstd

from cloudlet_ext.engine.errors import Malformed

_WINDOW_LOG_MAX = 23
"""8 MiB, the window of level 19: a frame that needs more memory to be read is refused."""

_Parameter = zstd.CompressionParameter

_LOW_LEVEL_HASH_LOG = 17
"""Levels 1 and 2 forget most of a prefix with their own hash tables.

The base's version of a page is a segment away, which is also farther than these levels look back.
Measured on 51 segments, with a window for all: 10.26 -> 9.29 MB at level 1, 9.57 -> 9.19 MB at
level 2, for 0.05 s of 0.13 s. Long-distance matching gains nothing from level 3 on, and loses 1 %
from level 6 on.
"""

_CHEAP_LEVEL = 5
_SAMPLE_BYTES = 32 << 10


@dataclass(frozen=True)
class Content:
    """Bytes to compress, and the prefix to do it with (empty: none)."""

    data: bytes | memoryview
    prefix: bytes = b""


def compress(content: Content, level: int) -> bytes:
    """One zstd frame of ``content`` with its size in it."""
    size = len(content.data) + len(content.prefix)
    options: dict[int, int] = {_Parameter.compression_level: level}
    dictionary = None
    if size > 1 << 20:
        options[_Parameter.window_log] = min((size - 1).bit_length(), _WINDOW_LOG_MAX)
    if content.prefix:
        # What a reader's base has instead of the writer's would else go unnoticed into the result.
        options[_Parameter.checksum_flag] = 1
        if level < 3:
            options[_Parameter.hash_log] = _LOW_LEVEL_HASH_LOG
        dictionary = zstd.ZstdDict(content.prefix, is_raw=True).as_prefix
    compressor = zstd.ZstdCompressor(options=options, zstd_dict=dictionary)
    compressor.set_pledged_input_size(len(content.data))
    return compressor.compress(content.data, mode=zstd.ZstdCompressor.FLUSH_FRAME)


def compress_well(content: Content, level: int) -> bytes:
    """The smaller of the frames of ``level`` and of level 1.

    Tables of numbers are smaller at level 1 (0.20 of 64 MiB of three-digit floating point numbers,
    0.24 at level 3, 0.215 at 19), since it takes no match shorter than 7 bytes.
    """
    stored = compress(content, level)
    if level == 1:
        return stored
    if level <= _CHEAP_LEVEL:
        # Where a second try would cost as much as the first, a sample decides.
        middle = len(content.data) // 2
        sample = Content(content.data[middle : middle + _SAMPLE_BYTES])
        if len(compress(sample, 1)) >= len(compress(sample, level)):
            return stored
    return min(stored, compress(content, 1), key=len)


def decompress(stored: bytes, size: int, prefix: bytes, path: str, place: str) -> bytes:
    """Undo compress(): exactly ``size`` bytes; Malformed if the frame has not those."""
    dictionary = zstd.ZstdDict(prefix, is_raw=True).as_prefix if prefix else None
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    try:
        decompressor = zstd.ZstdDecompressor(dictionary, options)
        # One byte more than declared is asked for, to notice a frame that holds more without
        # unpacking it.
        data = decompressor.decompress(stored, max_length=size + 1)
        while len(data) <= size and not decompressor.eof and not decompressor.needs_input:
            data += decompressor.decompress(b"", max_length=size + 1 - len(data))
    except zstd.ZstdError as error:
        raise Malformed(path=path, place=place, reason=f"it is no zstd frame: {error}") from error
    if len(data) > size:
        raise Malformed(
            path=path,
            place=place,
            reason=f"it unpacks to more than the {size} bytes that it declares",
        )
    if len(data) < size or not decompressor.eof or decompressor.unused_data:
        raise Malformed(
            path=path,
            place=place,
            reason=f"it does not unpack to the {size} bytes that it declares",
        )
    return data


def thread_count(level: int, large: bool = False) -> int:
    """Threads that compress segments of 1 MiB (or of 4 MiB): all cores, as far as 300 MB allow.

    Measured: a context takes up to 10 MB to level 9 and 32 MB above (80 MB for 4 MiB and its
    prefix); each thread has two segments in memory with their prefixes and frames.
    """
    most = (4 if level < 10 else 2) if large else (16 if level < 10 else 4)
    return min(len(os.sched_getaffinity(0)), most)


def compress_all(
    tasks: Iterable[Callable[[], Content]], level: int, large: bool = False
) -> Iterator[tuple[Content, bytes]]:
    """Give (content, frame) of every task in order; all cores work, few are in memory at a time.

    ``large`` tells that the contents are of 4 MiB rather than 1 MiB.
    """
    threads = thread_count(level, large)

    def work(task: Callable[[], Content]) -> tuple[Content, bytes]:
        content = task()
        return content, compress_well(content, level)

    with ThreadPoolExecutor(threads, thread_name_prefix="compress") as pool:
        waiting: deque[Future[tuple[Content, bytes]]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
