# SPDX-License-Identifier: GPL-2.0-only
"""What a change is, when it takes effect, and what it means for traffic; the verdict after a commit."""

from __future__ import annotations

import pytest

from appliance.config.check.lint import lint
from appliance.config.check.load import loads
from appliance.config.commit.diff import changes
from appliance.config.commit.traffic_check import Look, Segment, judge, quiet
from appliance.config.schema import metadata
from appliance.config.schema.model import Config

BASE = """
[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"
[[segment]]
name = "side"
lan = "lan1"
wan = "wan1"
[[guest]]
name = "ips1"
image = "a"
probes = [ { kind = "inband" } ]
[[guest]]
name = "ips2"
image = "b"
probes = [ { kind = "inband" } ]
[[rule]]
name = "web"
segment = "main"
match = "tcp port 80"
path = ["ips1"]
[[rule]]
name = "rest"
segment = "side"
path = ["ips2"]
"""


def config(text: str = BASE, *edits: tuple[str, str]) -> Config:
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    return loads(text, filters=False)


CHANGES = [
    (('image = "a"', 'image = "a"\nmemory = "1G"'), "guest ips1: memory", "512M", "1G", metadata.Effect.PROCESS),
    (('image = "a"', 'image = "a"\ncpus = 2'), "guest ips1: cpus", "1", "2", metadata.Effect.PROCESS),
    (('image = "a"', 'image = "a"\ntags = true'), "guest ips1: tags", "false", "true", metadata.Effect.POLICY),
    (('match = "tcp port 80"', 'match = "udp"'), "rule web: match", "tcp port 80", "udp", metadata.Effect.POLICY),
    (('path = ["ips1"]', "path = []"), "rule web: path", "[ips1]", "[]", metadata.Effect.POLICY),
    (('wan = "wan0"', 'wan = "wan9"'), "segment main: wan", "wan0", "wan9", metadata.Effect.PORTS),
    (('name = "rest"', 'name = "last"'), "rule rest", "{ name = rest", "", metadata.Effect.POLICY),
    (("[[segment]]", '[system]\nhostname = "x"\n[[segment]]'), "system: hostname", "bypass", "x", metadata.Effect.NOW),
]


@pytest.mark.parametrize(("edit", "where", "old", "new", "effect"), CHANGES)
def test_changes(edit: tuple[str, str], where: str, old: str, new: str, effect: str) -> None:
    found = {change.where: change for change in changes(config(), config(BASE, edit))}
    change = found[where]
    assert change.old.startswith(old)
    assert change.new == new
    assert change.effect == effect.format(name="ips1")


def test_added_removed_and_moved() -> None:
    less = config(BASE, ('[[rule]]\nname = "rest"\nsegment = "side"\npath = ["ips2"]\n', ""))
    assert [(c.where, c.new) for c in changes(config(), less) if c.where == "rule rest"] == [("rule rest", "")]
    added = changes(less, config())
    assert [c.where for c in added] == ["rule rest", "guest ips2: segments it serves"]
    head, web, rest = BASE.rpartition('[[rule]]\nname = "web"')[0], BASE.split("[[rule]]")[1], BASE.split("[[rule]]")[2]
    moved = loads(f"{head}[[rule]]{rest}[[rule]]{web}", filters=False)
    assert [c.where for c in changes(config(), moved)] == ["rule"]
    assert changes(config(), config()) == []
    assert len(changes(None, config())) > 5


def test_a_guest_that_is_to_serve_another_segment_needs_a_restart() -> None:
    """A rule of another segment leads to it: its taps are QEMU's from its start on."""
    found = {c.where: c for c in changes(config(), config(BASE, ('path = ["ips2"]', 'path = ["ips2", "ips1"]')))}
    change = found["guest ips1: segments it serves"]
    assert (change.old, change.new, change.effect) == ("main", "main, side", "when guest ips1 is restarted")


