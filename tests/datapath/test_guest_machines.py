# SPDX-License-Identifier: GPL-2.0-only
"""What a guest's machine starts from, and what becomes of what it writes: BIOS, UEFI, more disks, snapshots.

The guests are a boot sector: it writes itself over the second sector of its disk, says so on the serial line, halts.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config import model
from appliance.config.model import Size
from appliance.guest.lan import tap_name
from appliance.guest.lifecycle import ALIVE, State
from appliance.guest.management import host_address
from tests.datapath.guest_world import World
from tests.image import harness

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SAID = b"boot sector was here"
SECTOR = 512
OVMF = Path("/usr/share/OVMF")


def boot_sector() -> bytes:
    """16-bit code: write sector 1 (BIOS), print SAID (UART), halt."""
    start = bytes.fromhex("fa 31c0 8ed8 8ec0 8ed0 bc007c fb")  # registers and stack
    write = bytes.fromhex("b80103 b90200 ba8000 bb007c cd13 fa")  # one sector, from 0x7c00 to head 0, sector 2
    put = bytes.fromhex("baf803 ac 84c0 7403 ee ebf8 f4 ebfd")  # until NUL; then for ever nothing
    at = 0x7C00 + len(start) + len(write) + 3 + len(put)
    code = start + write + b"\xbe" + at.to_bytes(2, "little") + put + SAID + b"\0"
    return code.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"


def machine(name: str, **more: object) -> model.Guest:
    restart = model.Restart(policy="never")
    values: dict[str, object] = {"memory": Size.parse("64M"), "autostart": False, "restart": restart, **more}
    return model.Guest(name=name, **values)  # type: ignore[arg-type]


CONFIG = model.Config(
    segment=(model.Segment(name="main", lan="lan0", wan="wan0"),),
    guest=(
        machine("persistent", image="/persistent.img"),
        machine("snapshot", image="/snapshot.img", storage="snapshot"),
        machine(
            "several", image="/blank.img", disks=(model.Disk("/second.img", readonly=True),), management="isolated"
        ),
        machine("uefi", image="/uefi.img", firmware="uefi", memory=Size.parse("256M")),
        machine("pinned", image="/pinned.img", pin=(0,), hugepages=True),
    ),
)


@pytest.fixture(scope="module")
def world(bpf_object: Path) -> Iterator[World]:
    # Not below pytest's own folder, which nobody but root may enter: a guest's QEMU is somebody else.
    root = Path(tempfile.mkdtemp(prefix="tw-machines-"))
    root.chmod(0o711)
    for name, first in (("persistent", True), ("snapshot", True), ("blank", False), ("second", True), ("pinned", True)):
        (root / f"{name}.img").write_bytes((boot_sector() if first else bytes(SECTOR)) + bytes(2047 * SECTOR))
    (root / "uefi.img").write_bytes(bytes(2048 * SECTOR))
    (root / "usr/share").mkdir(parents=True)
    (root / "usr/share/OVMF").symlink_to(OVMF)
    made = World(root, bpf_object, harness.artefacts(), CONFIG)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(root)


def run_until(world: World, name: str, words: bytes) -> None:
    """Start the guest, wait until it said these words, kill it, and see it failed (its policy: never again)."""

    async def said() -> None:
        while words not in world.guest(name).console.tail():
            assert world.guest(name).state is not State.FAILED, world.guest(name).detail
            await asyncio.sleep(0.02)

    world.call(world.order(lambda g: g.start(), name))
    world.call(said())
    world.call(world.until(lambda: world.guest(name).state in ALIVE))
    end(world, name)


def end(world: World, name: str) -> None:
    run = world.guest(name).run_now
    assert run is not None
    assert run.pid is not None
    os.kill(run.pid, signal.SIGKILL)
    world.call(world.reach(State.FAILED, name))
    assert world.guest(name).detail.endswith("restart = never")


def second_sector(world: World, name: str) -> bytes:
    with (world.paths.root / f"{name}.img").open("rb") as image:
        image.seek(SECTOR)
        return image.read(SECTOR)


def test_what_a_persistent_guest_writes_stays(world: World) -> None:
    run_until(world, "persistent", SAID)
    assert second_sector(world, "persistent") == boot_sector()


def test_what_a_snapshot_writes_is_gone(world: World) -> None:
    """The guest saw its write succeed; the image is what it was, and nothing is left beside it."""
    run_until(world, "snapshot", SAID)
    assert second_sector(world, "snapshot") == bytes(SECTOR)
    assert list((world.paths.state / "scratch").iterdir()) == []


def test_more_disks_and_a_third_port(world: World) -> None:
    """Behind the image, in order; the one it may not write to is read-only to the guest too."""
    world.call(world.order(lambda g: g.start(), "several"))
    world.call(world.until(lambda: world.guest("several").state in ALIVE))
    run = world.guest("several").run_now
    assert run is not None

    async def disks() -> list[tuple[str, bool]]:
        found = await run.monitor.ask("query-block")
        assert isinstance(found, list)
        return [(disk["device"], disk["inserted"]["ro"]) for disk in found]

    assert world.call(disks()) == [("disk0", False), ("disk1", True)]

    async def address() -> str:
        words = ["ip", "-brief", "-4", "address", "show", tap_name(world.guest("several").hop)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    # The third port: a network with the supervisor alone, up, and QEMU at its other end.
    shown = world.call(address()).split()
    assert shown[1:] == ["UP", f"{host_address(world.guest('several').hop)}/24"]
    world.call(world.end())
    world.call(world.begin())
    world.call(world.until(lambda: world.guest("several").state in ALIVE))
    again = world.guest("several").run_now
    assert again is not None
    assert (again.pid, again.adopted) == (run.pid, True), "a new bypassd finds it, with all of its taps open"
    end(world, "several")


@pytest.mark.skipif(not OVMF.exists(), reason="no UEFI firmware here")
def test_uefi(world: World) -> None:
    """The firmware runs, up to its shell, for there is nothing to boot; its variables are this guest's own file."""
    run_until(world, "uefi", b"startup.nsh")
    assert (world.paths.state / "uefi/uefi.fd").stat().st_size == (OVMF / "OVMF_VARS_4M.fd").stat().st_size


def test_pinned_and_without_huge_pages(world: World) -> None:
    """Its processor's thread stays where it was told; huge pages that are not there cost a warning."""
    guest = world.guest("pinned")
    world.call(world.order(lambda g: g.start(), "pinned"))
    world.call(world.until(lambda: guest.state in ALIVE))
    run = guest.run_now
    assert run is not None

    async def processors() -> list[int]:
        return await run.monitor.processors()

    assert [os.sched_getaffinity(thread) for thread in world.call(processors())] == [{0}]
    if "HugePages_Free:        0" in Path("/proc/meminfo").read_text():
        assert any("no huge pages: 0 MiB" in warning for warning in run.warnings)
    end(world, "pinned")
