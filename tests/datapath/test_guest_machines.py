# SPDX-License-Identifier: GPL-2.0-only
"""What a guest's machine starts from, and what happens to its writes: BIOS, UEFI, more disks, snapshots.

The guests are a boot sector: it writes itself over the second sector of its disk, says so on the serial line, halts.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.guest.console import TAIL_BYTES
from appliance.guest.port.management_lan import tap_name
from appliance.guest.port.management_port import host_address
from appliance.guest.run import Run
from appliance.hop.lifecycle import ALIVE, HopState
from appliance.system.loop_watch import LoopWatch
from appliance.units import Duration, Size
from tests.support import board_harness
from tests.support.guest_world import World

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SAID = b"boot sector was here"
SECTOR = 512
OVMF = Path("/usr/share/OVMF")


def boot_sector(sector: int = 1) -> bytes:
    """16-bit code: write this sector (BIOS), print SAID (UART), halt."""
    start = bytes.fromhex("fa 31c0 8ed8 8ec0 8ed0 bc007c fb")  # registers and stack
    write = bytes.fromhex(f"b80103 b9{sector + 1:02x}00 ba8000 bb007c cd13 fa")  # one, from 0x7c00 to head 0
    put = bytes.fromhex("baf803 ac 84c0 7403 ee ebf8 f4 ebfd")  # until NUL; then for ever nothing
    at = 0x7C00 + len(start) + len(write) + 3 + len(put)
    code = start + write + b"\xbe" + at.to_bytes(2, "little") + put + SAID + b"\0"
    return code.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def flooding_sector() -> bytes:
    """16-bit code: write to the UART for ever, without waiting for it."""
    return bytes.fromhex("fa baf803 b041 ee ebfd").ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def machine(name: str, **more: object) -> model.Guest:
    restart = model.Restart(policy="never")
    values: dict[str, object] = {"memory": Size.parse("64M"), "autostart": False, "restart": restart, **more}
    return model.Guest(name=name, **values)  # type: ignore[arg-type]


CONFIG = model.Config(
    segment=(model.Segment(name="main", lan="lan0", wan="wan0"),),
    guest=(
        machine("persistent", image="/persistent.img"),
        machine("qcow2", image="/qcow2.img"),
        machine("snapshot", image="/snapshot.img", storage="snapshot"),
        machine(
            "several", image="/blank.img", disks=(model.Disk("/second.img", readonly=True),), management="isolated"
        ),
        machine("uefi", image="/uefi.img", firmware="uefi", memory=Size.parse("256M")),
        machine("pinned", image="/pinned.img", pin=(0,)),
        machine("full", image="/small/full.img"),
        machine("floods", image="/floods.img"),
        machine("huge", image="/huge.img", hugepages=True, memory=Size.parse("65M")),
        machine(
            "loops",
            image="/loops.img",
            restart=model.Restart(first=Duration.parse("10ms"), attempts=2),
        ),
    ),
)


def convert(into: str, old: Path, new: Path) -> None:
    subprocess.run(["qemu-img", "convert", "-O", into, str(old), str(new)], check=True)


@pytest.fixture(scope="module")
def world(bpf_object: Path) -> Iterator[World]:
    # Not below pytest's own folder, which nobody but root may enter: a guest's QEMU is somebody else.
    root = Path(tempfile.mkdtemp(prefix="tw-machines-"))
    root.chmod(0o711)
    bootable = ("persistent", "snapshot", "second", "pinned", "huge", "loops", "flat")
    for name, first in (("blank", False), *((name, True) for name in bootable)):
        (root / f"{name}.img").write_bytes((boot_sector() if first else bytes(SECTOR)) + bytes(2047 * SECTOR))
    convert("qcow2", root / "flat.img", root / "qcow2.img")
    (root / "uefi.img").write_bytes(bytes(2048 * SECTOR))
    (root / "usr/share").mkdir(parents=True)
    (root / "usr/share/OVMF").symlink_to(OVMF)
    (root / "floods.img").write_bytes(flooding_sector() + bytes(2047 * SECTOR))
    make_small_disk(root)
    made = World(root, bpf_object, board_harness.artefacts(), CONFIG)
    try:
        yield made
    finally:
        made.close()
        subprocess.run(["umount", root / "small"], check=True)
        shutil.rmtree(root)


def make_small_disk(root: Path) -> None:
    """A file system with a sparse disk, and no free block except for root."""
    subprocess.run(["mke2fs", "-q", "-F", "-b", "1024", root / "small.ext4", "4M"], check=True)
    (root / "small").mkdir()
    subprocess.run(["mount", "-o", "loop", root / "small.ext4", root / "small"], check=True)
    disk = root / "small/full.img"
    disk.write_bytes(boot_sector(sector=8))
    os.truncate(disk, 2048 * SECTOR)
    left = os.statvfs(root / "small")
    (root / "small/others").write_bytes(bytes((left.f_bavail - 16) * left.f_frsize))
    with (root / "small/rest").open("wb") as rest:
        words = ["dd", "if=/dev/zero", "bs=1k", "conv=fsync"]
        subprocess.run(words, stdout=rest, stderr=subprocess.DEVNULL, user=1, group=1, extra_groups=[], check=False)


def run_until(world: World, name: str, words: bytes) -> None:
    """Start the guest, wait until it said these words, kill it, and see it failed (its policy: never again)."""

    async def said() -> None:
        while words not in world.guest(name).console.tail():
            assert world.guest(name).state is not HopState.FAILED, world.guest(name).hop.detail
            await asyncio.sleep(0.02)

    world.call(world.order(lambda g: g.start(), name))
    world.call(said())
    world.call(world.until(lambda: world.guest(name).state in ALIVE))
    end(world, name)


def end(world: World, name: str) -> None:
    run = world.guest(name).current_run
    assert run is not None
    assert run.pid is not None
    os.kill(run.pid, signal.SIGKILL)
    world.call(world.reach(HopState.FAILED, name))
    assert world.guest(name).hop.detail.endswith("restart.policy = never")


async def asked(run: Run, word: str) -> list[dict[str, Any]]:
    """QEMU's answer to a query."""
    found = await run.monitor.ask(word)
    assert isinstance(found, list)
    return found


