# SPDX-License-Identifier: GPL-2.0-only
"""The datapath on real devices: straight and through a guest, while leases end, policies change and its owner dies."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from boardspec import REPO
from simulator import netns

from appliance.api.schema.state import Explained
from appliance.config.schema.model import Config, Group, Guest, Rule
from appliance.errors import ConfigError, DatapathError, FilterError, RefusedError
from appliance.frames.builder import frame_of
from appliance.health.inband import ETHERTYPE, MAGIC, Direction, Lane, make_nonce
from appliance.health.packet_socket import PacketSocket
from appliance.steering.datapath import Datapath
from appliance.steering.explain.api import SteeringApi
from appliance.steering.kernel.copies import Point
from appliance.steering.kernel.layout import CopyWay, Outcome, Side
from appliance.system import libbpf
from tests.support.guest_world import with_tag
from tests.support.wire import Wire
from tests.support.wired_datapath import ALL, EMPTY, MAIN, MODES, appliance, attach, available, outcomes

pytestmark = pytest.mark.root


@MODES
def test_straight(wire: Wire, bpf_object: Path, mode: str) -> None:
    """No rule: every frame crosses, in both directions, and is counted straight."""
    with appliance(wire, bpf_object, mode, EMPTY) as made:
        assert {attached.mode for attached in made.attachments()} == {mode}
        assert wire.stream(320) == []
        for side in Side:
            assert outcomes(made, side) == {Outcome.STRAIGHT: 320}


@MODES
def test_through_the_guest_and_the_books_balance(wire: Wire, bpf_object: Path, mode: str) -> None:
    """With a lease each frame goes through the guest; counters of ports, rule and hop account for every one."""
    with appliance(wire, bpf_object, mode) as made:
        assert wire.stream(320) == []
        available(made)
        assert wire.stream(320) == []
        counters = made.counters()
        for side in Side:
            assert outcomes(made, side) == {Outcome.BYPASSED: 320, Outcome.TO_HOP: 320}
            assert counters.ports["main", side].dropped == 0
        hop, rule = counters.hops["ips"], counters.rules["all"]
        assert (hop.to_frames, rule.frames, rule.to_hop, rule.bypassed) == (640, 1280, 640, 640)
        out = {side: hop.taps["main", side].frames[Outcome.OUT] for side in Side}
        assert out == {Side.LAN: 320, Side.WAN: 320}


@MODES
def test_a_hop_keeps_its_counters_while_it_is_out(wire: Wire, bpf_object: Path, mode: str) -> None:
    """A stopped guest has no taps: what it was sent and what came back stand side by side all the same."""
    with appliance(wire, bpf_object, mode) as made:

        def counted() -> tuple[int, int]:
            hop = made.counters().hops["ips"]
            return hop.to_frames, hop.from_frames

        available(made)
        assert wire.stream(32) == []
        assert counted() == made.exchanged("ips") == (64, 64)
        made.leases.revoke("ips")
        made.detach_hop("ips")
        assert counted() == made.exchanged("ips") == (64, 64)
        attach(wire, made, mode)
        available(made)
        assert wire.stream(32) == []
        assert counted() == (128, 128)


@MODES
def test_lease_and_deadline(wire: Wire, bpf_object: Path, mode: str) -> None:
    """When a lease, or the supervisor's, expires by itself, frames bypass the guest; none is lost."""
    with appliance(wire, bpf_object, mode) as made:
        for end in (lambda until: made.leases.renew("ips", until), made.leases.renew_supervisor):
            available(made)
            assert wire.stream(64) == []
            before = outcomes(made, Side.LAN).get(Outcome.BYPASSED, 0)
            end(time.monotonic_ns() + 50_000_000)
            deadline = time.monotonic() + 10
            while outcomes(made, Side.LAN).get(Outcome.BYPASSED, 0) == before:
                assert time.monotonic() < deadline, "the lease did not end"
                assert wire.stream(32) == []
            to_hop = outcomes(made, Side.LAN)[Outcome.TO_HOP]
            assert wire.stream(64) == []
            assert outcomes(made, Side.LAN)[Outcome.TO_HOP] == to_hop


