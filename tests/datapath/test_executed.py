# SPDX-License-Identifier: GPL-2.0-only
"""How many instructions the datapath takes for a frame: without noise, so that a limit can be held on any machine.

The numbers follow from the compiler and from what the kernel makes of the programs, so the limits leave room for other
versions of both, a twentieth of what was measured with clang 14 and Linux 6.18.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.config.schema.model import Config, Guest, Rule, Segment
from appliance.steering.explain.backends import LOOPBACK
from appliance.steering.explain.model import Where
from appliance.steering.kernel.layout import Role, Side, slot
from appliance.system import libbpf
from tests.support.executed import Executed, executed
from tests.support.frames import KINDS, tcp
from tests.support.twin import LONGEST_PIECE, Twin

pytestmark = pytest.mark.root
LAN, BACK = Where(Role.PORT, 0, Side.LAN), Where(Role.HOP, 0, Side.WAN, 1)
MANY = tuple(Rule(name=f"r{number}", match=f"tcp dst port {40000 + number}", path=()) for number in range(64))
Make = Callable[..., Twin]


@pytest.fixture
def make(bpf_object: Path) -> Iterator[Make]:
    """A twin with these rules, and with two guests, available unless said otherwise."""
    made: list[Twin] = []

    def one(*rules: Rule, good: bool = True) -> Twin:
        guests = (Guest(name="a"), Guest(name="b"))
        twin = Twin(
            bpf_object, Config(segment=(Segment(name="main", lan="lan0", wan="wan0"),), guest=guests, rule=rules)
        )
        made.append(twin)
        twin.attach()
        twin.supervise()
        for guest in guests:
            twin.lease(guest.name, good=good)
        return twin

    yield one
    for twin in made:
        twin.close()


def begins_in(twin: Twin, where: Where) -> int:
    """The program (descriptor) in which frames from there begin in service."""
    first = twin.datapath.attached_program(slot(0, 0, where.side)) if where.role is Role.PORT else None
    return first.program if first is not None else twin.datapath.kernel.programs["entry_xdp"]


def of(twin: Twin, where: Where, frame: bytes) -> Executed:
    """What a frame takes, which is also given to the kernel before and afterwards: both must come to the same."""
    begin = begins_in(twin, where)
    for _ in range(3):  # the flow becomes known
        twin.both(where, frame)
    action, _ = twin.run_plain(begin, where, frame, "xdp")
    with twin.plain(where, frame):
        found = executed(libbpf.info(begin, libbpf.ProgramInfo()).id, frame, LOOPBACK)
    assert found.action == action
    return found


@pytest.mark.parametrize("path", [(), ("a",), ("a", "b")])
def test_the_count_follows_the_kernel(make: Make, path: tuple[str, ...]) -> None:
    """All kinds of frames, through each of the programs: the interpreter comes to the kernel's action."""
    twin = make(Rule(name="one", match="tcp port 80 or vlan", path=path), Rule(name="two", match="ip6", path=("b",)))
    seen = set()
    for frame in KINDS.values():
        if len(frame) < LONGEST_PIECE:
            for where in (LAN, BACK):
                seen.add(len(of(twin, where, frame).programs))
    assert len(seen) > 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="what the kernel inlines is another matter elsewhere")
@pytest.mark.parametrize(
    ("rules", "where", "good", "most"),
    [
        ((), LAN, True, 65),
        (MANY[:1], LAN, True, 112),
        (MANY, LAN, True, 121),
        ((Rule(name="all", path=("a",)),), LAN, True, 446),
        ((Rule(name="all", path=("a",)),), LAN, False, 385),
        ((Rule(name="all", path=("a",)),), BACK, True, 121),
        ((Rule(name="all", path=("a", "b")),), BACK, True, 699),
    ],
    ids=["straight", "one rule", "64 rules", "to a hop", "past a hop", "back", "back to the next hop"],
)
def test_no_frame_takes_more_than_it_should(
    make: Make, rules: tuple[Rule, ...], where: Where, good: bool, most: int
) -> None:
    """Known flows on the ways that most frames take; the frame's length is asked for once at most, by a call."""
    found = of(make(*rules, good=good), where, tcp())
    assert found.instructions <= most * 1.05, found
    assert found.calls["bpf_xdp_get_buff_len"] <= 1, found