TWO_BEFORE = """\
[[rule]]
name = "a"
match = "udp dst portrange 1-9"
[[rule]]
name = "b"
match = "udp dst portrange 8-20"
[[rule]]
name = "web"
segment = "main"
match = "udp dst portrange 5-15\""""
LINT = [
    ((), "note", "segment main", "if its relay closes, the traffic of these rules passes uninspected: web"),
    ((('path = ["ips2"]', "path = []"),), "warning", "segment side", "no rule has a guest in its path"),
    ((('name = "web"\nsegment = "main"', 'name = "web"'),), "note", "segment main", "no rule matches go straight"),
    (
        (('name = "rest"\nsegment = "side"', 'name = "rest"\nsegment = "main"\nmatch = "tcp  port 80"'),),
        "warning",
        "rule rest",
        "never matches: rule web before it has the same match",
    ),
    (
        (('match = "tcp port 80"\n', ""), ('name = "rest"\nsegment = "side"', 'name = "rest"\nsegment = "main"')),
        "warning",
        "rule rest",
        "never matches: rule web before it matches every frame",
    ),
    (
        (
            ('match = "tcp port 80"', 'match = "tcp"'),
            (
                'name = "rest"\nsegment = "side"',
                'name = "rest"\nsegment = "main"\nmatch = "tcp port 80 and net 10.0.0.0/8"',
            ),
        ),
        "warning",
        "rule rest",
        "never matches: rule web before it matches all of its frames",
    ),
    (
        (
            (
                '[[rule]]\nname = "web"\nsegment = "main"\nmatch = "tcp port 80"',
                TWO_BEFORE,
            ),
        ),
        "warning",
        "rule web",
        "never matches: together, rules before it match all of its frames: a, b",
    ),
    (
        (('match = "tcp port 80"', 'match = "greater 200 and less 100"'),),
        "warning",
        "rule web",
        "never matches: its filter matches no frame",
    ),
    (
        (('image = "a"', 'image = "a"\naccept = "greater 200 and less 100"'),),
        "warning",
        "guest ips1: accept",
        "matches no frame: the guest gets no traffic",
    ),
    (
        (('image = "a"\nprobes = [ { kind = "inband" } ]', 'image = "a"\nheartbeat = {}'),),
        "warning",
        "guest ips1: probes",
        "no data-path check (only heartbeat)",
    ),
    (
        (('image = "a"', 'image = "a"\ncpus = 2\nqueues = 2'),),
        "note",
        "guest ips1: queues",
        "without queue_pin: frames may overtake others",
    ),
    (
        (('image = "a"', 'image = "a"\naccel = "tcg"\nqueue_poll = "50us"'),),
        "note",
        "guest ips1: queues",
        'bring nothing with accel = "tcg"',
    ),
    (
        (('kind = "inband"', 'kind = "inband", interval = "3.3ms", misses = 2'),),
        "note",
        "guest ips1: probes",
        "heartbeats every 3300us: a few ms without a processor look like a hang",
    ),
    (
        (
            ('path = ["ips1"]', 'path = ["ips1"]\non_unavailable = "block"'),
            ('image = "a"', 'image = "a"\nautostart=false'),
        ),
        "warning",
        "rule web: on_unavailable",
        '"ips1" is not started with the appliance',
    ),
    (
        (('path = ["ips1"]', 'path = ["ips1"]\non_unavailable = "block"'),),
        "warning",
        "segment main",
        "a closed relay also passes what these rules block: web",
    ),
    (
        (('name = "main"\n', 'name = "main"\nattach = "xdp"\nmtu = 9000\n'),),
        "warning",
        "segment main: attach",
        "frames longer than 3480 bytes or less skip guests",
    ),
    (
        (('lan = "lan1"', 'lan = "lan1"\nlink_local = "rules"'),),
        "warning",
        "segment side: link_local",
        '"rules": STP, LACP, EAPOL, LLDP, PTP peer delay frames enter the path of rule rest',
    ),
    ((('path = ["ips2"]', 'path = ["ips1"]'),), "warning", "guest ips1", "serves segments main and side"),
    ((('path = ["ips2"]', 'path = ["ips1"]'),), "note", "guest ips2", "gets no traffic"),
]


