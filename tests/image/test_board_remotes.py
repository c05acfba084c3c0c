# SPDX-License-Identifier: GPL-2.0-only
"""Remotes on the booted board, whose kernel has every kind of tunnel: traffic of the link through each of them.

The far end is a network namespace on the board that runs none of our code (tests/support/far_end.py), at a cable of its
own to the namespace of the management port:

    lan host ══ lan0  board  wan0 ══ wan host
                tr1.0l, tr1.0w
    mgmt: up0 ══ up1  far: two tunnels and a bridge
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from simulator import Board
from simulator.download import Download

from tests.support import board_appliance, far_end
from tests.support.board_admin import commit
from tests.support.board_appliance import GUEST
from tests.support.far_end import FAR4, FAR6, KINDS, OUR4, OUR6, SECOND4, SECOND6

SIZE = 1 << 19
"""Of a download, in bytes."""
RATE = 200_000
"""Of a download, in bytes a second at the reference speed: what an emulated processor encrypts with time to spare."""
MANAGEMENT = {
    "address": "10.88.0.2/24",
    "gateway": "10.88.0.1",
    "address6": "fd88::2/64",
    "gateway6": "fd88::1",
    "mtu": str(far_end.UNDERLAY_MTU),
}
MTU = far_end.UNDERLAY_MTU
CABLE = f"""\
set -e
ip netns add far
ip -n far link set lo up
ip -n mgmt link add up0 mtu {MTU} type veth peer name up1 mtu {MTU} netns far
nsenter --net=/run/netns/mgmt sh -c 'echo 0 >/proc/sys/net/ipv6/conf/up0/disable_ipv6'
ip -n mgmt address add {OUR4}/24 dev up0
ip -n mgmt address add {OUR6}/64 dev up0 nodad
ip -n far address add {FAR4}/24 dev up1
ip -n far address add {FAR6}/64 dev up1 nodad
ip -n far address add {SECOND4}/24 dev up1
ip -n far address add {SECOND6}/64 dev up1 nodad preferred_lft 0
ip -n mgmt link set up0 up
ip -n far link set up1 up
"""
QUICK = ("gre4", "gre6", "gre-ip4", "fou4", "geneve6")
"""Kinds that every run tries: each way in which their devices differ."""
Change = tuple[str, ...]
ARP = 20
"""More frames than the hosts exchange to find each other."""


REPLAY = f"""
import socket, struct
frame = bytes.fromhex('ffffffffffff02000000000a88b6') + bytes(46)
body = struct.pack('!II', {far_end.LAN_KEY}, 0) + frame  # key, and a sequence number that is long past
head = struct.pack('!HH', 0xb000, 0x6558)
words = struct.unpack(f'!{{(len(head) + 4 + len(body)) // 2}}H', head + bytes(4) + body)
total = sum(words)
while total >> 16:
    total = (total & 0xffff) + (total >> 16)
packet = head + struct.pack('!HH', ~total & 0xffff, 0) + body
opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, 47)
opened.bind(('{FAR4}', 0))
for _ in range(5):
    opened.sendto(packet, ('{OUR4}', 0))
"""
"""Five packets of GRE for the LAN side's tunnel, right in everything but their number."""


def join(board: Board, kind: str, ends: tuple[str, str] | None = None) -> None:
    """Make the far end's tunnels anew."""
    part = [f"ip link delete {name}" for name in far_end.DEVICES]
    made = [shlex.join(words) for words in far_end.joined(kind, ends=ends)]
    before = f"(set +e; {'; '.join((*part, *map(shlex.join, far_end.opened(kind))))}) 2>/dev/null || true"
    in_far(board, [before, "set -x", *made])  # so that it is known what failed


def in_far(board: Board, lines: Sequence[str]) -> str:
    """Run lines of a shell in the far end's namespace."""
    return board.sh(f"nsenter --net=/run/netns/far sh -ec {shlex.quote('; '.join(lines))}").output.strip()


