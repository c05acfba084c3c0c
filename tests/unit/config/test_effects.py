# SPDX-License-Identifier: GPL-2.0-only
"""The table of keys agrees with the code: when a change takes effect, for every key of the data path."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from appliance.access import ssh
from appliance.access.accounts import Texts, shut, texts
from appliance.config.check.load import check
from appliance.config.edit.completion import complete
from appliance.config.schema import metadata, model, shape
from appliance.config.schema.metadata import Effect
from appliance.config.schema.shape import Leaf, Table, Tables
from appliance.guest.qemu import cgroup, resources
from appliance.health.verdict import History
from appliance.health.watch import Watch
from appliance.management.network import Seen, commands
from appliance.paths import Paths
from appliance.segment.manager import Segments
from appliance.steering.names import Names
from appliance.steering.part import Steering
from appliance.steering.policy import compile_policy
from appliance.steering.policy_tables import write_policy
from appliance.units import Duration, Size

GUESTS = tuple(
    model.Guest(name=name, image=f"{name}.raw", shunts=model.Shunts(max=9 * (name == "c")))
    for name in ("a", "b", "c", "d")
)
CONFIG = model.Config(
    segment=(model.Segment(name="main", lan="lan0", wan="wan0"), model.Segment(name="side", lan="lan1", wan="wan1")),
    guest=GUESTS,
    group=(
        model.Group(name="shared", balance=(model.Member(hop="a"), model.Member(hop="b", weight=2))),
        model.Group(name="spare", standby=("a", "b")),
    ),
    rule=(
        model.Rule(name="one", path=("shared", "c"), match="tcp"),
        model.Rule(name="two", path=("spare",), match="udp"),
    ),
)
OTHER: dict[str, list[Any]] = {  # values for keys that name or count something else in the configuration
    "guest.image": ["c.raw"],
    "guest.kernel": ["kernel"],
    "guest.initrd": ["initrd"],
    "guest.disks": [(model.Disk(image="d.raw"),)],
    "guest.pin": [(0,)],
    "guest.after": [("c",)],
    "guest.heartbeat": [model.Heartbeat()],
    "guest.probes": [(model.Probe(kind="inband"),)],
    "guest.quarantine": [model.Quarantine()],
    "guest.accept": ["ip"],
    "guest.management": ["isolated"],
    "group.balance": [(model.Member(hop="a"), model.Member(hop="b", weight=9))],
    "group.standby": [("b", "a")],
    "group.spare": [("d",)],
    "group.minimum": [2],
    "rule.segment": ["side"],
    "rule.match": ["icmp"],
    "rule.path": [("c",)],
}


def others(node: shape.Node, value: Any) -> list[Any]:
    """Other values of a key."""
    if node.path in OTHER:
        return OTHER[node.path]
    if isinstance(node, Table):
        found = []
        for key, child in node.keys.items():
            found += [msgspec.structs.replace(value, **{key: other}) for other in others(child, getattr(value, key))]
        return found
    assert isinstance(node, Leaf), node.path
    if node.choices and node.kind is not bool:
        return [choice for choice in node.choices if choice != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, Duration | Size):
        return [type(value)(value * 2 + 10**9)]
    return [value + 1] if isinstance(value, int) else [f"{value}x"]


def variants(table: str) -> list[tuple[str, shape.Node]]:
    """Every key of a table's items but the name, which is another item."""
    return [(key, node) for key, node in shape.tables(table).item.keys.items() if key != "name"]


class Recorded:
    """A map of the datapath that only remembers."""

    def __init__(self) -> None:
        self.values: dict[Any, bytes] = {}

    def set(self, key: Any, value: Any) -> None:
        self.values[key] = bytes(value)

    def set_all(self, values: dict[Any, Any]) -> None:
        for key, value in values.items():
            self.set(key, value)


