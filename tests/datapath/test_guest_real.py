# SPDX-License-Identifier: GPL-2.0-only
"""A real guest on real taps behind the real datapath: proof, traffic, hang, kill, adoption, orders, bad input.

One world serves all tests of this module, in order; each leaves the guest available.
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.config.schema import model
from appliance.guest.port.tap import open_tap
from appliance.guest.qemu.spawn import uid_of
from appliance.guest.show import details
from appliance.hop.lifecycle import HopState
from appliance.units import Duration, Size
from console.views import render
from tests.support import board_harness
from tests.support.guest_world import World
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def guest(name: str, **more: object) -> model.Guest:
    probe = model.Probe(kind="inband", interval=Duration.parse("100ms"), misses=3)
    values: dict[str, object] = {
        "kernel": "/guest-demo/bzImage",
        "initrd": "/guest-demo/initrd.gz",
        "cmdline": "console=ttyS0 quiet",
        "memory": Size.parse("64M"),
        "probes": (probe,),
        **more,
    }
    return model.Guest(name=name, **values)  # type: ignore[arg-type]


CONFIG = model.Config(
    segment=(model.Segment(name="main", lan="lan0", wan="wan0"),),
    guest=(
        guest("ips1", shunts=model.Shunts(max=10)),
        guest("no-image", kernel="", initrd="", image="/not/there.qcow2"),
        guest("corrupt", kernel="", initrd="", image="/corrupt.qcow2"),
        guest("outside", kernel="", initrd="", image="/outside.qcow2"),
        guest("huge", memory=Size.parse("999G")),
        guest("unasked", autostart=False),
        guest("second", autostart=False),
        guest("waits", after=("unasked",)),
        guest("no-uefi", kernel="", initrd="", image="/corrupt.qcow2", firmware="uefi", storage="snapshot"),
        guest("off-pin", pin=(4095,)),
        guest("odd-probe", probes=(model.Probe(kind="inband", frame="gone.pcap"),)),
    ),
    rule=(model.Rule(name="all", path=("ips1",)),),
)


def qcow2_header(backing: bytes = b"") -> bytes:
    """An image with a valid header, in which QEMU finds nothing."""
    first = struct.pack(">4sIQIIQ", b"QFI\xfb", 3, 200 if backing else 0, len(backing), 16, 8 << 20)
    rest = struct.pack(">II", 4, 104)  # order of refcounts, length of the header
    return ((first.ljust(96, b"\0") + rest).ljust(200, b"\0") + backing).ljust(1024, b"\0")


@pytest.fixture(scope="module")
def world(bpf_object: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("appliance")
    (root / "corrupt.qcow2").write_bytes(qcow2_header())
    (root / "outside.qcow2").write_bytes(qcow2_header(b"/etc/shadow"))
    made = World(root, bpf_object, board_harness.artefacts(), CONFIG)
    try:
        made.call(made.reach(HopState.AVAILABLE))
        yield made
    finally:
        made.close()


def leased(world: World) -> bool:
    return world.datapath.leases.available("ips1", time.monotonic_ns())


def test_proved_in_both_directions_before_it_has_traffic(world: World) -> None:
    """starting, proving, available; heartbeats came back both ways, and then only the kernel has a lease."""
    assert world.states() == ["starting", "proving", "available"]
    assert leased(world)
    shown: Any = details(world.guest(), time.monotonic_ns())
    assert {row.check: row.state for row in shown.checks} == {
        "in-band lan to wan": "passing",
        "in-band wan to lan": "passing",
    }
    assert shown.accel == "tcg"
    assert world.guest().hop.lease.remaining(time.monotonic_ns()) <= 325_000_000
    assert "no KVM: it is emulated, and slow" in shown.warning


def test_qemu_has_no_rights_and_no_network(world: World) -> None:
    """Its own user, no capabilities, filtered system calls, no new privileges, only loopback, no core file."""
    run = world.guest().current_run
    assert run is not None
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{run.pid}/status").read_text().splitlines())
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {str(uid_of(world.guest().hop_number))}
    assert status["Groups"].split() == []
    assert {int(status[key], 16) for key in ("CapEff", "CapPrm", "CapInh", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    devices = Path(f"/proc/{run.pid}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in devices] == ["lo"]
    assert Path(f"/proc/{run.pid}/oom_score_adj").read_text().strip() == "500"
    limits = Path(f"/proc/{run.pid}/limits").read_text().splitlines()
    assert next(line.split()[4:6] for line in limits if line.startswith("Max core file size")) == ["0", "0"]


TAG = bytes.fromhex("8100002a")
QINQ = bytes.fromhex("88a80007") + TAG
ADDRESSES = bytes.fromhex("020000000001020000000002")


@pytest.mark.parametrize("tags", [b"", TAG, QINQ], ids=["untagged", "tagged", "QinQ"])
@pytest.mark.parametrize("size", [46, 1500, 3476])
@pytest.mark.parametrize(("enter", "leave"), [("lan", "wan"), ("wan", "lan")])
def test_frames_come_out_as_they_went_in(world: World, tags: bytes, size: int, enter: str, leave: str) -> None:
    """Through the guest (its own counter says so), byte for byte, up to the longest of its segment, with tags."""
    frame = ADDRESSES + tags + b"\x08\x00" + bytes(n & 0xFF for n in range(size - len(tags)))
    before = world.datapath.counters().hops["ips1"]
    assert world.call(world.pass_frame(frame, enter, leave)) == frame
    after = world.datapath.counters().hops["ips1"]
    assert after != before


def datagram(source: int, target: int) -> bytes:
    """A frame with a UDP datagram between these ports."""
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 46, 0, 0, 64, 17, 0, bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)))
    return ADDRESSES + b"\x08\x00" + ip + struct.pack("!HHHH", source, target, 26, 0) + bytes(18)


def test_its_application_shunts_the_flows_that_it_is_told(world: World) -> None:
    """By its agent: the next flow of each direction with the port. Their frames skip the guest, and no others."""
    flows = ((datagram(1024, 7007), "lan", "wan"), (datagram(1025, 7007), "wan", "lan"))
    world.call(world.order(lambda g: g.command("shunt", 7007)))

    def pass_all() -> int:
        """How many of them went through the guest."""
        before = world.datapath.counters().hops["ips1"].to_frames
        for frame, enter, leave in flows:
            assert world.call(world.pass_frame(frame, enter, leave)) == frame
        return world.datapath.counters().hops["ips1"].to_frames - before

    wait_until(lambda: pass_all() == 0, "both flows shunted")
    other = datagram(1026, 7008)
    before = world.datapath.counters().hops["ips1"].to_frames
    assert world.call(world.pass_frame(other, "lan", "wan")) == other
    assert world.datapath.counters().hops["ips1"].to_frames == before + 1


@pytest.mark.parametrize("word", ["hang", "freeze", "drop"])
def test_a_hung_application_is_bypassed(world: World, word: str) -> None:
    """The process lives, but the application forwards nothing: the lease expires by itself, frames pass straight."""
    world.call(world.order(lambda g: g.command(word)))
    world.call(world.reach(HopState.SUSPECT))
    assert not leased(world)
    frame = ADDRESSES + b"\x08\x00" + bytes(46)
    assert world.call(world.pass_frame(frame, "lan", "wan")) == frame
    assert "in-band" in world.guest().hop.detail
    world.call(world.order(lambda g: g.command("resume")))
    world.call(world.reach(HopState.AVAILABLE))
    assert leased(world)


def test_bypassd_restarts_and_adopts(world: World) -> None:
    """The guest continues with its number, passes its checks again, and is not restarted."""
    pid = world.guest().current_run.pid  # type: ignore[union-attr]
    world.call(world.end())
    world.call(world.begin())
    world.call(world.until(lambda: world.guest().state is HopState.AVAILABLE))
    run = world.guest().current_run
    assert run is not None
    assert (run.pid, run.adopted) == (pid, True)
    assert world.guest().restarts.count == 0
    world.call(world.order(lambda g: g.command("resume")))  # the agent channel is there again too


def test_a_killed_guest_is_out_at_once_and_comes_back(world: World) -> None:
    """Its lease ends in the kernel, before bypassd has run at all."""
    run = world.guest().current_run
    assert run is not None
    assert run.pid is not None
    old = run.pid

    async def kill() -> tuple[bool, int]:
        os.kill(old, signal.SIGKILL)
        os.waitid(os.P_PID, old, os.WEXITED | os.WNOWAIT)  # in bypassd's thread, which does nothing else meanwhile
        return leased(world), world.datapath.leases.ended("ips1")

    still, ended = world.call(kill())
    assert not still
    assert ended > 0
    world.call(world.reach(HopState.STARTING))
    assert world.guest().hop.cause == "guest_exited"
    assert world.guest().hop.detail.startswith(("killed by SIGKILL", "ended"))  # adopted: it was not our child then
    world.call(world.reach(HopState.AVAILABLE))
    assert world.guest().current_run.pid != old  # type: ignore[union-attr]
    assert world.guest().restarts.count == 1


def test_paused_and_let_go_on(world: World) -> None:
    """It loses its traffic at once; when it continues, it has to pass its checks again."""
    world.call(world.guest().pause(True))
    assert not leased(world)
    world.call(world.reach(HopState.SUSPECT))
    assert world.guest().hop.cause == "guest_paused"
    world.call(world.guest().pause(False))
    world.call(world.reach(HopState.AVAILABLE))


def test_drain_keeps_the_lease_and_ends_with_start(world: World) -> None:
    world.call(world.order(lambda g: g.drain()))
    assert world.guest().state is HopState.DRAINING
    renewals = world.guest().hop.lease.renewals

    async def renewed() -> None:
        while world.guest().hop.lease.renewals == renewals:
            await asyncio.sleep(0.05)

    world.call(renewed())
    world.call(world.order(lambda g: g.start()))
    world.call(world.reach(HopState.AVAILABLE))


def failures(world: World) -> int:
    """How many are kept, those that are alike included."""
    return sum(row.times for row in world.manager.failures.incidents.rows())


async def newest(world: World, seen: int) -> object:
    """The kind of the one failure after the first `seen`, when it has been written."""
    while failures(world) == seen:
        await asyncio.sleep(0.02)
    assert failures(world) == seen + 1
    return max(world.manager.failures.incidents.rows(), key=lambda row: row.last).kind


def test_a_draining_guest_that_hangs_is_told_of(world: World) -> None:
    """Its established flows lose it: a cause, an incident and a measurement, as with any; and its return."""
    guest, seen = world.guest(), failures(world)
    world.call(world.order(lambda g: g.drain()))
    world.call(world.order(lambda g: g.command("hang")))
    world.call(world.until(lambda: guest.hop.cause == "heartbeat_lost"))
    assert guest.state is HopState.DRAINING
    assert "in-band" in guest.hop.detail
    assert not leased(world)
    assert guest.hop.bypass_latency.pending is not None
    assert world.call(newest(world, seen)) == "failed"
    world.call(world.order(lambda g: g.command("resume")))
    world.call(world.until(lambda: guest.hop.cause == "operator"))
    assert (guest.state, guest.hop.detail) == (HopState.DRAINING, "it works again, and is still draining")
    world.call(world.order(lambda g: g.start()))
    world.call(world.reach(HopState.AVAILABLE))


def test_a_draining_guest_that_dies_is_told_of(world: World) -> None:
    """It stays stopped, because an operator is working on it; but it died, and its last checks are still shown."""
    guest, seen = world.guest(), failures(world)
    world.call(world.order(lambda g: g.drain()))
    assert guest.current_run is not None
    assert guest.current_run.pid is not None
    os.kill(guest.current_run.pid, signal.SIGKILL)
    world.call(world.reach(HopState.STOPPED))
    assert guest.hop.cause == "guest_exited"
    assert world.call(newest(world, seen)) == "died"
    shown = render("guest", msgspec.to_builtins(details(guest, time.monotonic_ns())))
    for word in ("checks when the guest ended", "in-band lan to wan", "passing", "LAST SUCCESS", "failing"):
        assert word in shown, shown
    world.call(world.order(lambda g: g.start()))
    world.call(world.reach(HopState.AVAILABLE))


def test_stopped_in_good_order_and_stays_stopped(world: World) -> None:
    """The order survives a restart of bypassd; a start is executed."""
    world.call(world.order(lambda g: g.stop()))
    assert not leased(world)
    world.call(world.reach(HopState.STOPPED))
    assert world.guest().hop.detail.startswith(("exited with status 0", "ended"))
    world.call(world.end())
    world.call(world.begin())
    world.call(world.until(lambda: world.guest().state is HopState.STOPPED))
    assert world.guest().current_run is None
    world.call(world.order(lambda g: g.start()))
    world.call(world.reach(HopState.AVAILABLE))


def test_its_serial_line_answers(world: World) -> None:
    """Input reaches the guest's shell; its output reaches the user, the log and the tail.

    Its kernel knows the MTU of its segment, which QEMU announces.
    """

    async def talk() -> bytes:
        console, path = world.guest().console, str(world.paths.run / "door")
        server = await asyncio.start_unix_server(console.attach, path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"\necho $((6*7))-answer mtu=$(cat /sys/class/net/eth0/mtu)\n")
        heard = await asyncio.wait_for(reader.readuntil(b"42-answer mtu=3480"), 30)
        writer.close()
        server.close()
        return heard

    assert b"demo guest: up" in world.call(talk())
    assert b"42-answer" in world.guest().console.tail()
    assert b"42-answer" in world.guest().console.log_file.read_bytes()


@pytest.mark.parametrize(
    ("name", "cause", "words"),
    [
        ("no-image", "image_unreadable", "not/there.qcow2: No such file"),
        ("corrupt", "qemu_refused", "corrupt.qcow2"),
        ("outside", "image_unreadable", 'outside.qcow2: it needs a backing file ("/etc/shadow"), but an image must be'),
        ("huge", "memory_short", "MiB of memory"),
        ("no-uefi", "guest_failed", "needs a UEFI firmware file; there is no /usr/share/OVMF"),
        ("off-pin", "guest_failed", "there is no processor 4095; there are: [0"),
        ("odd-probe", "guest_failed", "gone.pcap: cannot be read"),
    ],
)
def test_what_cannot_start_says_why(world: World, name: str, cause: str, words: str) -> None:
    """A failed guest reports cause and file, with QEMU's own message if it is from QEMU; the others continue."""
    world.call(world.reach(HopState.FAILED, name))
    assert world.guest(name).hop.cause == cause
    assert words in world.guest(name).hop.detail
    assert world.guest().state is HopState.AVAILABLE


