# SPDX-License-Identifier: Apache-2.0
"""The post-copy source against a small destination at the other end of a socket pair."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudlet_ext.hypervisor import stream
from cloudlet_ext.hypervisor.device_state import DeviceState
from cloudlet_ext.hypervisor.errors import ResumeFailed
from cloudlet_ext.hypervisor.postcopy import PUSH_PAGES, Pages, PostcopySource
from cloudlet_ext.hypervisor.stream import PAGE_BYTES, RamBlock
from tests.unit.hypervisor.fake_qemu import WAIT_S, FakeQemu

BLOCKS = (RamBlock("pc.ram", 4000 * PAGE_BYTES), RamBlock("pc.bios", 20 * PAGE_BYTES))
SMALL = (RamBlock("pc.ram", 40 * PAGE_BYTES), RamBlock("pc.bios", 8 * PAGE_BYTES))
STATE = DeviceState(b"\x07\0\0\0\x02pc", b"\x04 all devices")


class Supply:
    """Pages whose content is their number; ``zero`` are zero, ``late`` are not here until ``arrive``."""

    def __init__(
        self, blocks: tuple[RamBlock, ...], zero: set[int] = frozenset(), late: set[int] = frozenset()
    ) -> None:
        count = sum(block.pages for block in blocks)
        self._zero = np.isin(np.arange(count), list(zero))
        self._ready = ~np.isin(np.arange(count), list(late)) | self._zero
        self._given = self._zero.copy()
        self._lock = threading.Lock()
        self.wanted: list[int] = []

    def ready(self, pages: Pages) -> np.ndarray:
        return self._ready[pages]

    def zero(self, pages: Pages) -> np.ndarray:
        return self._zero[pages]

    def contents(self, pages: Pages) -> np.ndarray:
        assert self._ready[pages].all()
        return np.repeat(pages.astype(">u8").view(np.uint8).reshape(-1, 8), PAGE_BYTES // 8, axis=0).reshape(
            -1, PAGE_BYTES
        )

    def want(self, pages: Pages) -> None:
        self.wanted += pages.tolist()

    def push(self, limit: int) -> Pages:
        with self._lock:
            now = np.flatnonzero(self._ready & ~self._given)[:limit]
            self._given[now] = True
            return now

    def exhausted(self) -> bool:
        with self._lock:
            return bool(self._given.all())

    def arrive(self, pages: list[int]) -> None:
        with self._lock:
            self._ready[pages] = True


class Pair:
    """A source that runs in a thread, and the destination; ``failure`` is what ``run`` raised."""

    def __init__(self, supply: Supply, blocks: tuple[RamBlock, ...] = BLOCKS, *, hold: bool = False) -> None:
        mine, its = socket.socketpair()
        self.connection = mine
        self.asked: list[int] = []
        self.source = PostcopySource(
            mine, blocks, STATE, supply, on_request=lambda pages: self.asked.extend(pages.tolist())
        )
        self.source.hold_push = hold
        self.qemu = FakeQemu(its, blocks, STATE)
        self.failure: ResumeFailed | None = None
        self._feeder = threading.Thread(target=self._feed, name="feeder", daemon=True)

    def begin(self) -> None:
        self.qemu.start()
        self.source.start()
        self._feeder.start()

    def _feed(self) -> None:
        try:
            self.source.run()
        except ResumeFailed as failure:
            self.failure = failure

    def end(self) -> ResumeFailed | None:
        """Wait until ``run`` has ended."""
        self._feeder.join(WAIT_S)
        assert not self._feeder.is_alive(), "the source does not end"
        return self.failure

    def numbers(self) -> list[int]:
        """Pages that have come, as numbers through all blocks; contents are checked."""
        starts = {block.name: 0 for block in BLOCKS[:1]} | {"pc.bios": self.source._blocks[0].pages}
        numbers = []
        for block, page, content in self.qemu.pages:
            number = starts[block] + page
            assert content is None or content == number.to_bytes(8, "big") * (PAGE_BYTES // 8)
            numbers.append(number)
        return numbers


@contextlib.contextmanager
def pair(supply: Supply, blocks: tuple[RamBlock, ...] = BLOCKS, *, hold: bool = False) -> Iterator[Pair]:
    both = Pair(supply, blocks, hold=hold)
    both.begin()
    try:
        yield both
    finally:
        both.source.stop()
        both.end()
        both.connection.close()
        both.qemu.join(WAIT_S)
        assert not both.qemu.is_alive()
        both.qemu._connection.close()
        for thread in threading.enumerate():
            if thread.name == "return-path":
                thread.join(WAIT_S)
                assert not thread.is_alive()


def test_pushes_every_page_once_and_leaves_zeros_out() -> None:
    zero = {0, 7, 3999, 4019}
    with pair(Supply(BLOCKS, zero)) as both:
        assert both.end() is None
        assert sorted(both.numbers()) == sorted(set(range(4020)) - zero)
        assert both.source.pages_sent == 4016
        assert both.source.pages_requested == 0


def test_serves_what_is_asked_for_while_nothing_is_pushed() -> None:
    with pair(Supply(BLOCKS, {5, 4001}), hold=True) as both:
        both.qemu.request("pc.ram", 3000)
        both.qemu.request(None, 5)
        both.qemu.request("pc.bios", 0, 3)
        both.qemu.request(None, 19)
        pages = both.qemu.wait_pages(6)
        assert sorted(both.numbers()) == [5, 3000, 4000, 4001, 4002, 4019]
        assert [(block, page) for block, page, content in pages if content is None] == [("pc.ram", 5), ("pc.bios", 1)]
        assert both.asked == [3000, 5, 4000, 4001, 4002, 4019]
        both.source.hold_push = False
        both.source.wake()
        assert both.end() is None
        numbers = both.numbers()
        assert sorted(numbers) == list(range(4020))
        assert both.source.pages_requested == 6


def test_a_rom_that_the_base_has_not_is_zero() -> None:
    with pair(Supply(BLOCKS), hold=True) as both:
        both.qemu.request("0000:00:03.0/virtio-net-pci.rom", 3, 2)
        both.qemu.request(None, 4)
        both.qemu.request("pc.ram", 1)
        pages = both.qemu.wait_pages(3)
        assert pages == [("0000:00:03.0/virtio-net-pci.rom", page, None) for page in (3, 4)] + [
            ("pc.ram", 1, (1).to_bytes(8, "big") * (PAGE_BYTES // 8))
        ]
        assert both.asked == [1]


def test_requests_go_before_pushes() -> None:
    with pair(Supply(BLOCKS)) as both:
        both.qemu.wait_pages(PUSH_PAGES)
        for page in (3990, 3500, 3700):
            begun = len(both.qemu.pages)
            both.qemu.request("pc.ram", page)
            while page not in both.numbers():
                both.qemu.wait_pages(len(both.qemu.pages) + 1)
            # What was in the socket already comes first; the fake end reads while it waits.
            assert both.numbers().index(page) - begun < 40 * PUSH_PAGES
        assert both.end() is None
        assert sorted(both.numbers()) == list(range(4020))


def test_a_page_that_is_on_its_way_is_wanted_and_sent_once() -> None:
    supply = Supply(BLOCKS, late={100, 101, 4019})
    with pair(supply) as both:
        both.qemu.request("pc.ram", 100)
        both.qemu.request("pc.ram", 100, 2)
        both.qemu.request("pc.ram", 100)
        both.qemu.wait_pages(4017)
        assert supply.wanted.count(100) == 1
        supply.arrive([100, 101])
        both.source.wake()
        both.qemu.wait_pages(4019)
        assert both.failure is None
        supply.arrive([4019])
        both.source.wake()
        assert both.end() is None
        assert sorted(both.numbers()) == list(range(4020))


@settings(max_examples=25)
@given(
    zero=st.sets(st.integers(0, 47)),
    late=st.sets(st.integers(0, 47)),
    asked=st.lists(st.integers(0, 47), max_size=30),
    hold=st.booleans(),
)
def test_each_page_once_whatever_is_asked_for(zero: set[int], late: set[int], asked: list[int], hold: bool) -> None:
    supply = Supply(SMALL, zero, late)
    with pair(supply, SMALL, hold=hold) as both:
        for number in asked[:15]:
            both.qemu.request("pc.ram" if number < 40 else "pc.bios", number % 40)
        supply.arrive(sorted(late)[::2])
        both.source.wake()
        for number in asked[15:]:
            # The end may have come before; QEMU would not ask then.
            with contextlib.suppress(OSError):
                both.qemu.request("pc.ram" if number < 40 else "pc.bios", number % 40)
        supply.arrive(sorted(late))
        both.source.hold_push = False
        both.source.wake()
        assert both.end() is None
        both.qemu.join(WAIT_S)
        assert both.qemu.error is None
        numbers = both.numbers()
        assert len(numbers) == len(set(numbers))
        assert set(range(48)) - zero <= set(numbers) <= (set(range(48)) - zero) | set(asked)


def test_the_end_is_not_sent_before_the_devices_are_loaded() -> None:
    """They may need a page of zeros, which nobody would answer for any more: QEMU waited for ever."""
    both = Pair(Supply(SMALL, zero={7, 8}), SMALL)
    both.qemu.loads = False
    both.begin()
    both.qemu.wait_pages(46)
    both.qemu.message(stream.RP_PONG, bytes(4))
    both.qemu.request("pc.ram", 7)
    both.qemu.wait_pages(47)
    assert both.qemu.is_alive()
    both.qemu.loaded()
    assert both.end() is None
    assert both.numbers()[46:] == [7]


@pytest.mark.parametrize("status", [1, 0xFFFFFFFF])
def test_failure_at_the_end_is_reported(status: int) -> None:
    both = Pair(Supply(SMALL), SMALL)
    both.qemu.status = status
    both.begin()
    failure = both.end()
    assert isinstance(failure, ResumeFailed)
    assert f"QEMU reports status {status} at the end" in str(failure)


@pytest.mark.parametrize("status", [0, 1])
def test_an_early_end_is_reported_though_nothing_is_ready(status: int) -> None:
    with pair(Supply(BLOCKS, late=set(range(4020)))) as both:
        assert both.qemu.runs.wait(WAIT_S)
        both.qemu.shut(status)
        failure = both.end()
        assert isinstance(failure, ResumeFailed)
        assert f"ended the stream early, with status {status}" in str(failure)


BAD_MESSAGES: dict[str, tuple[Callable[[FakeQemu], None], str]] = {
    "leaves": (FakeQemu.leave, "the return path was closed"),
    "unknown kind": (lambda qemu: qemu.message(99, b""), "message 99 of 0 bytes"),
    "short status": (lambda qemu: qemu.message(stream.RP_SHUT, b"\0"), "message 1 of 1 bytes"),
    "long status": (lambda qemu: qemu.message(stream.RP_SHUT, bytes(8)), "message 1 of 8 bytes"),
    "short request": (lambda qemu: qemu.message(stream.RP_REQ_PAGES, bytes(11)), "message 4 of 11 bytes"),
    "request without name": (
        lambda qemu: qemu.message(stream.RP_REQ_PAGES_ID, struct.pack(">QI", 0, PAGE_BYTES)),
        "request for 4096 bytes at 0",
    ),
    "no block yet": (lambda qemu: qemu.request(None, 0), "request for 4096 bytes at 0 of None"),
    "unknown block": (lambda qemu: qemu.request("vga", 0), "of vga"),
    "not a name": (
        lambda qemu: qemu.message(stream.RP_REQ_PAGES_ID, struct.pack(">QI", 0, PAGE_BYTES) + b"\x01\xff"),
        "request for 4096 bytes",
    ),
    "beyond the end": (lambda qemu: qemu.request("pc.bios", 20), "at 81920 of pc.bios"),
    "over the end": (lambda qemu: qemu.request("pc.bios", 19, 2), "8192 bytes at 77824 of pc.bios"),
    "of no length": (lambda qemu: qemu.request("pc.ram", 4000, 0), "request for 0 bytes"),
}


@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_what_the_other_end_does_wrong_is_named(case: str) -> None:
    act, reason = BAD_MESSAGES[case]
    with pair(Supply(BLOCKS, late=set(range(4020)))) as both:
        assert both.qemu.runs.wait(WAIT_S)
        act(both.qemu)
        failure = both.end()
        assert isinstance(failure, ResumeFailed)
        assert reason in str(failure)


def test_a_message_cut_off_is_no_message() -> None:
    with pair(Supply(BLOCKS, late=set(range(4020)))) as both:
        assert both.qemu.runs.wait(WAIT_S)
        both.qemu._connection.sendall(struct.pack(">HHH", stream.RP_SHUT, 4, 0))
        both.qemu.leave()
        assert "in the middle of a message" in str(both.end())


def test_pings_and_unaligned_requests_are_understood() -> None:
    with pair(Supply(BLOCKS), hold=True) as both:
        both.qemu.message(stream.RP_PONG, bytes(4))
        both.qemu.message(stream.RP_SWITCHOVER_ACK, b"")
        both.qemu.message(stream.RP_REQ_PAGES_ID, struct.pack(">QI", PAGE_BYTES - 1, 2) + stream.string("pc.ram"))
        both.qemu.wait_pages(2)
        assert both.numbers() == [0, 1]


@pytest.mark.parametrize("sections", [1, 3, 40])
def test_leaving_while_pages_come_is_an_error(sections: int) -> None:
    both = Pair(Supply(BLOCKS))
    both.qemu.leave_after_sections = sections
    both.begin()
    assert isinstance(both.end(), ResumeFailed)


def test_leaving_before_the_end_is_confirmed_is_an_error() -> None:
    both = Pair(Supply(SMALL), SMALL)
    both.qemu.status = None
    both.begin()
    both.qemu.join(WAIT_S)
    both.qemu.leave()
    assert "the return path was closed" in str(both.end())


@pytest.mark.parametrize("count", [0, 1, 50, 200])
def test_leaving_before_the_guest_runs_is_an_error(count: int) -> None:
    mine, its = socket.socketpair()
    # A device state larger than what the socket holds: the source has to notice while it sends.
    source = PostcopySource(mine, BLOCKS, DeviceState(STATE.configuration, bytes(8 << 20)), Supply(BLOCKS))

    def read_and_leave() -> None:
        its.recv(count)
        its.close()

    reader = threading.Thread(target=read_and_leave)
    reader.start()
    with pytest.raises(ResumeFailed, match="QEMU"):
        source.start()
    reader.join()
    source.stop()
    mine.close()


def test_stop_ends_a_run_that_waits() -> None:
    with pair(Supply(BLOCKS, late={17})) as both:
        both.qemu.wait_pages(4019)
        both.source.stop()
        assert "stopped" in str(both.end())
