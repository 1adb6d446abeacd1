# SPDX-License-Identifier: Apache-2.0
"""QEMU's migration stream: constants and record layouts, as written by QEMU 8.2 to 10.x.

All numbers are big-endian. A stream is a header, sections, an end mark::

    "QEVM" u32 3 | configuration | sections ... | 0x00

A RAM section holds records that begin with a u64, page address | flags. All device state follows the RAM END
section and has no length prefix: it is kept as one opaque run of bytes.
Source: migration/savevm.c, migration/ram.c, migration/qemu-file.c of QEMU 10.0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAGIC = b"QEVM\x00\x00\x00\x03"
PAGE_BYTES = 4096

# Section types.
EOF, START, PART, END, FULL, SUBSECTION, VMDESC, CONFIGURATION, COMMAND, FOOTER = (
    0x00,
    0x01,
    0x02,
    0x03,
    0x04,
    0x05,
    0x06,
    0x07,
    0x08,
    0x7E,
)

# Flags of RAM records, in the low bits of the page address.
RAM_ZERO, RAM_MEM_SIZE, RAM_PAGE, RAM_EOS, RAM_CONTINUE = 0x02, 0x04, 0x08, 0x10, 0x20
RAM_FLAGS_MASK = PAGE_BYTES - 1

# Commands.
CMD_OPEN_RETURN_PATH, CMD_PING, CMD_POSTCOPY_ADVISE, CMD_POSTCOPY_LISTEN, CMD_POSTCOPY_RUN = 1, 2, 3, 4, 5
CMD_POSTCOPY_RAM_DISCARD, CMD_PACKAGED, CMD_SWITCHOVER_START = 6, 7, 11

# Messages of the return path, destination to source.
RP_SHUT, RP_PONG, RP_REQ_PAGES_ID, RP_REQ_PAGES, RP_RECV_BITMAP, RP_RESUME_ACK, RP_SWITCHOVER_ACK = 1, 2, 3, 4, 5, 6, 7

PAGE_RECORD = np.dtype([("header", ">u8"), ("page", "V4096")])
ZERO_RECORD = np.dtype([("header", ">u8"), ("value", "u1")])

RAM_SECTION_ID = 0x52414D00
"""Section number that our own streams give to RAM: far from those that captured device sections carry, which count
from 0; a number that is used twice sends the pages to the wrong device."""

RAM_VERSION = 4

ROM = ".rom"
"""How the names of memory blocks of PCI devices' boot ROMs end."""

NO_DESCRIPTION = struct.pack(">BI", VMDESC, 2) + b"{}"
"""An empty JSON description, which QEMU expects after the end mark of a pre-copy stream and does not read."""


@dataclass(frozen=True)
class RamBlock:
    """A block of guest memory by QEMU's name, ``size_bytes`` long."""

    name: str
    size_bytes: int

    @property
    def pages(self) -> int:
        """Size in pages of 4096 bytes."""
        return self.size_bytes // PAGE_BYTES


def string(text: str) -> bytes:
    """A counted string: u8 length, then the bytes."""
    raw = text.encode()
    return bytes([len(raw)]) + raw


def command(number: int, payload: bytes = b"") -> bytes:
    """A command section."""
    return struct.pack(">BHH", COMMAND, number, len(payload)) + payload


def footer(section: int) -> bytes:
    """What ends every section."""
    return struct.pack(">BI", FOOTER, section)


def ram_start(blocks: tuple[RamBlock, ...]) -> bytes:
    """The RAM section that opens the stream: names and sizes of all blocks."""
    total = sum(block.size_bytes for block in blocks)
    parts = [
        struct.pack(">BI", START, RAM_SECTION_ID),
        string("ram"),
        struct.pack(">II", 0, RAM_VERSION),
        struct.pack(">Q", total | RAM_MEM_SIZE),
    ]
    parts += [string(block.name) + struct.pack(">Q", block.size_bytes) for block in blocks]
    parts += [struct.pack(">Q", RAM_EOS), footer(RAM_SECTION_ID)]
    return b"".join(parts)


def ram_section(kind: int, records: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """A PART or END section around ``records``."""
    head = struct.pack(">BI", kind, RAM_SECTION_ID)
    return [head, *records, struct.pack(">Q", RAM_EOS) + footer(RAM_SECTION_ID)]


def page_records(block: str, pages: NDArray[np.int64], contents: NDArray[np.uint8]) -> list[bytes | memoryview]:
    """Records of ``pages`` (page numbers in ``block``) with their ``contents`` (n, 4096)."""
    if not len(pages):
        return []
    first = struct.pack(">Q", int(pages[0]) * PAGE_BYTES | RAM_PAGE) + string(block)
    pieces: list[bytes | memoryview] = [first, contents[0].tobytes()]
    if len(pages) > 1:
        rest = np.empty(len(pages) - 1, dtype=PAGE_RECORD)
        rest["header"] = (pages[1:] * PAGE_BYTES) | (RAM_PAGE | RAM_CONTINUE)
        rest["page"] = np.ascontiguousarray(contents[1:]).view("V4096").reshape(-1)
        pieces.append(memoryview(rest.view(np.uint8)))
    return pieces


def zero_records(block: str, pages: NDArray[np.int64]) -> list[bytes | memoryview]:
    """Records that say of ``pages`` of ``block`` that they hold zeros."""
    if not len(pages):
        return []
    first = struct.pack(">Q", int(pages[0]) * PAGE_BYTES | RAM_ZERO) + string(block) + b"\0"
    pieces: list[bytes | memoryview] = [first]
    if len(pages) > 1:
        rest = np.zeros(len(pages) - 1, dtype=ZERO_RECORD)
        rest["header"] = (pages[1:] * PAGE_BYTES) | (RAM_ZERO | RAM_CONTINUE)
        pieces.append(memoryview(rest.view(np.uint8)))
    return pieces
