# SPDX-License-Identifier: Apache-2.0
"""The smallest guest: a boot sector that says it is ready, then a dot 18 times a second. It is up within a second."""

from __future__ import annotations

import struct
from pathlib import Path

READY = b"TINY-GUEST ready\r\n"
DISK_BYTES = 1 << 20
ORIGIN = 0x7C00


def boot_sector() -> bytes:
    """Real-mode code at 0x7c00; the dots' number is counted at 0x8000."""
    head = bytes.fromhex(
        "fa"  # cli
        "31c0 8ed8 8ed0"  # xor ax, ax; mov ds, ax; mov ss, ax
        "bc007c"  # mov sp, 0x7c00
        "fb fc"  # sti; cld
    )
    put = bytes.fromhex(
        "50"  # push ax
        "bafd03 ec a820 74fb"  # mov dx, 0x3fd; wait: in al, dx; test al, 0x20; jz wait
        "58"  # pop ax
        "baf803 ee c3"  # mov dx, 0x3f8; out dx, al; ret
    )
    say_at = len(head) + 3
    loop_at = say_at + len(_say(0))
    put_at = loop_at + len(_loop(0))
    text_at = put_at + len(put)
    code = head + b"\xbe" + struct.pack("<H", ORIGIN + text_at)  # mov si, text
    code += _say(put_at - (say_at + 8)) + _loop(put_at - (loop_at + 6))
    code += put + READY + b"\0"
    return code.ljust(510, b"\0") + b"\x55\xaa"


def _say(way: int) -> bytes:
    """Say the text at si; ``way`` from behind its call to what puts a character."""
    # back: lodsb; test al, al; jz on; call put; jmp back
    return bytes.fromhex("ac 84c0 7405 e8") + struct.pack("<h", way) + bytes.fromhex("ebf6")


def _loop(way: int) -> bytes:
    # back: hlt; mov al, '.'; call put; inc word [0x8000]; jmp back
    return bytes.fromhex("f4 b02e e8") + struct.pack("<h", way) + bytes.fromhex("ff060080 ebf4")


def write_disk(path: Path) -> Path:
    """A raw disk that boots it."""
    path.write_bytes(boot_sector().ljust(DISK_BYTES, b"\0"))
    return path
