# SPDX-License-Identifier: GPL-2.0-only
"""The model is the oracle: on every kind of frame, policy and state the kernel decides as it does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.config.schema.model import Config, Group, Guest, Member, Rule, Segment, Shunts
from appliance.errors import RefusedError
from appliance.health.inband import Direction, Lane, make_nonce
from appliance.steering.explain.model import Where
from appliance.steering.kernel.layout import Outcome, Role, Side
from appliance.steering.kernel.shunted_flow import flow_of
from appliance.units import Duration
from tests.support.frames import KINDS
from tests.support.twin import Twin

pytestmark = pytest.mark.root

MAIN = Segment(name="main", lan="lan0", wan="wan0")
OTHER = Segment(name="other", lan="lan1", wan="wan1")
GUESTS = (
    Guest(name="a"),
    Guest(name="b", accept="ip or ip6"),
    Guest(name="c", accept="tcp"),
    Guest(name="d", tags=True),
    Guest(name="e"),
)
GROUPS = (
    Group(name="even", balance=(Member(hop="a", weight=50), Member(hop="b", weight=50))),
    Group(name="odd", balance=(Member(hop="c", weight=90), Member(hop="e", weight=10)), hash="2-tuple"),
    Group(name="spare", standby=("d", "e"), hold_down=Duration(3_600_000_000_000)),
)


@contextmanager
def twin(path: Path, config: Config) -> Iterator[Twin]:
    made = Twin(path, config)
    try:
        yield made
    finally:
        made.close()


def everywhere(made: Twin) -> list[Where]:
    """Every device of the appliance, and one that is not ours."""
    tags = {guest.name: guest.tags for guest in GUESTS}
    found = [Where(Role.NONE)]
    for segment in made.policy.segments.values():
        for side in Side:
            found.append(Where(Role.PORT, segment, side))
            found += [Where(Role.HOP, segment, side, hop.id, tags[hop.name]) for hop in made.policy.hops.values()]
    return found


def heartbeat(made: Twin, where: Where) -> bytes:
    """The frame that is sent through this hop."""
    name = next((hop.name for hop in made.policy.hops.values() if hop.id == where.hop), "")
    lane = Lane(where.hop, Direction(where.side ^ 1), make_nonce(made.datapath.heartbeat_key(name)))
    return lane.send(time.monotonic_ns())


CHAIN = Config(
    segment=(MAIN, OTHER),
    guest=GUESTS,
    group=GROUPS,
    rule=(
        Rule(name="web", match="tcp port 80", path=("even", "d", "odd"), segment="main"),
        Rule(name="dns", match="udp port 53", path=("even", "e"), on_unavailable="block"),
        Rule(name="plain", match="arp", path=()),
        Rule(name="vlan", match="vlan", path=("spare",)),
        Rule(name="six", match="ip6", path=("a", "b", "c"), segment="other"),
        Rule(name="rest", match="", path=("e", "a"), segment="other", on_unavailable="block"),
    ),
)


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_each_kind_of_frame_from_each_device(bpf_object: Path, kind: str) -> None:
    """Chains, groups, filters, accepts, tags, blocks: every frame of the collection from every device, all hops up."""
    with twin(bpf_object, CHAIN) as made:
        made.attach()
        made.supervise()
        made.repeats = 1
        for guest in GUESTS:
            made.lease(guest.name)
        seen = {made.both(where, frame, kind).outcome for frame in KINDS.values() for where in everywhere(made)}
        made.tables_agree()
        ours = [heartbeat(made, where) for where in everywhere(made)]
        seen |= {made.both(where, frame, kind).outcome for where in everywhere(made) for frame in ours}
    usual = {Outcome.STRAIGHT, Outcome.TO_HOP, Outcome.OUT, Outcome.HEARTBEAT, Outcome.UNKNOWN, Outcome.LINK_LOCAL}
    # A jumbo frame fits no device here: dropped by name, or blocked where a rule says so.
    assert seen == usual | {Outcome.OVERSIZE, Outcome.BLOCKED}


@pytest.mark.parametrize("kind", ["xdp", "tc"])
@pytest.mark.parametrize("length", [1517, 1518, 1519, 1600])
def test_frames_about_as_long_as_a_device_takes(bpf_object: Path, kind: str, length: int) -> None:
    """The longest frame passes, one more byte is dropped by cause, with tc as with XDP; hops are skipped for it."""
    with twin(bpf_object, CHAIN) as made:
        made.attach(longest=1518)
        made.supervise()
        for guest in GUESTS:
            made.lease(guest.name)
        long = length > 1518
        for name in ("tcp", "ip6 icmp"):
            frame = KINDS[name] + bytes(length - len(KINDS[name]))
            for where in everywhere(made):
                outcome = made.both(where, frame, kind).outcome
                if where.role is Role.PORT and where.segment == 0:
                    assert (outcome is Outcome.OVERSIZE) == long


@pytest.mark.parametrize("truncate", [14, 15, 18, 20, 33, 34, 37, 38, 41, 46, 54, 55])
def test_truncated_frames(bpf_object: Path, truncate: int) -> None:
    """However a frame is truncated, both parse the rest alike."""
    with twin(bpf_object, CHAIN) as made:
        made.attach()
        made.supervise()
        for guest in GUESTS:
            made.lease(guest.name)
        for frame in KINDS.values():
            made.both(Where(Role.PORT, 0, Side.LAN), frame[:truncate])
            made.both(Where(Role.PORT, 1, Side.WAN), frame[:truncate])


def test_without_leases_everything_is_bypassed_or_blocked(bpf_object: Path) -> None:
    """No lease, or the supervisor's deadline over: to the other port, and dropped only where a rule says block."""
    with twin(bpf_object, CHAIN) as made:
        made.attach()
        ports = [where for where in everywhere(made) if where.role is Role.PORT]
        for supervised in (False, True):
            made.supervise(None if supervised else 1)
            for guest in GUESTS:
                made.lease(guest.name, good=not supervised)
            seen = {made.both(where, frame).outcome for frame in KINDS.values() for where in ports}
            assert seen == {Outcome.STRAIGHT, Outcome.BYPASSED, Outcome.BLOCKED, Outcome.LINK_LOCAL}