def tunnel(board: Board, kind: str, words: dict[str, str | bool], *more: Change) -> None:
    """Commit a remote with this tunnel in place of the one that is there, and send everything to it."""
    made = {**words, **far_end.keys(kind)}
    there = [("delete", "remote", "dpi")] if remote(board) else []
    text = {True: "true", False: "false"}
    commit(
        board,
        *there,
        *(("set", "remote", "dpi", "tunnel", key, text.get(value, str(value))) for key, value in made.items()),  # type: ignore[call-overload]
        ("set", "remote", "dpi", "probes", "1", "kind", "inband"),
        ("set", "remote", "dpi", "probes", "1", "misses", "30"),
        *more,
        ("set", "rule", "all", "path", "dpi"),
    )


def remote(board: Board) -> dict[str, Any]:
    rows = board_appliance.show(board, "remotes") or []
    if not any(row["name"] == "dpi" for row in rows):
        return {}
    return dict(board_appliance.show(board, "remote dpi") or {})


def moves(board: Board) -> list[str]:
    """The states that the remote has had."""
    return [row["to"] for row in board_appliance.show(board, "transitions 0") if row["what"] == "remote dpi"]


def reach(board: Board, state: str) -> None:
    board_appliance.wait_until(board, lambda: remote(board).get("state") == state, f"the remote is {state}")


def download_through(board: Board, *, ip: bool = False) -> None:
    """A download, all of whose frames go through the remote; the hosts' ARP with them, unless its tunnels carry IP."""
    before = board_appliance.show(board, "counters")
    since = len(moves(board))
    result = Download(board.lan, board.wan, SIZE, rate=round(RATE / board.pace.stretch)).wait(board.pace.wait(120))
    assert result.whole, result.error
    after = board_appliance.show(board, "counters")
    taps = after["hops"]["dpi"]["taps"]
    old = before["hops"]["dpi"]["taps"]
    out = {side: taps[side]["outcomes"]["out"]["bytes"] - old[side]["outcomes"].get("out", {}).get("bytes", 0)
           for side in ("main/lan", "main/wan")}  # fmt: skip
    # On a board that is emulated and busy it may be overloaded for a moment: the excess crosses the link beside it.
    overloaded = "overloaded" in moves(board)[since:]
    assert out["main/lan"] > (SIZE // 2 if overloaded else SIZE)
    assert out["main/wan"] > 0
    beside = after["rules"]["all"]["bypassed"] - before["rules"]["all"]["bypassed"]
    assert overloaded or beside == 0 or (ip and beside < ARP)


@pytest.fixture(scope="module")
def underlay(booted: Board) -> Iterator[Board]:
    """The management port with an address, and the far end's namespace with a cable to it."""
    board_appliance.wait_until(booted, lambda: board_appliance.part_runs(booted, "guests"), "the guests part")
    commit(booted, *(("set", "management", key, value) for key, value in MANAGEMENT.items()))
    board_appliance.wait_until(booted, lambda: booted.sh("ip netns", check=False).output, "the management port")
    booted.sh(CABLE)
    try:
        yield booted
    finally:
        if booted.qemu_pid is not None:  # these were not the last tests of the board
            back = [("set", "rule", "all", "path", GUEST), *([("delete", "remote", "dpi")] if remote(booted) else [])]
            commit(booted, *back, *(("delete", "management", key) for key in MANAGEMENT))
            booted.sh("ip -n mgmt link delete up0; ip netns delete far", check=False)


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in far_end.NETWORKED]
)
def test_a_download_goes_through_the_remote_whole(board: Board, underlay: Board, kind: str) -> None:
    """Full-size frames there and back by each kind of tunnel, and none beside the remote."""
    join(board, kind)
    tunnel(board, kind, KINDS[kind].tunnel)
    reach(board, "available")
    download_through(board, ip=far_end.carries_ip(kind))
    shown = remote(board)
    assert (shown["state"], shown["way"]) == ("available", "up")
    if not KINDS[kind].tunnel.get("sequence"):  # of which a packet may overtake another between two processors
        assert {side["side"]: side["refused"] for side in shown["tunnels"]} == {"lan": 0, "wan": 0}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vxlan4", "geneve4", "gre4", "gre6"])
