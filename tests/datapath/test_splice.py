# SPDX-License-Identifier: GPL-2.0-only
"""The filters inside the core's program: used if they are one program, equal to the slow path, left if necessary."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from boardspec import REPO

from appliance.config.schema.model import Config, Guest, Rule, Segment
from appliance.errors import DatapathError
from appliance.filter import compiler as pcap
from appliance.filter import loader
from appliance.steering.datapath import Datapath
from appliance.steering.explain.model import Where
from appliance.steering.kernel import layout, splice
from appliance.steering.kernel.copies import Point
from appliance.steering.kernel.layout import CopyWay, Outcome, Role, Side, slot
from appliance.system import libbpf
from tests.support.frames import KINDS, tcp, udp
from tests.support.pcap_corpus import rule_set
from tests.support.twin import Twin
from tests.support.wire import Wire
from tests.support.wired_datapath import EMPTY, MAIN, MODES, appliance

pytestmark = pytest.mark.root
PORT = Where(Role.PORT, 0, Side.LAN)


def config(*matches: str, path: tuple[str, ...] = ()) -> Config:
    rules = tuple(Rule(name=f"r{number}", match=match, path=path) for number, match in enumerate(matches))
    return Config(segment=(Segment(name="main", lan="lan0", wan="wan0"),), guest=(Guest(name="a"),), rule=rules)


@pytest.fixture
def twin(bpf_object: Path) -> Iterator[Twin]:
    made = Twin(bpf_object, config("udp port 53", "tcp"))
    made.attach(longest=9018)
    yield made
    made.close()


def joined(twin: Twin) -> set[bool]:
    return {row.joined for row in twin.datapath.compiled()}


def test_usual_sets_are_joined(twin: Twin) -> None:
    """Few rules, many rules, in even and odd generations: one program each, with the counters of the long way.

    (`both` sends what goes straight once more by the short way.)
    """
    for matches in (["tcp"], rule_set("mixed", 200), rule_set("mixed, 12 % odd", 64), ["udp"]):
        twin.configure(config(*matches))
        assert joined(twin) == {True}
        for kind in ("xdp", "tc"):
            seen = {twin.both(PORT, frame, kind).rule for frame in KINDS.values()}
        assert len(matches) > 1 or seen == {None, 0}


def test_ports_that_are_missing_or_too_small(twin: Twin) -> None:
    """The short way drops by name, as the long one does."""
    twin.attach(longest=1000)
    assert twin.both(PORT, KINDS["full size"]).outcome is Outcome.OVERSIZE
    twin.datapath.kernel.maps["tx"].delete(1)
    twin.datapath.kernel.maps["targets"].set(1, layout.TargetValue())
    del twin.state.longest[1]
    for kind in ("xdp", "tc"):
        assert twin.both(PORT, tcp(), kind).outcome is Outcome.NO_DEVICE


def test_frames_in_pieces_go_the_long_way(twin: Twin) -> None:
    """A byte beyond the frame's first piece: the joined program hands the frame to those that read it by a helper."""
    twin.configure(config("ether[5000:2] = 0x7a7a", "ether[8000] = 0x79", "udp"))
    assert joined(twin) == {True}
    assert twin.both(PORT, KINDS["jumbo"]).rule == 0
    assert twin.both(PORT, udp()).rule == 2


@MODES
def test_tags_beside_the_frame(wire: Wire, bpf_object: Path, mode: str) -> None:
    """Tagged frames on the wire: at tc the tag stands beside the frame, and the rules see it all the same."""
    rules = (Rule(name="thirty", match="vlan 30"), Rule(name="tagged", match="vlan"), Rule(name="rest", match=""))
    with appliance(wire, bpf_object, mode, Config(segment=(MAIN,), rule=rules)) as made:
        for tag in (b"\x81\x00\x00\x1e", b"\x81\x00\x00\x1f", b"\x81\x00\x00\x1e", b""):
            wire.send(wire.sent, vlan=tag)
        assert wire.stream(32) == []  # frames keep their order: those before are through
        frames = {name: rule.frames for name, rule in made.counters().rules.items()}
        assert frames == {"thirty": 2, "tagged": 1, "rest": 1 + 64}
        assert made.counters().ports["main", Side.LAN].frames[Outcome.STRAIGHT] == 4 + 32