def test_what_is_not_attached(bpf_object: Path) -> None:
    """A missing port is a drop by cause; a missing tap skips the hop."""
    with twin(bpf_object, CHAIN) as made:
        a = made.policy.hops["a"].id
        made.attach(without=frozenset((1, a * 32, a * 32 + 1)))
        made.supervise()
        for guest in GUESTS:
            made.lease(guest.name)
        outcomes = {made.both(where, frame).outcome for frame in KINDS.values() for where in everywhere(made)}
        assert Outcome.NO_DEVICE in outcomes


FRAMES = st.one_of(
    st.sampled_from(sorted(KINDS.values())),
    st.binary(min_size=14, max_size=120),
    st.tuples(st.sampled_from(sorted(KINDS.values())), st.integers(14, 100)).map(lambda p: p[0][: p[1]]),
    # a tag in front, which a hop with `tags` may put there
    st.tuples(
        st.sampled_from(sorted(KINDS.values())),
        st.sampled_from([0, 1, 2, 3, 4, 5, 6, 127, 128, 4000, 4001, 4002, 4003, 4004, 4095]),
    ).map(lambda p: p[0][:12] + b"\x88\xa8" + p[1].to_bytes(2, "big") + p[0][12:]),
    # the same with some byte changed
    st.tuples(st.sampled_from(sorted(KINDS.values())), st.integers(12, 59), st.integers(0, 255)).map(
        lambda p: p[0][: p[1]] + bytes([p[2]]) + p[0][p[1] + 1 :]
    ),
)
FILTERS = st.sampled_from(
    ["", "ip", "ip6", "tcp", "udp port 53", "tcp port 80", "vlan", "vlan 30 and udp", "arp", "len > 100",
     "ip[6:2] & 0x1fff != 0", "ether[0] & 1 = 1", "icmp6", "host 10.0.0.1", "net fd00::/16", "not ip",
     "tcp[13] & 2 != 0"]
)  # fmt: skip
HOPS = ["a", "b", "c", "d", "e"]
MEMBERS = {"even": {"a", "b"}, "odd": {"c", "e"}, "spare": {"d", "e"}}