def test_a_download_goes_by_xdp_whole(board: Board, underlay: Board, kind: str) -> None:
    """XDP puts the headers on, and plain tunnels of the kernel take them off."""
    join(board, kind)
    # A veth takes frames from XDP while its other end has a program, as the driver of a port does at any time.
    in_far(board, ["ip -force link set up1 xdpdrv pinned /sys/fs/bpf/bypass/programs/pass_xdp"])
    try:
        tunnel(board, kind, {**KINDS[kind].tunnel, "way": "xdp"})
        reach(board, "available")
        assert remote(board)["by"] == "xdp"
        download_through(board)
        shown = remote(board)
        assert (shown["state"], shown["way"]) == ("available", "up")
        for side in shown["encapsulated"]:
            assert (side["by_xdp"] > 0, side["lost"]) == (True, 0)
            assert side["by_kernel"].keys() <= {"confirm_neighbour", "neighbour"}
        assert {side["side"]: side["refused"] for side in shown["tunnels"]} == {"lan": 0, "wan": 0}
    finally:
        in_far(board, ["ip link set up1 xdpdrv off"])


def test_a_download_is_whole_over_a_way_that_loses_packets(board: Board, underlay: Board) -> None:
    """One packet in twenty each way is lost, others come late: the remote keeps its traffic, or the excess of it."""
    join(board, "geneve4")
    tunnel(board, "geneve4", KINDS["geneve4"].tunnel)
    reach(board, "available")
    since = len(moves(board))
    loss = "netem loss 5% delay 10ms 4ms"
    board.sh(f"tc -n far qdisc add dev up1 root {loss} && tc -n mgmt qdisc add dev up0 root {loss}")
    try:
        before = remote(board)["tunnels"][0]["counters"]["rx_packets"]
        result = Download(board.lan, board.wan, SIZE // 2).wait(board.pace.wait(240))
        assert result.whole, result.error
        assert remote(board)["tunnels"][0]["counters"]["rx_packets"] > before
        assert set(moves(board)[since:]) <= {"overloaded", "available"}
    finally:
        board.sh("tc -n far qdisc delete dev up1 root; tc -n mgmt qdisc delete dev up0 root")


@pytest.mark.slow
def test_a_replayed_packet_is_dropped_and_counted(board: Board, underlay: Board) -> None:
    """GRE with sequence numbers: a packet with one that was there before does not get out of the tunnel."""
    join(board, "gre4-options")
    tunnel(board, "gre4-options", KINDS["gre4-options"].tunnel)
    reach(board, "available")

    def counted() -> int:
        return int(remote(board)["tunnels"][0]["counters"]["rx_fifo_errors"])

    before, refused = counted(), remote(board)["tunnels"][0]["refused"]
    board.sh(f"nsenter --net=/run/netns/far python3 -c {shlex.quote(REPLAY)}")
    board_appliance.wait_until(board, lambda: counted() >= before + 5, "they are counted")
    assert remote(board)["tunnels"][0]["refused"] >= refused + 5
    assert remote(board)["state"] == "available"


@pytest.mark.slow
def test_vlans_on_a_port_of_their_own(board: Board, underlay: Board) -> None:
    """The port's MTU is raised for full-size frames; a lost link is named."""
    mac = "02:00:00:00:0a:01"
    board.sh(f"ip link add spare0 address {mac} type veth peer name {far_end.SPARE} netns far")
    in_far(board, [f"ip link set {far_end.SPARE} mtu 1504 up"])
    port = f'\n[[port]]\nname = "spare0"\nmac = "{mac}"\n'
    changed = board_appliance.replaced(
        board, board_appliance.BOARD_TOML, lambda text: text + port, board_appliance.restart_bypassd
    )
    try:
        with changed:
            board_appliance.wait_until(board, lambda: board_appliance.part_runs(board, "remotes"), "the remotes part")
            join(board, "vlan")
            tunnel(board, "vlan", KINDS["vlan"].tunnel)
            reach(board, "available")
            download_through(board)
            shown = remote(board)
            assert (shown["far"], shown["device"], shown["path_mtu"]) == ("spare0", "spare0", 1504)
            assert [side["mtu"] for side in shown["tunnels"]] == [1500, 1500]
            in_far(board, [f"ip link set {far_end.SPARE} down"])
            board_appliance.wait_until(board, lambda: remote(board)["way"] == "spare0 has no link", "it is named")
            assert (remote(board)["state"], remote(board)["cause"]) == ("suspect", "tunnel_down")
            in_far(board, [f"ip link set {far_end.SPARE} up"])
            reach(board, "available")
            commit(board, ("set", "rule", "all", "path", GUEST), ("delete", "remote", "dpi"))
            gone = "ip -o link show type vlan"
            board_appliance.wait_until(board, lambda: not board.sh(gone).output, "its VLANs are gone")
    finally:
        board.sh("ip link delete spare0", check=False)


def test_wireguard_below_a_tunnel(board: Board, underlay: Board) -> None:
    """Nothing gets through until the far end knows our key, and it is said why; then a download, all of it encrypted.

    Nothing of the appliance listens inside, and a restart of bypassd goes on with the same device.
    """
    theirs = in_far(
        board, ["umask 077", "wg genkey >/run/far.key", "wg genkey >/run/other.key", "wg pubkey </run/far.key"]
    )
    other = in_far(board, ["wg pubkey </run/other.key"])
    near, ours = far_end.INSIDE
    join(board, "vxlan4", far_end.INSIDE)
    in_far(board, far_end.secured(other, "/run/far.key"))
    below = {"peer": FAR4, "public_key": theirs, "address": ours}
    tunnel(
        board,
        "vxlan4",
        {"kind": "vxlan", "remote": near},
        *(("set", "remote", "dpi", "tunnel", "wireguard", key, value) for key, value in below.items()),
    )
    board_appliance.wait_until(
        board, lambda: "no WireGuard handshake" in remote(board).get("way", ""), "the way is blamed"
    )
    assert remote(board)["state"] != "available"
    in_far(board, [f"wg set wg0 peer {other} remove",
                   f"wg set wg0 peer {remote(board)['wireguard']['public_key']} allowed-ips {ours}/32"])  # fmt: skip
    reach(board, "available")
    clear = "protocol ip flower ip_proto udp dst_port 4789 action drop"
    in_far(board, ["tc qdisc add dev up1 clsact", f"tc filter add dev up1 ingress pref 1 {clear}"])
    download_through(board)
    shown = remote(board)
    assert shown["secured"] == "WireGuard"
    board_appliance.wait_until(
        board,
        lambda: min(remote(board)["wireguard"][key] for key in ("sent_bytes", "received_bytes")) > SIZE,
        "all of it went through WireGuard",
    )
    assert in_far(board, ["tc -s filter show dev up1 ingress | grep -c 'Sent 0 bytes'"]) == "1", "sent in the clear"
    name = f"wg{shown['hop']}"
    listening = board.sh(f"nsenter --net=/run/netns/{name} ss -Htuln").output.splitlines()
    assert {line.split()[4].rsplit(":", 1)[1] for line in listening} == {"4789"}, "the kernel's, for the tunnel, alone"
    index = f"ip -n {name} -o link show {name} | cut -d: -f1"
    before = board.sh(index).output
    board_appliance.restart_bypassd(board)
    reach(board, "available")
    assert board.sh(index).output == before
    download_through(board)
    commit(board, ("set", "rule", "all", "path", GUEST), ("delete", "remote", "dpi"))
    board_appliance.wait_until(board, lambda: not board.sh(f"ip netns | grep {name}", check=False).output, "it is gone")
    in_far(board, ["tc qdisc delete dev up1 clsact", "ip link delete wg0"])