def test_ports_begin_in_the_policy(wire: Wire, bpf_object: Path) -> None:
    """With XDP a port's frames begin in the program of its segment's rules, and take the slow path if needed: for
    captures, and while the policy changes or none is left. None is lost, each is counted."""
    rules = (Rule(name="seen", match="ether proto 0x9000"), Rule(name="rest", match="tcp", path=("ips",)))
    config = Config(segment=(MAIN,), guest=EMPTY.guest, rule=rules)
    with appliance(wire, bpf_object, "xdp", config) as made:
        lan, wan = (one for one in made.attachments() if not one.hop)
        entry = libbpf.info(made.kernel.programs["entry_xdp"], libbpf.ProgramInfo()).id

        def begin() -> set[int | None]:
            """Where they begin: each in a program of its own, none in the entry."""
            found = {made.begins_in(port) for port in (lan, wan)}
            assert len(found - {entry}) == 2
            return found

        first = begin()
        assert wire.stream(64) == []
        sink, ring = made.copies.begin({Point(lan.slot, CopyWay.IN)}, (), 64)
        assert wire.stream(64) == []
        assert made.copies.counts(sink)[0] == 64
        made.copies.end(sink)
        os.close(ring)
        made.set_policy(config)
        assert not begin() & first
        assert wire.stream(64) == []
        # as in the moment between the switch and the new program: the old one leads to the entry
        made.kernel.policy_word = made.kernel.policy_word + 2
        assert wire.stream(64) == []
        before = begin()
        made.set_policy(EMPTY)
        assert not begin() & before
        assert wire.stream(64) == []
        made.set_policy(ALL)  # a first rule that matches every frame needs no filters
        begin()
        made.set_policy(EMPTY)
        for side in Side:
            assert outcomes(made, side) == {Outcome.STRAIGHT: 320}
        assert made.counters().rules == {}


def test_block(wire: Wire, bpf_object: Path) -> None:
    """on_unavailable = "block": without its guest nothing crosses, and each frame is counted as blocked."""
    closed = Config(segment=(MAIN,), guest=ALL.guest, rule=(Rule(name="all", path=("ips",), on_unavailable="block"),))
    with appliance(wire, bpf_object, config=closed) as made:
        for number in range(20):
            wire.send(number)
        available(made)
        assert wire.stream(32) == []  # frames keep their order: those before are through
        assert outcomes(made, Side.LAN) == {Outcome.BLOCKED: 20, Outcome.TO_HOP: 32}


OWNER = """
import sys, signal, time
from pathlib import Path
from appliance.api.schema.state import Explained
from appliance.config.schema.model import Config, Guest, Rule, Segment
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.layout import Side
made = Datapath.open(Path(sys.argv[1]), Path(sys.argv[2]))
made.attach_segment("main", "lan0", "wan0", sys.argv[3], whole=sys.argv[3] == "xdp")
made.attach_hop("tapl", "ips", "main", Side.LAN)
made.attach_hop("tapw", "ips", "main", Side.WAN)
made.set_policy(Config(segment=(Segment(name="main", lan="lan0", wan="wan0"),), guest=(Guest(name="ips"),),
                       rule=(Rule(name="all", match="ether proto 0x9000", path=("ips",)),)))
made.leases.renew_supervisor(time.monotonic_ns() + 3600 * 10**9)
made.leases.renew("ips", time.monotonic_ns() + 3600 * 10**9)
print("ready", made.adopted, flush=True)
signal.pause()
"""


@MODES
def test_owner_killed_and_adopted(wire: Wire, bpf_object: Path, mode: str) -> None:
    """kill -9 of the process that loaded it changes nothing for frames; the next one adopts it, and none is lost."""
    command = [sys.executable, "-c", OWNER, str(bpf_object), str(wire.pins), mode]
    owners: list[subprocess.Popen[str]] = []

    def start() -> str:
        # By name only for the network: a mount namespace of its own would not have our bpffs.
        owner = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{wire.box}", *command],
            stdout=subprocess.PIPE, text=True, cwd=REPO, env={**os.environ, "PYTHONPATH": str(REPO)},
        )  # fmt: skip
        owners.append(owner)
        assert owner.stdout is not None
        return owner.stdout.readline().strip()

    def kill() -> None:
        owners[-1].send_signal(signal.SIGKILL)
        owners[-1].wait()

    try:
        assert start() == "ready False"
        assert wire.stream(64) == []
        kill()
        answers: list[str] = []
        again = threading.Thread(target=lambda: answers.append(start()))

        def meanwhile(sent: int) -> None:
            if sent == 320:
                again.start()

        assert wire.stream(640, meanwhile=meanwhile) == []
        while again.is_alive():
            assert wire.stream(64) == []
        assert answers == ["ready True"]
        made = Datapath.open(bpf_object, wire.pins)
        attach(wire, made, mode)
        assert made.drop_unclaimed() == []
        for side in Side:
            assert outcomes(made, side) == {Outcome.TO_HOP: wire.sent}
        made.unload()
        assert not wire.pins.exists()
    finally:
        for owner in owners:
            owner.kill()
            owner.wait()