@st.composite
def paths(draw: st.DrawFn) -> tuple[str, ...]:
    """Hops and groups in any order, none reached twice."""
    path: list[str] = []
    used: set[str] = set()
    for name in draw(st.lists(st.sampled_from([*HOPS, *MEMBERS]), max_size=5)):
        stands_for = MEMBERS.get(name, {name})
        if not stands_for & used:
            used |= stands_for
            path.append(name)
    return tuple(path)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Any policy over the five guests, three groups and two segments."""
    rules = tuple(
        Rule(
            name=f"r{number}",
            match=draw(FILTERS),
            path=draw(paths()),
            segment=draw(st.sampled_from(["", "main", "other"])),
            on_unavailable=draw(st.sampled_from(["bypass", "block"])),
            require=draw(st.sampled_from(["any", "any", "all"])),
            on_overload=draw(st.sampled_from(["auto", "bypass-excess", "block-excess", "bypass-all"])),
            keep_shunts=draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 6)))
    )
    accepts = [draw(st.sampled_from(["", "", "ip", "tcp", "not arp"])) for _ in GUESTS]
    guests = tuple(
        Guest(name=guest.name, accept=accept, tags=guest.tags, shunts=Shunts(max=draw(st.sampled_from([0, 0, 2, 100]))))
        for guest, accept in zip(GUESTS, accepts, strict=True)
    )
    main = msgspec.structs.replace(MAIN, link_local=draw(st.sampled_from(["straight", "rules"])))
    other = msgspec.structs.replace(OTHER, dry_run=draw(st.sampled_from([False, False, True])))
    return Config(segment=(main, other), guest=guests, group=GROUPS, rule=rules)


GATES = st.sampled_from([None, None, None, "open", "full"])  # at the LAN and at the WAN
STATES = st.fixed_dictionaries(
    {
        name: st.tuples(st.booleans(), st.booleans(), st.sampled_from([False, False, True]), GATES, GATES)
        for name in HOPS
    }
)
SHUNTING = st.sampled_from([False, False, True])
State = dict[str, tuple[bool, bool, bool, str | None, str | None]]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    config=configs(),
    states=st.lists(STATES, min_size=1, max_size=3),
    frames=st.lists(FRAMES, min_size=5, max_size=40),
    kind=st.sampled_from(["xdp", "tc"]),
    data=st.data(),
)
def test_random_policies_states_and_frames(
    bpf_object: Path, config: Config, states: list[State], frames: list[bytes], *,
    kind: str, data: st.DataObject,
) -> None:  # fmt: skip
    """Any policy, hops up, down, held, draining and overloaded, any frame from any device: kernel and model agree."""
    with twin(bpf_object, config) as made:
        made.attach()
        made.supervise()
        made.repeats = 2  # the first of them may only bring calm to the flow
        devices = everywhere(made)
        for state in states:
            for name, (good, recovered, draining, *gates) in state.items():
                for side, gate in zip(Side, gates, strict=True):
                    made.gate(name, side, 1 if gate else 0, full=gate == "full")
                made.lease(
                    name,
                    good=good,
                    recovered=made.state.supervisor_until - 10**12 if recovered else 0,
                    draining=draining,
                )
            for frame in frames:
                where = data.draw(st.sampled_from(devices))
                direction = where.side if where.role is Role.PORT else Side(where.side ^ 1)
                flow = flow_of(frame, where.segment, direction)
                if flow is not None and data.draw(SHUNTING):
                    with suppress(RefusedError):
                        made.shunt(
                            data.draw(st.sampled_from(HOPS)), flow, directions=data.draw(st.sampled_from([1, 2, 3]))
                        )
                made.both(where, frame, kind)
        made.tables_agree()
