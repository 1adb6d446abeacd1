# SPDX-License-Identifier: Apache-2.0
"""The parser of migration streams, on streams that our own writer makes."""

from __future__ import annotations

import mmap
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudlet_ext.hypervisor import stream
from cloudlet_ext.hypervisor.capture import CapturedMemory, blocks_of, parse
from cloudlet_ext.hypervisor.device_state import DeviceState
from cloudlet_ext.hypervisor.errors import BadStream
from cloudlet_ext.hypervisor.stream import PAGE_BYTES, RamBlock

BLOCKS = (RamBlock("pc.ram", 24 * PAGE_BYTES), RamBlock("pc.bios", 3 * PAGE_BYTES), RamBlock("rom", PAGE_BYTES))
PAGES = sum(block.pages for block in BLOCKS)
CONFIGURATION = b"\x07" + struct.pack(">I", 11) + b"pc-q35-10.0"
DEVICES = b"\x04\x00\x00\x00\x01\x03cpu" + bytes(8) + b"state\x00\x06}" + b"\x7e\x00\x00\x00\x01"


def mapped(data: bytes) -> mmap.mmap:
    file = mmap.mmap(-1, len(data))
    file[:] = data
    return file


def parsed(data: bytes) -> tuple[CapturedMemory, DeviceState]:
    return parse(mapped(data), Path(tempfile.gettempdir()))


def content(seed: int) -> np.ndarray:
    page = np.random.default_rng(seed).integers(0, 256, PAGE_BYTES, dtype=np.uint8)
    page[0] |= 1
    return page


def whole(sections: bytes, devices: bytes = DEVICES, configuration: bytes = CONFIGURATION) -> bytes:
    """A stream as QEMU writes it around ``sections`` of RAM."""
    end = b"".join(stream.ram_section(stream.END, []))
    return b"".join(
        [stream.MAGIC, configuration, stream.ram_start(BLOCKS), sections, end, devices, b"\0", stream.NO_DESCRIPTION]
    )


def section(*records: bytes) -> bytes:
    return b"".join(stream.ram_section(stream.PART, list(records)))


@dataclass(frozen=True)
class Record:
    """One record: block and page in it, its content's seed (None: zeros), whether it names its block if it need not."""

    block: int
    page: int
    seed: int | None
    names_block: bool


@st.composite
def records(draw: st.DrawFn) -> Record:
    block = draw(st.integers(0, len(BLOCKS) - 1))
    page = draw(st.integers(0, BLOCKS[block].pages - 1))
    seed = draw(st.one_of(st.none(), st.integers(0, 3)))
    return Record(block, page, seed, draw(st.booleans()))


def encode(sections: list[list[Record]]) -> bytes:
    """Records one by one; the block of the last record is kept across sections, as QEMU does."""
    parts, current = [], None
    for group in sections:
        encoded = []
        for record in group:
            goes_on = record.block == current and not record.names_block
            flags = stream.RAM_ZERO if record.seed is None else stream.RAM_PAGE
            header = record.page * PAGE_BYTES | flags | (stream.RAM_CONTINUE if goes_on else 0)
            encoded.append(struct.pack(">Q", header))
            if not goes_on:
                encoded.append(stream.string(BLOCKS[record.block].name))
            encoded.append(b"\0" if record.seed is None else content(record.seed).tobytes())
            current = record.block
        parts.append(section(*encoded))
    return b"".join(parts)


def check(memory: CapturedMemory, expected: dict[int, int | None]) -> None:
    sent = [pair for numbers, zero in memory.sent() for pair in zip(numbers.tolist(), zero.tolist(), strict=True)]
    assert sent == [(number, expected[number] is None) for number in sorted(expected)]
    want = np.zeros((PAGES, PAGE_BYTES), np.uint8)
    for number, seed in expected.items():
        if seed is not None:
            want[number] = content(seed)
    for order in (np.arange(PAGES), np.arange(PAGES)[::-1], np.arange(0, PAGES, 3), np.empty(0, np.int64)):
        assert (memory.read(order) == want[order]).all()