@MODES
def test_policies_change_under_traffic(wire: Wire, bpf_object: Path, mode: str) -> None:
    """A new policy every few frames, filters and groups and all: none is lost, and each is under one policy whole."""
    filters = ["ether proto 0x9000", "", "ether[14:4] = 0 or len < 100", "not ip and not ip6"]
    with appliance(wire, bpf_object, mode) as made:
        available(made)
        stop = threading.Event()
        generations: list[int] = []

        def change() -> None:
            while not stop.is_set():
                match = filters[len(generations) % len(filters)]
                rule = Rule(name="all", match=match, path=("ips",))
                config = Config(
                    segment=(MAIN,), guest=(Guest(name="ips"),), rule=(Rule(name="never", match="tcp"), rule)
                )
                generations.append(made.set_policy(config).generation)

        changer = threading.Thread(target=change)
        changer.start()
        try:
            while len(generations) < 12:
                assert changer.is_alive(), "a policy was refused"
                assert wire.stream(640) == []
        finally:
            stop.set()
            changer.join()
        # Under every one of these policies a frame goes through the guest: none saw half of one.
        for side in Side:
            assert outcomes(made, side) == {Outcome.TO_HOP: wire.sent}
        assert made.counters().rules["all"].frames == 2 * wire.sent


def test_another_program_takes_over(wire: Wire, bpf_object: Path, tmp_path: Path) -> None:
    """An object file that differs (an update) replaces the programs under traffic; maps and counters are kept."""
    other = tmp_path / "other.bpf.o"
    source = REPO / "appliance/bpf/steer.bpf.c"
    include = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    subprocess.run(
        ["clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", include, "-DPULL=200", "-c", source, "-o", other],
        check=True,
    )
    first = Datapath.open(bpf_object, wire.pins)
    attach(wire, first)
    first.set_policy(ALL)
    available(first)
    assert wire.stream(64) == []
    first.close()
    seconds: list[Datapath] = []

    def take_over() -> None:
        second = Datapath.open(other, wire.pins)
        attach(wire, second)
        seconds.append(second)

    changer = threading.Thread(target=take_over)
    changer.start()
    while changer.is_alive():
        assert wire.stream(64) == []
    assert wire.stream(64) == []
    (second,) = seconds
    assert not second.adopted
    assert second.kernel.upgraded
    assert outcomes(second, Side.LAN) == {Outcome.TO_HOP: wire.sent}
    second.unload()