@pytest.mark.parametrize(("edits", "severity", "where", "what"), LINT)
def test_lint(edits: tuple[tuple[str, str], ...], severity: str, where: str, what: str) -> None:
    found = lint(config(BASE, *edits))
    assert [f for f in found if f.severity == severity and f.where == where and what in f.what], found


def test_a_rule_that_one_segment_leaves_something_matches() -> None:
    """Hidden in one of its segments only: it is not said."""
    both = config(BASE, ('name = "rest"\nsegment = "side"', 'name = "rest"\nmatch = "tcp port 80"'))
    assert not [f for f in lint(both) if "never matches" in f.what]


def test_what_was_not_looked_into_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.filter.reach.unreachable.__defaults__", (-1.0, lambda: 0.0))
    (found,) = [f for f in lint(config()) if f.where == "rule"]
    assert found.what == "not all rules were checked for whether they can match: 2 are left, beginning with web"


TWO = ('path = ["ips1"]', 'path = ["ips1", "ips2"]\non_unavailable = "block"')
ALL = ('on_unavailable = "block"', 'on_unavailable = "block"\nrequire = "all"')


def said(*edits: tuple[str, str], down: dict[str, str] | None = None) -> list[str]:
    """What lint says about the availability of the hops of rule web."""
    found = lint(config(BASE, *edits), None, down or {})
    return [f.what for f in found if f.where in ("rule web: on_unavailable", "rule web: require")]


def test_what_blocks_a_path_of_two() -> None:
    """One of two that fails is skipped, so neither blocks by itself; where all are required, each does."""
    assert said(TWO) == [
        (
            "a hop that is not available is skipped while another one of the path is there; "
            'with require = "all" the rule blocks then'
        )
    ]
    assert said(TWO, ALL) == ['"ips1" is required: its failure blocks', '"ips2" is required: its failure blocks']
    one = ('path = ["ips1"]', 'path = ["ips1"]\non_unavailable = "block"')
    assert said(one) == said(one, ALL) == ['"ips1" is the only hop in the path: its failure blocks']


def test_what_blocks_a_path_of_two_now() -> None:
    """From the commit on it blocks without both, or, where all are required, without either."""
    failed = {"ips2": "failed"}
    assert not [text for text in said(TWO, down=failed) if "from the commit on" in text]
    assert [text for text in said(TWO, down={"ips1": "stopped", **failed}) if "from the commit on" in text] == [
        'blocks from the commit on: no hop in path "ips1", "ips2" is available: ips1 is stopped, ips2 is failed'
    ]
    assert said(TWO, ALL, down=failed)[0] == (
        'blocks from the commit on: no hop in path "ips2" is available: ips2 is failed'
    )
    manual = ('image = "b"', 'image = "b"\nautostart = false')
    assert not [text for text in said(TWO, manual) if "autostart" in text]
    assert said(TWO, ALL, manual)[0] == 'blocks: "ips2" is not started with the appliance (autostart = false)'
    both = ('image = "a"', 'image = "a"\nautostart = false')
    assert said(TWO, manual, both)[0] == (
        'blocks: none of "ips1", "ips2" is started with the appliance (autostart = false)'
    )


def test_what_all_means() -> None:
    accept = ('image = "b"', 'image = "b"\naccept = "tcp"')
    assert said(('path = ["ips1"]', 'path = ["ips1", "ips2"]\nrequire = "all"'), accept) == [
        '"all": the frames pass the whole path uninspected as soon as one of its hops is not available',
        '"all": a hop is not required for frames that its accept filter does not take: ips2',
    ]