def steering(config: model.Config) -> object:
    """Everything that one atomic switch puts into the kernel: tables and filters."""
    policy = compile_policy(config, Names())
    maps: dict[str, Any] = {
        name: Recorded() for name in ("rules", "segments", "hops", "groups", "buckets", "continuations")
    }
    write_policy(maps, policy, 0)
    filters = [rule.match for rule in policy.rules], policy.accepts
    return {name: recorded.values for name, recorded in maps.items()}, filters


def changed(config: model.Config, table: str, key: str, value: Any, index: int) -> model.Config:
    items = list(getattr(config, table))
    items[index] = msgspec.structs.replace(items[index], **{key: value})
    return msgspec.structs.replace(config, **{table: tuple(items)})


@pytest.mark.parametrize("table", ["segment", "guest", "group", "rule"])
def test_hitless_keys_are_those_of_the_policy(table: str) -> None:
    """A key is announced as hitless exactly when it changes what the switch of the policy writes."""
    before = steering(CONFIG)
    moved = set()
    for key, node in variants(table):
        for index, item in enumerate(getattr(CONFIG, table)):
            if table == "group" and key in ("balance", "standby", "hold_down") and not getattr(item, key):
                continue
            if table == "group" and key == "spare" and not item.balance:
                continue
            for other in others(node, getattr(item, key)):
                if steering(changed(CONFIG, table, key, other, index)) != before:
                    moved.add(key)
    bytes_kept = {"recorder"} if table == "guest" else set()  # how many bytes is the recorder's own table
    assert moved | bytes_kept == set(metadata.keys_of(table, Effect.POLICY))


def test_keys_that_need_a_restart_are_those_of_the_process(tmp_path: Path) -> None:
    """A key is announced as waiting for a restart exactly when QEMU is started with it."""
    paths = Paths(root=tmp_path)
    paths.images.mkdir(parents=True)
    for name in ("a.raw", "c.raw", "d.raw", "kernel", "initrd"):
        (paths.images / name).write_bytes(bytes(1 << 16))

    def process(guest: model.Guest) -> object:
        seen = Reads(guest)
        machine = resources.machine_of(seen, paths, 1, 1, "tcg", management=guest.management)  # type: ignore[arg-type]
        return machine, cgroup.settings(guest), guest.accel, guest.pin, guest.queue_pin, guest.management_mac

    guest = GUESTS[0]
    moved = set()
    for key, node in variants("guest"):
        for other in others(node, getattr(guest, key)):
            start = msgspec.structs.replace(guest, kernel="kernel") if key in ("initrd", "cmdline") else guest
            try:
                after = process(msgspec.structs.replace(start, **{key: other}))
            except Exception:  # it asks for firmware or devices that are not here: it was looked at
                moved.add(key)
                continue
            if after != process(start):
                moved.add(key)
    assert moved == set(metadata.keys_of("guest", Effect.PROCESS))


class Reads:
    """A guest that remembers which of its keys were read."""

    def __init__(self, guest: model.Guest) -> None:
        self._guest, self.keys = guest, set[str]()

    def __getattr__(self, key: str) -> Any:
        self.keys.add(key)
        return getattr(self._guest, key)


def test_keys_of_the_checks_are_those_that_the_checks_read(tmp_path: Path) -> None:
    """`hold` is one of them: it counts for a running guest at once, as its heartbeat and its probes do."""
    guest = Reads(GUESTS[0])
    Watch(guest, 1, (), 7, history=History(), subject=None, folder=tmp_path)  # type: ignore[arg-type]
    assert guest.keys - {"name"} == set(metadata.keys_of("guest", Effect.CHECKS)) == {
        "heartbeat", "probes", "hold", "dry_run",
    }  # fmt: skip


class Attaching:
    """A datapath that remembers which segments were attached."""

    generation = 1

    def __init__(self) -> None:
        self.attached: list[str] = []

    def switch_policy(self, prepared: object) -> None:
        """Nothing to switch."""

    def detach_segment(self, name: str) -> None:
        """Nothing was attached."""

    def attach_segment(self, name: str, *_: object, **__: object) -> list[Any]:
        self.attached.append(name)
        return [SimpleNamespace(mode="xdp", reason="")]