@MODES
def test_explain_on_the_running_datapath(wire: Wire, bpf_object: Path, mode: str) -> None:
    """`explain --live` asks the live programs, tables and leases: and no counter, flow or cache moves."""

    def ask(made: Datapath, *frames: bytes, **more: str) -> list[Explained]:
        params = {"frames": [frame.hex() for frame in frames], "in": "lan", **more}
        return asyncio.run(SteeringApi(lambda: made).explain(params))

    flow = frame_of("udp", "10.0.0.5:1234", "10.1.0.9:53")
    with appliance(wire, bpf_object, mode) as made:
        rule = Rule(name="dns", match="udp port 53", path=("ips",))
        made.set_policy(Config(segment=(MAIN,), guest=(Guest(name="ips"),), rule=(Rule(name="web", match="tcp"), rule)))
        available(made)
        assert wire.stream(32) == []
        before = made.counters()
        runt = b"\x01\x02\x03"
        first, second, third = ask(made, flow, frame_of("icmp", "10.0.0.5", "10.1.0.9"), runt)
        assert (first.frame, first.rule, first.hops, first.verdict) == (1, "dns", ["ips"], "guest:ips")
        assert first.by == "the running datapath"
        assert first.why[0] == "rule web: no, IP protocol is 17 (udp) (match tcp)"
        assert re.search(r"  ips \(lease for \d+ ms\): takes it", "\n".join(first.why))
        assert (second.frame, second.rule, second.verdict) == (2, None, "port:wan")
        assert (third.frame, third.verdict) == (3, "port:wan")
        made.leases.revoke("ips")
        (row,) = ask(made, flow, segment="main")
        assert (row.rule, row.hops, row.verdict) == ("dns", [], "port:wan")
        assert any("ips (lease revoked): skipped: not available" in line for line in row.why)
        assert made.counters() == before
        assert not list(made.kernel.maps["flows"].items())
        with pytest.raises(ConfigError, match="there is no such segment"):
            ask(made, flow, segment="lab")
        with pytest.raises(RefusedError, match="1 to 16"):
            ask(made)
        with pytest.raises(RefusedError, match="not hexadecimal"):
            asyncio.run(SteeringApi(lambda: made).explain({"frames": ["xyz"], "in": "lan"}))


def test_a_bad_policy_changes_nothing(wire: Wire, bpf_object: Path) -> None:
    """A filter that does not compile: an error that names the rule, and the old policy stays in force."""
    with appliance(wire, bpf_object) as made:
        available(made)
        with pytest.raises(FilterError, match="rule odd: match"):
            made.set_policy(Config(segment=(MAIN,), rule=(Rule(name="odd", match="tcp porto 80"),)))
        assert wire.stream(64) == []
        assert outcomes(made, Side.LAN) == {Outcome.TO_HOP: 64}


def test_tap_made_anew(wire: Wire, bpf_object: Path) -> None:
    """A tap that goes away and comes back under the same name is attached again; meanwhile frames go past the guest."""
    with appliance(wire, bpf_object) as made:
        available(made)
        assert wire.stream(32) == []
        netns.run("ip", "-n", wire.box, "link", "del", "tapl")
        netns.run("ip", "-n", wire.box, "link", "del", "tapw")
        made.leases.revoke("ips")
        assert wire.stream(32) == []
        for tap, name in (("tapl", "gl"), ("tapw", "gw")):
            wire.pair(tap, wire.guest, name)
            netns.run("ip", "-n", wire.guest, "link", "set", name, "master", "bridge0")
        attach(wire, made)
        available(made)
        assert wire.stream(32) == []
        assert outcomes(made, Side.LAN) == {Outcome.TO_HOP: 64, Outcome.BYPASSED: 32}


def test_heartbeats_reach_the_supervisor(wire: Wire, bpf_object: Path) -> None:
    """A heartbeat frame sent into one tap comes out of the other and goes up to a listener, counted."""
    with appliance(wire, bpf_object) as made:

        def sockets() -> tuple[socket.socket, socket.socket]:
            pair = []
            for tap in ("tapl", "tapw"):
                opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88B5))
                opened.bind((tap, 0x88B5))
                opened.settimeout(5)
                pair.append(opened)
            return pair[0], pair[1]

        lane = Lane(made.hop_id("ips"), Direction.LAN_TO_WAN, make_nonce(made.heartbeat_key("ips")))
        into, out = wire.inside(sockets)
        with into, out:
            into.send(lane.send(time.monotonic_ns()))
            assert lane.receive(time.monotonic_ns(), out.recv(100)) is not None
        assert made.counters().hops["ips"].taps["main", Side.WAN].frames[Outcome.HEARTBEAT] == 1


