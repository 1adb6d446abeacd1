# SPDX-License-Identifier: Apache-2.0
"""Compression: zstd frames, each alone, on all cores, at a level that the data and the machine allow.

A segment may be compressed with *prefix* content that the reader has too (zstd's refPrefix): a page that differs from
the base's in a few bytes then costs a few bytes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from backports import zstd

from cloudlet_ext.engine.errors import Malformed

LEVELS = (1, 3, 6, 9, 12, 15, 19)

_WINDOW_LOG_MAX = 27
"""128 MiB: what a reader must be able to hold for a frame; a segment with its prefix needs 2 MiB."""

_Parameter = zstd.CompressionParameter
_SEGMENT_LOG = 21


@dataclass(frozen=True)
class Content:
    """Bytes to compress, and the prefix to do it with (empty: none)."""

    data: bytes
    prefix: bytes = b""


def compress(content: Content, level: int) -> bytes:
    """One zstd frame of ``content`` with its size in it."""
    options: dict[int, int] = {_Parameter.compression_level: level}
    dictionary = None
    if content.prefix:
        # Without this, low levels look back 512 KiB only, and the base's version of a page is 1 MiB away.
        options[_Parameter.window_log] = _window_log(len(content.data) + len(content.prefix))
        options[_Parameter.enable_long_distance_matching] = 1
        dictionary = zstd.ZstdDict(content.prefix, is_raw=True).as_prefix
    compressor = zstd.ZstdCompressor(options=options, zstd_dict=dictionary)
    compressor.set_pledged_input_size(len(content.data))
    return compressor.compress(content.data, mode=zstd.ZstdCompressor.FLUSH_FRAME)


def decompress(stored: bytes, size: int, prefix: bytes, path: str, place: str) -> bytes:
    """Undo compress(): exactly ``size`` bytes; Malformed if the frame holds more or less or is none."""
    dictionary = zstd.ZstdDict(prefix, is_raw=True).as_prefix if prefix else None
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW_LOG_MAX}
    try:
        decompressor = zstd.ZstdDecompressor(dictionary, options)
        # One byte more than declared is asked for, to notice a frame that holds more without unpacking it.
        data = decompressor.decompress(stored, max_length=size + 1)
        while len(data) <= size and not decompressor.eof and not decompressor.needs_input:
            data += decompressor.decompress(b"", max_length=size + 1 - len(data))
    except zstd.ZstdError as error:
        raise Malformed(path=path, place=place, reason=f"it is no zstd frame: {error}") from error
    if len(data) > size:
        raise Malformed(
            path=path, place=place, reason=f"it unpacks to more than the {size} bytes that it declares"
        )
    if len(data) < size or not decompressor.eof or decompressor.unused_data:
        raise Malformed(
            path=path, place=place, reason=f"it does not unpack to the {size} bytes that it declares"
        )
    return data


def compress_all(
    tasks: Sequence[Callable[[], Content]], level: int
) -> Iterator[tuple[Content, bytes]]:
    """Give (content, frame) of every task in order, worked on by all cores, few of them in memory at a time."""
    cores = len(os.sched_getaffinity(0))

    def work(task: Callable[[], Content]) -> tuple[Content, bytes]:
        content = task()
        return content, compress(content, level)

    with ThreadPoolExecutor(cores, thread_name_prefix="compress") as pool:
        waiting: deque[Future[tuple[Content, bytes]]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) > 2 * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _window_log(size: int) -> int:
    return max(10, (size - 1).bit_length())