def test_keys_that_touch_the_ports_are_announced_so(tmp_path: Path) -> None:
    """A segment's relay closes, or its ports are reattached, exactly for the keys that say so."""
    closes, attaches = set(), set()
    segment = CONFIG.segment[0]
    for key, node in variants("segment"):
        for other in others(node, getattr(segment, key)):
            new = changed(CONFIG, "segment", key, other, 0)
            unit = SimpleNamespace(config=segment, machine=SimpleNamespace(state="inline"), relay="relay")
            manager = SimpleNamespace(
                units={"main": unit}, _links=SimpleNamespace(downed=()), _transitions=SimpleNamespace(record=print)
            )
            if Segments.leave(manager, new.segment):  # type: ignore[arg-type]
                closes.add(key)
            port = SimpleNamespace(ifindex=1, ifname="x")
            links: Any = SimpleNamespace(ports={"lan0": port, "wan0": port})
            part = Steering(CONFIG, links, tmp_path, tmp_path, tmp_path)
            datapath: Any = Attaching()
            part.datapath, part._prepared = datapath, SimpleNamespace(generation=2)  # type: ignore[assignment]
            part._attached["main"] = (1, 1)
            asyncio.run(part.apply(new))
            if datapath.attached:
                attaches.add(key)
    assert closes == set(metadata.keys_of("segment", Effect.PORTS))
    assert attaches - closes == set(metadata.keys_of("segment", Effect.ATTACH))


MANAGEMENT = model.Management(
    address="192.0.2.10/24", gateway="192.0.2.1", address6="2001:db8::10/64", gateway6="2001:db8::1"
)
OTHER_MANAGEMENT = {
    "address": ["192.0.2.11/24", "dhcp", ""],
    "address6": ["2001:db8::11/64", ""],
    "gateway": ["192.0.2.2", ""],
    "gateway6": ["2001:db8::2", ""],
}


def test_keys_of_the_management_port_are_announced_as_they_count(tmp_path: Path) -> None:
    """A session through an address ends exactly where the address goes; SSH starts anew for new sessions only."""
    users = (model.User(name="mia", role="admin", keys=("ssh-ed25519 AAAA",)),)
    seen = Seen(True, True, True, "", (MANAGEMENT.address, MANAGEMENT.address6), ("192.0.2.1", "2001:db8::1"))

    def cut(management: model.Management) -> bool:
        made = commands(management, "mgmt0", seen)
        leased = management.address == "dhcp"  # by the DHCP client, which puts its own in the place of all
        return leased or any(("del" in words and "address" in words) or "flush" in words for words in made)

    def server(management: model.Management) -> list[str]:
        return ssh.command(management, users, [], tmp_path)

    node = shape.ROOT.keys["management"]
    assert isinstance(node, Table)
    assert not cut(MANAGEMENT)
    ends, restarts = set(), set()
    for key, child in node.keys.items():
        for other in OTHER_MANAGEMENT.get(key) or others(child, getattr(MANAGEMENT, key)):
            new = msgspec.structs.replace(MANAGEMENT, **{key: other})
            if cut(new):
                ends.add(key)
            if server(new) != server(MANAGEMENT):
                restarts.add(key)
    # another port has none of the addresses of this one
    assert ends | {"port"} == set(metadata.keys_of("management", Effect.ADDRESS))
    assert restarts == set(metadata.keys_of("management", Effect.SESSION))


def test_keys_of_users_are_announced_as_they_count() -> None:
    """Sessions end for another role; a password or a key counts at the next login, and lies in files until then."""
    user = model.User(name="mia", password="$y$a", keys=("ssh-ed25519 AAAA",))
    ends, moved = set(), set()
    for key, node in variants("user"):
        for other in others(node, getattr(user, key)) if key != "keys" else [("ssh-ed25519 BBBB",)]:
            new = msgspec.structs.replace(user, **{key: other})
            ends |= {key} if shut([user], [new]) else set()
            files = [texts(Texts("", "", ""), [each], {"mia": 5000}) for each in (user, new)]
            moved |= {key} if files[0] != files[1] or user.keys != new.keys else set()
    assert ends == set(metadata.keys_of("user", Effect.SESSIONS_END))
    assert moved - ends == set(metadata.keys_of("user", Effect.LOGIN))