def test_a_customers_frames_of_our_ethertype_cross_the_guest(wire: Wire, bpf_object: Path) -> None:
    """Frames that look like heartbeats come out of the guest and go on; the socket gets its own alone."""
    looks = [
        bytes.fromhex(addresses) + ETHERTYPE.to_bytes(2, "big") + MAGIC + bytes([number]) + bytes(45)
        for number, addresses in enumerate(("020000000002020000000001", "025457010002025457010001"))
    ]

    def listening(name: str) -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
        opened.bind((name, ETHERTYPE))
        opened.settimeout(10)
        return opened

    with appliance(wire, bpf_object) as made:
        available(made)
        lane = Lane(made.hop_id("ips"), Direction.LAN_TO_WAN, make_nonce(made.heartbeat_key("ips")))
        into, out = wire.inside(lambda: [PacketSocket(tap, lane.ethertype, lane.key) for tap in ("tapl", "tapw")])
        with (
            netns.enter(wire.lan, lambda: listening("eth0")) as lan,
            netns.enter(wire.wan, lambda: listening("eth0")) as wan,
        ):
            for frame in looks:
                lan.send(frame)
                assert wan.recv(100) == frame
            into.send(lane.send(time.monotonic_ns()))
            select.select([out], [], [], 10)
            came = out.receive()
        into.close()
        out.close()
        assert [lane.receive(time.monotonic_ns(), frame) is not None for frame in came] == [True]
        assert made.counters().hops["ips"].taps["main", Side.WAN].frames[Outcome.HEARTBEAT] == 1


@MODES
@pytest.mark.parametrize("vid", [0, 2, 300, 4000, 4001])
def test_an_outsiders_tag_crosses_a_guest_that_chooses_by_tags(
    wire: Wire, bpf_object: Path, mode: str, vid: int
) -> None:
    """It leaves by the other port with its original tag: 300 used to lose it, and 4001 was sent back."""
    config = Config(segment=(MAIN,), guest=(Guest(name="ips", tags=True),), rule=ALL.rule)
    frame = bytes.fromhex("02000000000202000000000188a8") + vid.to_bytes(2, "big") + b"\x90\x00" + b"tagged" * 8

    def listening() -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        opened.setsockopt(263, 8, 1)  # PACKET_AUXDATA: the outer tag is told beside the frame
        opened.bind(("eth0", 0x0003))
        opened.settimeout(10)
        return opened

    for name in ("gl", "gw"):  # else the guest's kernel would hand the tag over beside the frame, where XDP sees none
        off = ("txvlan", "off", "tx-vlan-stag-hw-insert", "off")
        netns.run("ip", "netns", "exec", wire.guest, "ethtool", "-K", name, *off)
    with appliance(wire, bpf_object, mode, config) as made:
        available(made)
        for tap, side in (("tapl", Side.LAN), ("tapw", Side.WAN)):
            wire.inside(lambda tap=tap, side=side: made.attach_hop(tap, "ips", "main", side, tags=True))  # type: ignore[misc]
        with netns.enter(wire.lan, listening) as lan, netns.enter(wire.wan, listening) as wan:
            lan.send(frame)
            while b"tagged" not in (data := wan.recvmsg(2048, 256))[0]:
                pass
            assert with_tag(data[0], data[1]) == frame
        assert made.counters().hops["ips"].to_frames == 1
        assert made.counters().hops["ips"].bad_tag == 0


def test_longer_than_the_port_is_counted(wire: Wire, bpf_object: Path) -> None:
    """XDP would silently lose a frame that is too long for the other port: it is counted as oversize."""
    with appliance(wire, bpf_object, "xdp", EMPTY) as made:
        netns.run("ip", "-n", wire.box, "link", "set", "wan0", "mtu", "100")
        attach(wire, made, "xdp")
        for number in range(10):
            wire.send(number, pad=120)
        netns.run("ip", "-n", wire.box, "link", "set", "wan0", "mtu", "1500")
        attach(wire, made, "xdp")
        assert wire.stream(32) == []
        assert outcomes(made, Side.LAN) == {Outcome.OVERSIZE: 10, Outcome.STRAIGHT: 32}


def test_native_xdp_refused_means_tc(wire: Wire, bpf_object: Path) -> None:
    """A port without native XDP makes the segment use tc, and the reason names it; `attach = "xdp"` is an error."""
    netns.run("ip", "-n", wire.box, "link", "add", "dull0", "type", "bridge")
    netns.run("ip", "-n", wire.box, "link", "set", "dull0", "up")
    made = Datapath.open(bpf_object, wire.pins)
    try:
        ports = wire.inside(lambda: made.attach_segment("main", "lan0", "dull0"))
        assert {port.mode for port in ports} == {"tc"}
        assert "dull0" in ports[0].reason
        with pytest.raises(DatapathError, match="dull0"):
            wire.inside(lambda: made.attach_segment("main", "lan0", "dull0", "xdp"))
    finally:
        made.unload()