def second_sector(world: World, name: str) -> bytes:
    with (world.paths.root / f"{name}.img").open("rb") as image:
        image.seek(SECTOR)
        return image.read(SECTOR)


def test_what_a_persistent_guest_writes_stays(world: World) -> None:
    run_until(world, "persistent", SAID)
    assert second_sector(world, "persistent") == boot_sector()


def test_so_does_what_is_written_to_a_qcow2_image(world: World) -> None:
    run_until(world, "qcow2", SAID)
    convert("raw", world.paths.root / "qcow2.img", world.paths.root / "flat.img")
    assert second_sector(world, "flat") == boot_sector()


def test_a_raw_disk_stays_raw(world: World) -> None:
    """The guest wrote a header that names a file of the appliance: that file is not opened, and it is reported."""
    with (world.paths.root / "persistent.img").open("r+b") as disk:
        disk.write(struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 200, 11, 16, 8 << 20).ljust(200, b"\0") + b"/etc/passwd")
    world.call(world.order(lambda g: g.start(), "persistent"))
    world.call(world.until(lambda: world.guest("persistent").state in ALIVE))
    run = world.guest("persistent").current_run
    assert run is not None
    found = world.call(asked(run, "query-block"))
    assert [disk["inserted"]["drv"] for disk in found] == ["raw"]
    assert any("persistent.img begins like qcow2, but is used as raw" in warning for warning in run.warnings)
    end(world, "persistent")


def test_what_a_snapshot_writes_is_gone(world: World) -> None:
    """The guest's write succeeded; the image is unchanged, and no other file is left."""
    run_until(world, "snapshot", SAID)
    assert second_sector(world, "snapshot") == bytes(SECTOR)
    assert list((world.paths.state / "scratch").iterdir()) == []