def around(text: str) -> list[tuple[str, str]]:
    """What lint says about frames that go around a rule of this match."""
    edited = config(BASE, ('match = "tcp port 80"', text))
    return [(f.severity, f.what) for f in lint(edited) if f.where == "rule web: match"]


def test_frames_that_go_around_a_rule() -> None:
    """Which ones, and how to include them; a warning if the rule blocks. Covered encapsulations are not named."""
    ((severity, what),) = around('match = "tcp port 80"')
    assert severity == "note"
    assert what == (
        "frames with a VLAN tag, with two VLAN tags, in PPPoE, behind MPLS labels, in LLC/SNAP, with extension headers"
        " of IPv6, that are later fragments whose first was not seen go around it, as for tcpdump;"
        ' through = ["vlan", "qinq", "pppoe", "mpls", "snap", "ip6ext", "fragments"] includes them'
    )
    ((severity, _),) = around('match = "tcp port 80"\non_unavailable = "block"')
    assert severity == "warning"
    ((_, what),) = around('match = "ip and udp portrange 50-60"\nthrough = ["vlan", "fragments"]')
    assert "with two VLAN tags, in PPPoE, behind MPLS labels, in LLC/SNAP go around" in what
    every = ["vlan", "qinq", "pppoe", "mpls", "snap", "ip6ext", "fragments"]
    assert around(f'match = "tcp port 80"\nthrough = {every}'.replace("'", '"')) == []


@pytest.mark.parametrize("match", ["not tcp port 80", "ether host 02:00:00:00:00:01", "len > 60", "ether[0] & 1 = 1"])
def test_rules_that_take_wrapped_frames_anyway(match: str) -> None:
    assert around(f'match = "{match}"') == []


def test_through_without_a_match_means_nothing() -> None:
    found = lint(config(BASE, ('match = "tcp port 80"', 'through = ["vlan"]')))
    assert [f.what for f in found if f.where == "rule web: through"] == [
        "has no meaning without a match: every frame is taken"
    ]


def test_frames_that_another_rule_leads_in_go_around_none() -> None:
    """Frames that a later catch-all rule inspects are no gap; frames that it sends straight are."""
    behind = '[[rule]]\nname = "all"\nsegment = "main"\npath = ["ips1"]\n'
    assert not [f for f in lint(config(BASE + behind)) if f.where == "rule web: match"]
    straight = behind.replace('["ips1"]', "[]")
    assert [f for f in lint(config(BASE + straight)) if f.where == "rule web: match"]


def test_control_frames_that_no_rule_takes_are_no_finding() -> None:
    """Neither by default, nor where the rules lead them straight."""
    by_rules = ('lan = "lan0"', 'lan = "lan0"\nlink_local = "rules"')
    assert not [f for f in lint(config(BASE, by_rules)) if "link_local" in f.where]
    assert not [f for f in lint(config()) if "link_local" in f.where]


def test_a_rule_that_blocks_from_the_commit_on() -> None:
    """Its guest exists but is not available now; another member of the same group is enough."""
    block = ('path = ["ips1"]', 'path = ["ips1"]\non_unavailable = "block"')
    (found,) = [f for f in lint(config(BASE, block), None, {"ips1": "failed"}) if f.where == "rule web: on_unavailable"]
    assert found.severity == "warning"
    assert found.what == 'blocks from the commit on: no hop in path "ips1" is available: ips1 is failed'
    group = '[[group]]\nname = "both"\nstandby = ["ips1", "ips2"]\n'
    two = config(group + BASE, ('path = ["ips1"]', 'path = ["both"]\non_unavailable = "block"'))
    assert not [f for f in lint(two, None, {"ips1": "failed"}) if "from the commit on" in f.what]
    assert [f for f in lint(two, None, {"ips1": "failed", "ips2": "stopped"}) if "from the commit on" in f.what]


GROUP = '[[group]]\nname = "both"\nstandby = ["ips1", "ips2"]\n'


