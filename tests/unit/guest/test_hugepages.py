# SPDX-License-Identifier: GPL-2.0-only
"""The pool of huge pages: additions for guests, returned pages, and the warning for a guest that gets none."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from appliance.guest.qemu.hugepages import Pool, Seen, parse, short, unused
from appliance.guest.qemu.resources import MEMORY_RESERVE

MIB = 1 << 20
MEMINFO = """MemTotal:        1500000 kB
MemAvailable:    1000000 kB
AnonHugePages:         0 kB
HugePages_Total:      40
HugePages_Free:       30
HugePages_Rsvd:        4
HugePages_Surp:        1
Hugepagesize:       2048 kB
"""
SEEN = Seen(total=39, free=30, reserved=4, page=2 * MIB, available=1_000_000 << 10)


@dataclass
class Memory:
    """A kernel's: `scattered` = how many huge pages can be found at most, more of them after moving it together."""

    seen_: Seen
    scattered: int = 10_000
    together: int = 0
    moved: int = 0

    def seen(self) -> Seen | None:
        return self.seen_

    def resize(self, pages: int) -> int:
        pages = max(min(pages, self.scattered), self.seen_.total - self.seen_.free)
        grown = pages - self.seen_.total
        available = self.seen_.available - grown * self.seen_.page
        self.seen_ = replace(self.seen_, total=pages, free=self.seen_.free + grown, available=available)
        return pages

    def compact(self) -> None:
        self.moved += 1
        self.scattered += self.together

    def use(self, pages: int) -> None:
        """A process takes so many, or gives them back."""
        self.seen_ = replace(self.seen_, free=self.seen_.free - pages)


EMPTY = Seen(total=0, free=0, reserved=0, page=2 * MIB, available=1000 * MIB)


def start(pool: Pool, name: str, size: int) -> tuple[int, str]:
    asyncio.run(pool.reserve(name, size))
    return pool.claim(name, size)


def rest(pool: Pool, name: str) -> None:
    asyncio.run(pool.give_back(name))


def test_what_the_kernel_says() -> None:
    assert parse(MEMINFO) == SEEN
    assert parse("MemTotal: 1 kB\n") is None


@pytest.mark.parametrize(
    ("wanted", "promised", "lacking", "refused"),
    [(26, 0, 0, False), (27, 0, 1, False), (26, 10, 10, False), (1000, 0, 974, True)],
    ids=["all there", "one short", "promised to others", "more than memory"],
)
def test_how_many_are_added(wanted: int, promised: int, lacking: int, refused: bool) -> None:
    assert unused(SEEN, promised) == 26 - promised
    pages, why = short(SEEN, wanted, promised)
    assert (pages, why.startswith("no huge pages: only 932 MiB of 2000 MiB are available")) == (lacking, refused)


def test_the_supervisors_memory_is_never_taken() -> None:
    most = (EMPTY.available - MEMORY_RESERVE) // EMPTY.page
    assert short(EMPTY, most, 0) == (most, "")
    assert short(EMPTY, most + 1, 0)[1]


def test_the_pool_grows_for_a_guest_and_shrinks_after_it(tmp_path: Path) -> None:
    """Whole pages for an odd size; what is in use is not given back."""
    kernel = Memory(EMPTY)
    pool = Pool(tmp_path / "kept", kernel)
    assert start(pool, "a", 65 * MIB) == (66 * MIB, "")
    assert kernel.seen_.total == 33
    kernel.use(33)
    pool.taken("a")
    rest(pool, "b")
    assert kernel.seen_.total == 33
    kernel.use(-33)
    rest(pool, "a")
    assert kernel.seen_ == EMPTY


def test_guests_that_start_together_do_not_count_on_the_same_pages(tmp_path: Path) -> None:
    kernel = Memory(EMPTY)
    pool = Pool(tmp_path / "kept", kernel)

    async def both() -> None:
        await asyncio.gather(pool.reserve("a", 64 * MIB), pool.reserve("b", 64 * MIB))

    asyncio.run(both())
    assert kernel.seen_.total == 64
    assert [pool.claim(name, 64 * MIB) for name in "ab"] == [(64 * MIB, "")] * 2
    rest(pool, "a")  # it could not be started
    assert kernel.seen_.total == 32
    assert pool.claim("a", 64 * MIB) == (0, "no huge pages: only 0 MiB of 64 MiB are available, and the rest is in use")


def test_an_administrators_pages_are_used_first_and_stay(tmp_path: Path) -> None:
    kernel = Memory(replace(EMPTY, total=20, free=20))
    pool = Pool(tmp_path / "kept", kernel)
    assert start(pool, "a", 32 * MIB) == (32 * MIB, "")
    assert kernel.seen_.total == 20
    kernel.use(16)
    pool.taken("a")
    assert start(pool, "b", 32 * MIB) == (32 * MIB, "")
    assert kernel.seen_.total == 32
    kernel.use(-16)
    rest(pool, "a")
    rest(pool, "b")
    assert kernel.seen_.total == 20


def test_the_next_bypassd_gives_back_what_this_one_added(tmp_path: Path) -> None:
    """And nothing that was promised to a guest that it found running, whose QEMU has not come to take it yet."""
    kernel = Memory(EMPTY)
    start(Pool(tmp_path / "kept", kernel), "a", 64 * MIB)
    again = Pool(tmp_path / "kept", kernel)
    again.promise("a", 64 * MIB)
    rest(again, "b")
    assert kernel.seen_.total == 32
    rest(again, "a")
    assert kernel.seen_.total == 0


def test_scattered_memory_is_moved_together_once(tmp_path: Path) -> None:
    """If that does not help either, the pool is unchanged, and the guest's warning says what was available."""
    kernel = Memory(EMPTY, scattered=12, together=100)
    assert start(Pool(tmp_path / "kept", kernel), "a", 64 * MIB) == (64 * MIB, "")
    kernel = Memory(EMPTY, scattered=12)
    pool = Pool(tmp_path / "kept2", kernel)
    why = "no huge pages: only 24 MiB of 64 MiB are available, and memory is too fragmented for more"
    assert start(pool, "a", 64 * MIB) == (0, why)
    assert (kernel.moved, kernel.seen_) == (1, EMPTY)
    assert (tmp_path / "kept2").read_text() == "0"


def test_a_kernel_without_them(tmp_path: Path) -> None:
    class None_(Memory):
        def seen(self) -> Seen | None:
            return None

    assert start(Pool(tmp_path / "kept", None_(EMPTY)), "a", MIB) == (0, "no huge pages: this kernel has none")


def test_a_pool_that_cannot_be_written_to(tmp_path: Path) -> None:
    class Refusing(Memory):
        def resize(self, pages: int) -> int:
            raise PermissionError(13, "Permission denied")

    pool = Pool(tmp_path / "kept", Refusing(EMPTY))
    assert "cannot be grown: Permission denied" in start(pool, "a", 64 * MIB)[1]
    rest(pool, "a")