@given(sections=st.lists(st.lists(records(), max_size=12), max_size=4))
def test_later_record_wins_in_any_mixture(sections: list[list[Record]]) -> None:
    memory, state = parsed(whole(encode(sections)))
    assert memory.blocks == BLOCKS
    assert state == DeviceState(CONFIGURATION, DEVICES)
    starts = np.cumsum([0, *(block.pages for block in BLOCKS)])
    check(memory, {int(starts[r.block]) + r.page: r.seed for group in sections for r in group})


@given(
    pages=st.lists(st.integers(0, BLOCKS[0].pages - 1), unique=True, max_size=24),
    zeros=st.lists(st.integers(0, BLOCKS[0].pages - 1), unique=True, max_size=24),
)
def test_reads_what_the_writer_wrote(pages: list[int], zeros: list[int]) -> None:
    contents = np.array([content(page) for page in pages], np.uint8).reshape(-1, PAGE_BYTES)
    written = section(
        *stream.page_records("pc.ram", np.array(pages, np.int64), contents),
        *stream.zero_records("pc.ram", np.array(zeros, np.int64)),
    )
    memory, _ = parsed(whole(written))
    check(memory, {page: page for page in pages} | dict.fromkeys(zeros))


def test_continue_goes_on_in_the_block_of_an_earlier_section() -> None:
    first = section(struct.pack(">Q", stream.RAM_ZERO) + stream.string("pc.bios") + b"\0")
    header = struct.pack(">Q", PAGE_BYTES | stream.RAM_PAGE | stream.RAM_CONTINUE)
    second = section(header + content(7).tobytes())
    memory, _ = parsed(whole(first + second))
    check(memory, {24: None, 25: 7})


@pytest.mark.parametrize("none", [-1, 0])
def test_a_place_that_is_none_begins_no_run(none: int) -> None:
    stride = stream.PAGE_RECORD.itemsize
    data = mapped(bytes(none + stride) + content(3).tobytes() + bytes(8) + content(4).tobytes())
    places = np.array([none, none + stride, none + 2 * stride])
    memory = CapturedMemory((RamBlock("pc.ram", 3 * PAGE_BYTES),), places, data)
    assert (memory.read(np.arange(3)) == np.array([content(3) * 0, content(3), content(4)])).all()


def test_long_runs_are_read_in_steps() -> None:
    pages = np.arange(24).repeat(3000)
    contents = np.zeros((len(pages), PAGE_BYTES), np.uint8)
    contents[:, :8] = np.arange(len(pages), dtype=np.uint64)[:, None].view(np.uint8)
    memory, _ = parsed(whole(section(*stream.page_records("pc.ram", pages, contents))))
    last = memory.read(np.arange(24))[:, :8].copy().view(np.uint64).ravel()
    assert last.tolist() == [3000 * (page + 1) - 1 for page in range(24)]


def test_commands_before_the_end_of_ram_are_passed_over() -> None:
    command = stream.command(stream.CMD_SWITCHOVER_START) + stream.command(2, b"\0\0\0\1")
    memory, _ = parsed(whole(command + encode([[Record(0, 3, 5, True)]])))
    check(memory, {3: 5})


def test_known_subsections_of_the_configuration_are_kept() -> None:
    def subsection(name: str, payload: bytes) -> bytes:
        return b"\x05" + stream.string(name) + struct.pack(">I", 1) + payload

    configuration = CONFIGURATION
    configuration += subsection("configuration/target-page-bits", struct.pack(">I", 12))
    configuration += subsection(
        "configuration/capabilities", struct.pack(">I", 2) + stream.string("a") + stream.string("b")
    )
    configuration += subsection("configuration/uuid", bytes(16))
    _, state = parsed(whole(b"", configuration=configuration))
    assert state.configuration == configuration
    with pytest.raises(BadStream, match="unknown subsection 'configuration/news'"):
        parsed(whole(b"", configuration=configuration + subsection("configuration/news", b"")))


def test_truncation_at_every_byte_is_refused() -> None:
    group = [Record(0, 2, None, True), Record(0, 3, None, False), Record(1, 1, None, True)]
    data = whole(encode([group]) + section(struct.pack(">Q", stream.RAM_PAGE) + b"\x03rom" + content(1).tobytes()))
    page = data.index(content(1).tobytes())
    # All bytes but the middle of the page, which are all alike to the parser.
    for length in [*range(1, page + 40), *range(page + PAGE_BYTES - 40, len(data))]:
        with pytest.raises(BadStream) as caught:
            parsed(data[:length])
        assert 0 <= caught.value.offset <= length, (length, caught.value)
    assert parsed(data)