def about_group(keys: str, *edits: tuple[str, str]) -> list[tuple[str, str]]:
    """What lint says about a group with these keys, which rule web uses."""
    use = ('path = ["ips1"]', 'path = ["both"]')
    return [(f.severity, f.what) for f in lint(config(GROUP + keys + BASE, use, *edits)) if "group both" in f.where]


def test_a_group_that_cannot_have_its_minimum() -> None:
    """A warning while members have to be started by hand; a note where no member may fail."""
    assert about_group("") == about_group("minimum = 1\n") == []
    ((severity, what),) = about_group("minimum = 2\n")
    assert (severity, what[:54]) == ("note", "2: the failure of any member makes the group unavailab")
    manual = ('image = "b"', 'image = "b"\nautostart = false')
    ((severity, what),) = about_group("minimum = 2\n", manual)
    assert (severity, what) == (
        "warning", "2: not available: only 1 of 2 members started with the appliance (autostart = false)"
    )  # fmt: skip


def test_what_keep_means_for_flows() -> None:
    """They pass uninspected, or are blocked where the rule fails closed."""
    keep = 'on_member_failure = "keep"\n'
    assert about_group(keep) == [
        ("note", '"keep": established flows of a failed member bypass the group uninspected (rules web)')
    ]
    ((_, what),) = about_group(keep, ('path = ["both"]', 'path = ["both"]\non_unavailable = "link-down"'))
    assert "are blocked" in what


def test_a_group_below_its_minimum_blocks() -> None:
    """One member that is down is enough where both are needed."""
    use = ('path = ["ips1"]', 'path = ["both"]\non_unavailable = "block"')
    for minimum, blocks in (("", False), ("minimum = 2\n", True)):
        found = lint(config(GROUP + minimum + BASE, use), None, {"ips1": "failed"})
        assert any("blocks from the commit on" in f.what for f in found) is blocks


def test_link_down_blocks_and_takes_the_link_of_all_rules() -> None:
    found = said(('path = ["ips1"]', 'path = ["ips1"]\non_unavailable = "link-down"'))
    assert found == [
        '"ips1" is the only hop in the path: its failure blocks',
        "while it blocks, both ports of segment main have no link, for the traffic of all rules",
    ]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ('on_overload = "bypass-all"', "switches the inspection of all its frames off"),
        ('on_unavailable = "block"\non_overload = "bypass-excess"', "passes uninspected, although"),
        ('on_unavailable = "block"', ""),
        ('on_overload = "block-excess"', ""),
    ],
)
def test_a_rule_that_a_flood_opens(keys: str, says: str) -> None:
    found = [f for f in lint(config(BASE, ('path = ["ips1"]', f'path = ["ips1"]\n{keys}'))) if "overload" in f.where]
    assert [(f.severity, says in f.what) for f in found] == [("warning", True)] * bool(says)


def test_a_segment_whose_rules_are_only_counted() -> None:
    dry = ('wan = "wan0"', 'wan = "wan0"\ndry_run = true')
    (found,) = [f for f in lint(config(BASE, dry)) if "dry_run" in f.where]
    assert found.severity == "warning"
    assert "nothing is inspected or blocked: web" in found.what


def test_a_guest_whose_checks_decide_nothing() -> None:
    dry = ('name = "ips1"', 'name = "ips1"\ndry_run = true')
    without = ('probes = [ { kind = "inband" } ]', "")
    for edits, severity in (((dry,), "warning"), ((dry, without), "note")):
        (found,) = [f for f in lint(config(BASE, *edits)) if f.where == "guest ips1: dry_run"]
        assert found.severity == severity