def test_not_started_unless_asked(world: World) -> None:
    assert world.guest("unasked").state is HopState.DEFINED


def test_one_that_waits_says_for_whom(world: World) -> None:
    assert (world.guest("waits").state, world.guest("waits").hop.cause) == (HopState.STARTING, "waiting")
    assert world.guest("waits").hop.detail == "waits until guest unasked is available; it is defined"
    world.call(world.order(lambda g: g.stop(), "waits"))
    assert world.guest("waits").state is HopState.STOPPED


def test_a_tap_that_another_process_holds(world: World) -> None:
    """Two want one tap: the second to come is refused, and told why; with the tap free it starts."""
    name = world.guest("second").pairs[0].wan

    async def held() -> int:
        return open_tap(name)

    fd = world.call(held())
    world.call(world.order(lambda g: g.start(), "second"))
    world.call(world.reach(HopState.FAILED, "second"))
    assert (world.guest("second").hop.cause, name in world.guest("second").hop.detail) == ("tap_in_use", True)
    os.close(fd)
    world.call(world.order(lambda g: g.start(), "second"))
    world.call(world.reach(HopState.AVAILABLE, "second"))
    world.call(world.order(lambda g: g.stop(), "second"))
    world.call(world.reach(HopState.STOPPED, "second"))