def test_a_running_guest_takes_over_what_its_checks_read() -> None:
    other = msgspec.structs.replace(GUESTS[0], hold=Duration(7))
    assert metadata.differ("guest", GUESTS[0], other, Effect.CHECKS)
    assert not metadata.differ("guest", GUESTS[0], msgspec.structs.replace(GUESTS[0], cpus=4), Effect.CHECKS)


def test_a_key_in_a_table_counts_when_its_table_does() -> None:
    """A commit announces tables in an item as a whole."""
    for node in shape.leaves():
        parts = node.path.split(".")
        if len(parts) > 2:
            outer = ".".join(parts[:2])
            assert metadata.field(node.path).effect is metadata.field(outer).effect, node.path


def test_every_time_and_size_has_bounds() -> None:
    """And its default lies within them."""
    for node in shape.leaves():
        if isinstance(node, Leaf) and node.kind in (Duration, Size):
            row = metadata.field(node.path)
            assert row.least is not None, node.path
            assert row.most is not None, node.path
            if isinstance(node.default, int) and not (row.zero and node.default == 0):
                assert row.least <= node.default <= row.most, node.path


def _bounded() -> list[str]:
    return [node.path for node in shape.leaves() if isinstance(node, Leaf) and node.kind in (Duration, Size)]


BASES = {
    "segment": '[[segment]]\nname = "s"\nlan = "lan0"\nwan = "wan0"\n',
    "guest": '[[guest]]\nname = "g"\nimage = "g.raw"\n',
    "remote": '[[remote]]\nname = "r"\ntunnel = { kind = "vxlan", remote = "192.0.2.7", lan_key = 7, wan_key = 8 }\n',
    "radius": '[[radius]]\nname = "r"\naddress = "192.0.2.1"\nsecret = "s"\n',
    "tacacs": '[[tacacs]]\nname = "t"\naddress = "192.0.2.1"\nsecret = "s"\n',
    "group": '[[guest]]\nname = "g"\nimage = "g.raw"\n[[group]]\nname = "x"\nstandby = ["g"]\n',
}


@pytest.mark.parametrize("path", _bounded())
def test_bounds_are_what_the_check_refuses(path: str) -> None:
    """One beyond a bound is refused with the bound in the message; the bound itself is not beyond it."""
    table, *keys = path.split(".")
    row = metadata.field(path)
    assert row.least is not None
    assert row.most is not None
    beyond = [(row.most + 1, f"at most {row.most}")] + (
        [(row.least - 1, f"at least {row.least}")] if row.least > 1 else []
    )

    def text(number: int) -> str:
        value = f'"{number}"' if type(row.least) is Size else f'"{number}ns"'
        if keys[0] == "probes":
            inner = f'slow = {{ limit = "1ms", {keys[2]} = {value} }}' if len(keys) > 2 else f"{keys[1]} = {value}"
            inner = inner.replace('limit = "1ms", limit', "limit")
            kind = 'http", url = "http://192.0.2.1/' if keys[1] == "timeout" else "inband"
            line = f'probes = [ {{ kind = "{kind}", {inner} }} ]\n'
        else:
            line = f"{keys[0]} = {{ {keys[1]} = {value} }}\n" if len(keys) > 1 else f"{keys[0]} = {value}\n"
        return BASES.get(table, f"[{table}]\n") + line

    for number, words in beyond:
        assert any(words in error.what for error in check(text(number), filters=False)), (number, words)
    for number in (row.least, row.most):
        assert not any(
            "at least" in e.what and str(row.least) in e.what
            for e in check(text(number), filters=False)
            if number != row.least
        )


def test_what_is_not_served_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "UNSERVED", frozenset({"remote"}))
    words = [each.word for each in complete([], "set", {})[0]]
    assert "guest" in words
    assert "remote" not in words
    assert isinstance(shape.tables("remote"), Tables)