@pytest.mark.parametrize("config", [EMPTY, Config(segment=(MAIN,), rule=(Rule(name="r", match="udp"),))])
def test_each_port_has_a_program_of_its_own(wire: Wire, bpf_object: Path, config: Config) -> None:
    """It handles frames as long as nothing but their counters is needed, up to what the other port can send."""

    def allowed(made: Datapath) -> list[int]:
        return [made.kernel.own_ways.read(0, slot(0, 0, side)) for side in Side]

    with appliance(wire, bpf_object, "xdp", config) as made:
        ports = [one for one in made.attachments() if not one.hop]
        programs = {made.begins_in(port) for port in ports}
        entry = libbpf.info(made.kernel.programs["entry_xdp"], libbpf.ProgramInfo()).id
        assert len(programs) == 2
        assert entry not in programs
        assert allowed(made) == [port.device.longest for port in reversed(ports)]
        sink, ring = made.copies.begin({Point(slot(0, 0, Side.LAN), CopyWay.IN)}, (), 64)
        assert allowed(made)[0] == 0
        assert wire.stream(16) == []
        made.copies.end(sink)
        os.close(ring)
        assert allowed(made) == [port.device.longest for port in reversed(ports)]
        assert wire.stream(16) == []
        wire.inside(lambda: made.attach_segment("main", "lan0", "wan0", "xdp", whole=True, mtu=9000))
        assert {made.begins_in(port) for port in ports} == {entry}, "their frames may be in several buffers"
        assert allowed(made) == [0, 0]
        assert wire.stream(16) == []
        made.set_policy(config)
        assert len({made.begins_in(port) for port in ports} - {entry}) == 1, "one for both, which knows such frames"
        assert wire.stream(16) == []
        made.detach_segment("main")
        assert allowed(made) == [0, 0]


def test_many_segments_with_the_same_rules_share_a_program(bpf_object: Path) -> None:
    """Because each program is verified by itself, and bypassd starts only afterwards."""
    segments = tuple(Segment(name=f"s{n}", lan=f"l{n}", wan=f"w{n}") for n in range(3))
    with closing(Datapath.open(bpf_object)) as made:
        for count in (2, 3):
            made.set_policy(Config(segment=segments[:count], rule=(Rule(name="r", match="udp"),)))
            found = [made.attached_program(place) for place in range(2 * count)]
            assert len({one.program for one in found if one is not None}) == (4 if count == 2 else 1)
            assert [one is not None and one.own for one in found] == [count == 2] * 2 * count


def test_left_apart_where_the_kernel_refuses(bpf_object: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without calls inside programs, or a set that grows too big by it: filters and core stay apart."""
    real = loader.load_program

    def refuse(program: pcap.LoadableProgram, *args: object, **more: object) -> int:
        if program.name in ("decide", "attached"):
            raise DatapathError("function calls are not allowed")
        return real(program, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(loader, "load_program", refuse)
    apart = Twin(bpf_object, config("udp port 53", "tcp"))
    apart.attach()
    assert joined(apart) == {False}
    for kind in ("xdp", "tc"):
        for frame in KINDS.values():
            apart.both(PORT, frame, kind)
    monkeypatch.undo()
    apart.configure(config("tcp"))
    assert joined(apart) == {True}
    assert apart.both(PORT, tcp()).rule == 0
    apart.configure(config("udp"))
    assert apart.both(PORT, tcp()).rule is None
    apart.close()


def test_an_object_file_that_is_none(tmp_path: Path) -> None:
    """A file that is not an object file, or not ours, is reported."""
    for content in (b"", b"\x7fELF\x02\x01", (REPO / "README.md").read_bytes()):
        (tmp_path / "x.o").write_bytes(content)
        with pytest.raises(DatapathError, match="not the compiled datapath"):
            splice.read(tmp_path / "x.o", frozenset(("decide_xdp",)))