@pytest.mark.parametrize(
    ("may", "keys", "found"),
    [
        (True, 'on_unavailable = "block"\nkeep_shunts = true', [("warning", "passes while it is down")]),
        (True, "keep_shunts = true", [("note", "only with on_unavailable")]),
        (False, 'on_unavailable = "block"\nkeep_shunts = true', [("note", "no hop of the path may shunt flows")]),
        (True, 'on_unavailable = "block"', []),
    ],
)
def test_a_rule_that_keeps_shunts(may: bool, keys: str, found: list[tuple[str, str]]) -> None:
    changes = [('path = ["ips1"]', f'path = ["ips1"]\n{keys}')]
    changes += [('name = "ips1"', 'name = "ips1"\nshunts = { max = 9 }')] * may
    said = [f for f in lint(config(BASE, *changes)) if "keep_shunts" in f.where]
    assert [(f.severity, what in f.what) for f, (_, what) in zip(said, found, strict=True)] == [
        (severity, True) for severity, _ in found
    ]


def test_lint_of_a_change() -> None:
    side = BASE.index('[[segment]]\nname = "side"')
    without = loads(BASE[:side] + BASE[BASE.index("[[guest]]") :].replace('segment = "side"\n', ""), filters=False)
    assert [f for f in lint(without, config()) if f.where == "segment side" and "bare wire" in f.what]
    closed = config(BASE, ('wan = "wan0"', 'wan = "wan0"\nmode = "bypass"'))
    assert [f for f in lint(closed, config()) if f.where == "segment main: mode" and "relay closes" in f.what]


def test_what_is_fine_has_no_warning() -> None:
    assert [f for f in lint(config()) if f.severity == "warning"] == []


# -- the proof


def look(generation: int | None = 2, **more: object) -> Look:
    values: dict[str, object] = {"inline": True, **more}
    return Look(generation, {"main": Segment(**values)})  # type: ignore[arg-type]


JUDGED = [
    ("all is well", look(1), look(2, came=100, went=100), ""),
    ("no traffic proves nothing and spoils nothing", look(1), look(2), ""),
    ("a few lost", look(1), look(2, came=1000, went=981, lost=19), ""),
    ("blocked by a rule is no loss", look(1), look(2, came=1000, went=1000), ""),
    ("the datapath went", look(1), look(None), "the datapath is down"),
    ("the policy did not change", look(1), look(1), "still has the old policy"),
    ("a new fault", look(1), look(2, faults={"datapath_fault": "no XDP"}), "datapath_fault: no XDP"),
    ("an old fault", look(1, faults={"x": ""}), look(2, faults={"x": ""}), ""),
    ("nothing goes on", look(1), look(2, came=40, went=0, lost=40), "of 40 frames that came in none was forwarded"),
    ("most are lost", look(1), look(2, came=100, went=30, lost=70), "70 of 100 frames were lost"),
    ("in bypass before", look(1, inline=False), look(2, came=100, went=0, lost=100), ""),
    ("no datapath before either", look(None), look(None), ""),
    ("a new segment", Look(1), look(2, inline=False, faults={"port_missing": "x"}), ""),
]


@pytest.mark.parametrize(("what", "before", "after", "why"), JUDGED)
def test_judge(what: str, before: Look, after: Look, why: str) -> None:
    said = judge(before, after)
    assert (why in said) if why else not said, what


def test_quiet() -> None:
    assert quiet(look(1), look(2, came=3))
    assert not quiet(look(1), look(2, came=30))
    assert not quiet(look(1, inline=False), look(2))


def test_secrets_are_hidden() -> None:
    """Of what is added, removed and changed: a key is no text of TOML there, which would be found by its form."""
    user = '[[snmp.user]]\nname = "nms"\nauth_passphrase = "0xAAAA"\npriv_passphrase = "0xBBBB"\n'.replace(
        "AAAA", "a" * 64
    )
    user = user.replace("BBBB", "b" * 64)
    first, second = config(BASE + user), config(BASE + user.replace("a" * 64, "c" * 64))
    for old, new in ((config(), first), (first, config()), (first, second)):
        found = changes(old, new)
        assert found
        assert "<hidden>" in str(found)
        assert not any(digit * 64 in str(found) for digit in "abc")