def test_more_disks_and_a_third_port(world: World) -> None:
    """Behind the image, in order; the one it may not write to is read-only to the guest too."""
    world.call(world.order(lambda g: g.start(), "several"))
    world.call(world.until(lambda: world.guest("several").state in ALIVE))
    run = world.guest("several").current_run
    assert run is not None

    disks = world.call(asked(run, "query-block"))
    assert [(disk["device"], disk["inserted"]["ro"]) for disk in disks] == [("disk0", False), ("disk1", True)]

    async def address() -> str:
        words = ["ip", "-brief", "-4", "address", "show", tap_name(world.guest("several").hop_number)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    # The third port: a network with the supervisor alone, up, and QEMU at its other end.
    shown = world.call(address()).split()
    assert shown[1:] == ["UP", f"{host_address(world.guest('several').hop_number)}/24"]
    world.call(world.end())
    world.call(world.begin())
    world.call(world.until(lambda: world.guest("several").state in ALIVE))
    again = world.guest("several").current_run
    assert again is not None
    assert (again.pid, again.adopted) == (run.pid, True), "a new bypassd finds it, with all of its taps open"
    end(world, "several")


@pytest.mark.skipif(not OVMF.exists(), reason="no UEFI firmware here")
def test_uefi(world: World) -> None:
    """The firmware runs up to its shell, having nothing to boot; its variables are in the guest's own file."""
    run_until(world, "uefi", b"startup.nsh")
    assert (world.paths.state / "uefi/uefi.fd").stat().st_size == (OVMF / "OVMF_VARS_4M.fd").stat().st_size


def test_pinned(world: World) -> None:
    """Its vCPU's thread stays on the configured processor."""
    guest = world.guest("pinned")
    world.call(world.order(lambda g: g.start(), "pinned"))
    world.call(world.until(lambda: guest.state in ALIVE))
    run = guest.current_run
    assert run is not None

    async def processors() -> list[int]:
        return await run.monitor.processors()

    assert [os.sched_getaffinity(thread) for thread in world.call(processors())] == [{0}]
    end(world, "pinned")


def test_a_full_disk_pauses_its_guest_until_there_is_room(world: World) -> None:
    """It is reported, has no traffic, and continues where it was as soon as there is space."""
    guest = world.guest("full")
    world.call(world.order(lambda g: g.start(), "full"))

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.02)

    world.call(until(lambda: guest.current_run is not None and guest.current_run.full))
    run = guest.current_run
    assert run is not None
    assert any(event.startswith("BLOCK_IO_ERROR") for event in guest.qmp_events)
    assert run.watch.verdict.vetoes["disk full"].cause is Cause.GUEST_DISK_FULL
    assert any("no disk space left for what it writes" in warning for warning in guest.warnings)
    assert SAID not in guest.console.tail()

    # The next bypassd knows it too.
    world.call(world.end())
    world.call(world.begin())
    guest = world.guest("full")
    world.call(until(lambda: guest.current_run is not None and guest.current_run.full))
    (world.paths.root / "small/rest").unlink()
    (world.paths.root / "small/others").unlink()
    world.call(until(lambda: SAID in guest.console.tail()))
    run = guest.current_run
    assert run is not None
    world.call(until(lambda: not run.full and "disk full" not in run.watch.verdict.vetoes))
    end(world, "full")


def test_a_flood_on_the_serial_line_keeps_nobody(world: World) -> None:
    """A real UART that is written without a pause: all of it is read, and no callback takes long."""
    world.call(world.order(lambda g: g.start(), "floods"))
    guest = world.guest("floods")

    async def flooded() -> None:
        async with asyncio.timeout(60):
            while len(guest.console.tail()) < TAIL_BYTES:
                await asyncio.sleep(0.02)

    with LoopWatch(clock=time.thread_time, account=lambda: None) as watch:
        world.call(flooded())
        end(world, "floods")
    assert not watch.counts


def pool() -> int:
    return int(Path("/proc/sys/vm/nr_hugepages").read_text())


def test_huge_pages_are_reserved_taken_and_given_back(world: World) -> None:
    """Without reserved pages: the pool grows for it, all of its memory is in them; at its end the pool is as before."""
    before, guest = pool(), world.guest("huge")
    world.call(world.order(lambda g: g.start(), "huge"))
    world.call(world.until(lambda: guest.state in ALIVE))
    run = guest.current_run
    assert run is not None
    assert not any("huge pages" in warning for warning in run.warnings)
    assert pool() == before + 33, "65 MiB, in whole pages"
    maps = Path(f"/proc/{run.pid}/smaps").read_text()
    _, _, memory = maps.partition("memory-backend-memfd")
    about = dict(line.split(":", 1) for line in memory.splitlines()[1:24] if ":" in line)
    assert (about["Size"].split(), about["KernelPageSize"].split()) == (["67584", "kB"], ["2048", "kB"])
    # A bypassd that starts anew finds the guest, and knows what was added for it.
    world.call(world.end())
    world.call(world.begin())
    guest = world.guest("huge")
    world.call(world.until(lambda: guest.state in ALIVE))
    assert guest.current_run is not None
    assert (guest.current_run.pid, guest.current_run.adopted, pool()) == (run.pid, True, before + 33)
    end(world, "huge")

    async def given_back() -> None:
        async with asyncio.timeout(20):
            while pool() != before:
                await asyncio.sleep(0.02)

    world.call(given_back())


def test_one_that_dies_again_and_again_is_given_up(world: World) -> None:
    """As often as its policy says, with its end as the reason; it is not started any more, and an order starts it."""
    guest = world.guest("loops")
    world.call(world.order(lambda g: g.start(), "loops"))
    for _ in range(2):
        world.call(world.until(lambda: guest.state in ALIVE))
        assert guest.current_run is not None
        assert guest.current_run.pid is not None
        os.kill(guest.current_run.pid, signal.SIGKILL)
        world.call(world.until(lambda: guest.state not in ALIVE))
    world.call(world.reach(HopState.FAILED, "loops"))
    assert (guest.hop.cause, guest.restarts.count) == ("crash_loop", 1)
    world.call(world.order(lambda g: g.start(), "loops"))
    world.call(world.until(lambda: guest.state in ALIVE))
    world.call(world.order(lambda g: g.stop(), "loops"))
    run = guest.current_run
    assert run is not None
    run.kill()
    world.call(world.reach(HopState.STOPPED, "loops"))