def test_port_that_xdp_cannot_send_to(wire: Wire, bpf_object: Path) -> None:
    """Native XDP alone is not enough: a veth whose far end has no NAPI would lose every frame, so tc is used."""
    netns.run("ip", "netns", "exec", wire.wan, "ethtool", "-K", "eth0", "gro", "off")
    with appliance(wire, bpf_object, config=EMPTY) as made:
        assert {port.mode for port in made.attachments() if not port.hop} == {"tc"}
        assert "wan0 (veth)" in made.attachments()[0].reason
        assert wire.stream(64) == []


def test_hop_that_xdp_cannot_send_to(wire: Wire, bpf_object: Path) -> None:
    """Such a hop makes its segment use tc, in flight; a segment that must use XDP refuses it."""
    netns.run("ip", "netns", "exec", wire.guest, "ethtool", "-K", "gw", "gro", "off")
    with appliance(wire, bpf_object) as made:
        assert {port.mode for port in made.attachments()} == {"tc"}
        assert "tapw (veth) of hop ips" in made.attachments()[0].reason
        available(made)
        assert wire.stream(64) == []
        assert outcomes(made, Side.LAN) == {Outcome.TO_HOP: 64}
        with pytest.raises(DatapathError, match='set attach = "tc"'):
            attach(wire, made, "xdp")


@pytest.mark.parametrize("mode", ["tc", "xdp"])
def test_tcp_crosses_whole(wire: Wire, bpf_object: Path, mode: str) -> None:
    """A TCP transfer through the guest arrives whole, with the hosts' offloads as they come."""
    for space, address in ((wire.lan, "10.9.0.1/24"), (wire.wan, "10.9.0.2/24")):
        netns.run("ip", "-n", space, "addr", "add", address, "dev", "eth0")
    sent = os.urandom(1 << 20)
    with appliance(wire, bpf_object, mode) as made:
        available(made)

        def listening() -> socket.socket:
            opened = socket.create_server(("10.9.0.2", 8000))
            opened.settimeout(20)
            return opened

        with netns.enter(wire.wan, listening) as server:

            def serve() -> None:
                with server.accept()[0] as connection:
                    connection.sendall(sent)

            serving = threading.Thread(target=serve)
            serving.start()
            with netns.enter(wire.lan, lambda: socket.create_connection(("10.9.0.2", 8000), timeout=20)) as client:
                got = b""
                while chunk := client.recv(1 << 16):
                    got += chunk
            serving.join()
        assert got == sent
        assert made.counters().hops["ips"].to_frames > 20


@MODES
def test_connections_of_a_failed_member_are_reset_at_both_ends(wire: Wire, bpf_object: Path, mode: str) -> None:
    """The hosts believe the resets, with their offloads as they come; a member that is back has new connections."""
    for space, address in ((wire.lan, "10.9.0.1/24"), (wire.wan, "10.9.0.2/24")):
        netns.run("ip", "-n", space, "addr", "add", address, "dev", "eth0")
    group = Group(name="g", standby=("ips", "other"), on_member_failure="reset")
    guests = (*ALL.guest, Guest(name="other"))
    config = Config(segment=(MAIN,), guest=guests, group=(group,), rule=(Rule(name="all", path=("g",)),))

    def connected(server: socket.socket) -> tuple[socket.socket, socket.socket]:
        client = netns.enter(wire.lan, lambda: socket.create_connection(("10.9.0.2", 8000), timeout=20))
        accepted = server.accept()[0]
        accepted.settimeout(20)
        for one, other in ((client, accepted), (accepted, client)):
            one.sendall(b"x" * 100)
            assert other.recv(200) == b"x" * 100
        return client, accepted

    with appliance(wire, bpf_object, mode, config) as made:
        available(made)
        with netns.enter(wire.wan, lambda: socket.create_server(("10.9.0.2", 8000))) as server:
            server.settimeout(20)
            ends = connected(server)
            made.leases.revoke("ips")
            ends[0].sendall(b"lost")
            for end in reversed(ends):  # its peer by the segment itself, and itself when it sends that again
                with pytest.raises(ConnectionResetError):
                    end.recv(1)
                end.close()
            assert outcomes(made, Side.LAN)[Outcome.RESET] >= 2
            available(made)
            for end in connected(server):
                end.close()