def test_the_blocks_are_known_from_the_beginning() -> None:
    beginning = stream.MAGIC + CONFIGURATION + stream.command(stream.CMD_PING, b"1234") + stream.ram_start(BLOCKS)
    last = beginning.index(b"\x03rom") + 4 + 8
    assert blocks_of(beginning) == blocks_of(beginning[:last]) == BLOCKS
    for length in range(last):
        with pytest.raises(BadStream):
            blocks_of(beginning[:length])
    with pytest.raises(BadStream, match="names memory blocks"):
        blocks_of(beginning.replace(b"\x01RAM\0", b"\x02RAM\0"))


def test_every_flipped_byte_is_refused_or_read() -> None:
    data = bytearray(whole(encode([[Record(0, 2, None, True), Record(1, 1, None, True)]])))
    for at in range(len(data)):
        data[at] ^= 0xFF
        try:
            parsed(bytes(data))
        except BadStream as error:
            assert 0 <= error.offset <= len(data)
        data[at] ^= 0xFF


PAGE_RECORD = struct.pack(">Q", stream.RAM_PAGE)


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        (section(struct.pack(">Q", 0x80) + b"\x06pc.ram"), "unknown flags 0x80"),
        (section(struct.pack(">Q", 0x40)), "unknown flags 0x40"),
        (section(PAGE_RECORD + b"\x04vram" + bytes(PAGE_BYTES)), "block 'vram' that was never named"),
        (section(struct.pack(">Q", stream.RAM_PAGE | stream.RAM_CONTINUE)), "block '' that was never named"),
        (section(struct.pack(">Q", 3 * PAGE_BYTES | stream.RAM_ZERO) + b"\x07pc.bios\0"), "page 3 of block 'pc.bios'"),
        (section(struct.pack(">Q", stream.RAM_ZERO) + b"\x03rom\x2a"), "one value other than zero"),
        (section(struct.pack(">QB", PAGE_BYTES | stream.RAM_MEM_SIZE, 1) + b"x" + bytes(8)), "named twice"),
        (struct.pack(">BI", stream.PART, 9), "section 9 was never opened"),
        (struct.pack(">BI", stream.START, 9) + stream.string("block") + bytes(8), "live section 'block'"),
        (b"\x04", "section type 0x4 before the end of RAM"),
        (b"".join(stream.ram_section(stream.PART, [])[:1]) + struct.pack(">Q", stream.RAM_EOS), "without its end mark"),
    ],
)
def test_what_makes_no_sense_is_named(sections: bytes, reason: str) -> None:
    with pytest.raises(BadStream) as caught:
        parsed(whole(sections))
    assert reason in str(caught.value)
    assert len(stream.MAGIC) < caught.value.offset


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "not a migration stream of version 3"),
        (stream.MAGIC + b"\x01\0\0\0\0", "configuration section expected, found type 0x1"),
        (stream.MAGIC + CONFIGURATION + b"".join(stream.ram_section(stream.END, [])), "never opened"),
        (
            stream.MAGIC + CONFIGURATION + stream.ram_start(()) + b"".join(stream.ram_section(stream.END, [])),
            "names no memory block",
        ),
    ],
)
def test_other_streams_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BadStream, match=reason):
        parsed(data)


@pytest.mark.parametrize("size", [0, 1, PAGE_BYTES + 1, 4 * PAGE_BYTES])
def test_blocks_of_impossible_size_are_refused(size: int) -> None:
    named = struct.pack(">Q", 2 * PAGE_BYTES | stream.RAM_MEM_SIZE) + stream.string("pc.ram") + struct.pack(">Q", size)
    start = struct.pack(">BI", stream.START, 2) + stream.string("ram") + struct.pack(">II", 0, 4)
    with pytest.raises(BadStream, match=r"block 'pc\.ram'"):
        parsed(stream.MAGIC + CONFIGURATION + start + named + bytes(64))


def test_device_state_may_contain_what_looks_like_its_end() -> None:
    tricky = DEVICES + b"\x00\x06\x00\x00\x00\x02{}" + b"\x00\x06\x00\x00\x00\x07" + b"\x00\x00}"
    _, state = parsed(whole(b"", tricky))
    assert state.devices == tricky
