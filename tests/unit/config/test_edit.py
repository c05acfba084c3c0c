# SPDX-License-Identifier: GPL-2.0-only
"""Editing by words: paths, values, errors, completion; comments and order are kept; and back to `set` lines."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from appliance.config.edit import at_once, completion, key_path, set_lines
from appliance.config.edit.document import Document, canonical
from appliance.config.schema import metadata, shape
from appliance.errors import ConfigError

TEXT = """\
# mine
[system]
hostname = "wire1"   # by the door

[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"

# first of all
[[rule]]
name = "web"
match = "tcp port 80"
path = ["ips"]

[[guest]]
name = "ips1"
image = "a.qcow2"
probes = [ { kind = "inband", interval = "20ms" },   # the data path
           { kind = "http", url = "http://169.254.10.2/" } ]

[[group]]
name = "ips"
balance = [ { hop = "ips1", weight = 50 } ]
"""


def edit(*lines: str, text: str = TEXT) -> Document:
    """`set` lines, as typed; a quoted word is one."""
    doc = Document(text)
    for line in lines:
        for change in key_path.assignments(_split(line), doc.data):
            doc.assign(change)
    return doc


def _split(line: str) -> list[str]:
    found = line.split('"')
    return [word for i, part in enumerate(found) for word in ([part] if i % 2 else part.split())]


SETS: list[tuple[str, tuple[str | int, ...], object]] = [
    ("system hostname wire2", ("system", "hostname"), "wire2"),
    ("syst host wire2", ("system", "hostname"), "wire2"),
    ("watchdog timeout 3s", ("watchdog", "timeout"), "3s"),
    ("system idle_timeout 10 min hostname x", ("system", "idle_timeout"), "10min"),
    ("system idle_timeout 10m", ("system", "idle_timeout"), "10m"),
    ("guest ips1 memory 512 M cpus 2", ("guest", "ips1", "memory"), "512M"),
    ("rule web match udp and not port 53", ("rule", "web", "match"), "udp and not port 53"),
    ('rule web match "udp and not port 53"', ("rule", "web", "match"), "udp and not port 53"),
    ("rule web path ips dpi", ("rule", "web", "path"), ["ips", "dpi"]),
    ("rule web path [ips, dpi]", ("rule", "web", "path"), ["ips", "dpi"]),
    ("rule web path []", ("rule", "web", "path"), []),
    ("rule new on_unavailable block", ("rule", "new", "on_unavailable"), "block"),
    ("guest ips1 cpus 2", ("guest", "ips1", "cpus"), 2),
    ("guest ips1 tags true", ("guest", "ips1", "tags"), True),
    ("guest ips1 heartbeat interval 50ms", ("guest", "ips1", "heartbeat", "interval"), "50ms"),
    ("guest ips1 heartbeat", ("guest", "ips1", "heartbeat"), {}),
    ("guest ips1 probes 1 misses 5", ("guest", "ips1", "probes", 1, "misses"), 5),
    ("guest ips1 probes 3 kind arp target 1.2.3.4", ("guest", "ips1", "probes", 3, "target"), "1.2.3.4"),
    ("group ips balance ips1 weight 7", ("group", "ips", "balance", "ips1", "weight"), 7),
    ("group ips balance ips2", ("group", "ips", "balance", "ips2", "hop"), "ips2"),
    ("guest g2 kernel k memory 1G cmdline quiet panic=1", ("guest", "g2", "cmdline"), "quiet panic=1"),
    ('user mia keys "ssh-ed25519 AAAA mia"', ("user", "mia", "keys"), ["ssh-ed25519 AAAA mia"]),
]


@pytest.mark.parametrize(("line", "path", "value"), SETS)
def test_set(line: str, path: tuple[str | int, ...], value: object) -> None:
    """The value is where it belongs, the text is TOML that says the same, and the comments are all there."""
    doc = edit(line)
    assert key_path.look(doc.data, path) == value
    assert tomllib.loads(doc.text) == doc.data
    assert not doc.comments_lost
    assert [part for part in ("# mine", "# by the door", "# first of all", "# the data path") if part in doc.text][:3]


REFUSED = [
    ("", "is followed by one of: system"),
    ("nothing", 'has no "nothing"'),
    ("hostname box", 'has no "hostname"; did you mean "system hostname"?'),
    ("rul3 web match x", 'did you mean "rule"'),
    ("s", '"s" may be system or segment'),
    ("system", "is followed by a key and its value; keys: hostname"),
    ("system hostname", "needs a value: text (letters, digits and - in the middle, at most 63)"),
    ("system hostname -x", "letters, digits and - in the middle"),
    ("watchdog timeout 3 min x", 'has no "x"'),
    ("watchdog timeout 3 weeks", "is not a time with a unit"),
    ("watchdog timeout 3", 'is not a time with a unit, such as "100ms"'),
    ("guest ips1 memory much", 'not a size such as "512M"'),
    ("guest ips1 cpus two", "not a whole number"),
    ("guest ips1 cpus 65", "at most 64"),
    ("guest ips1 tags yes", "not true or false"),
    ("guest ips1 accel kvn", 'did you mean "kvm"'),
    ("guest IPS image x", "is not a name"),
    ("guest ips1 probes 4 kind arp", "3 adds one"),
    ("guest ips1 probes x kind arp", "not the number of one"),
    ("rule web path [ips", "no closing ]"),
    ("rule web path Ips", "is not a name"),
    ("guest g2 memory 1G nothing 3", 'has no "nothing"'),
    ("rule", "is followed by the name of a rule"),
    ("guest ips1 probes", "is followed by a number, from 1"),
]


@pytest.mark.parametrize(("line", "what"), REFUSED)
def test_refused(line: str, what: str) -> None:
    doc = Document(TEXT)
    with pytest.raises(ConfigError) as caught:
        key_path.assignments(_split(line), doc.data)
    assert what in str(caught.value)
    assert doc.text == TEXT


def test_nothing_changes_without_a_change() -> None:
    assert Document(TEXT).text == TEXT
    assert Document("").text == ""


def test_many_edits_keep_the_writers_words() -> None:
    doc = edit("rule last match udp", "guest g2 image b.qcow2", "segment two lan a wan b", "rule web path []")
    kept = [line for line in TEXT.splitlines() if "path" not in line]
    assert all(line in doc.text for line in kept)
    assert '\n\n[[rule]]\nname = "last"\n' in doc.text


def test_delete_and_move() -> None:
    doc = edit("rule b match udp", "rule c match arp")
    doc.move(("rule", "c"), 0)
    assert [rule["name"] for rule in doc.data["rule"]] == ["c", "web", "b"]
    doc.delete(("rule", "web"))
    doc.delete(("guest", "ips1", "probes", 1))
    doc.take(("rule", "b", "path"), [])
    assert tomllib.loads(doc.text) == doc.data
    assert [probe["kind"] for probe in doc.data["guest"][0]["probes"]] == ["http"]
    for name in ("c", "b"):
        doc.delete(("rule", name))
    assert "rule" not in doc.data
    assert tomllib.loads(doc.text) == doc.data
    assert "# mine" in doc.text


def test_merge() -> None:
    doc = Document(TEXT)
    doc.merge(tomllib.loads('[system]\nhostname = "m"\n[[rule]]\nname = "web"\npath = []\n[[rule]]\nname = "two"\n'))
    assert doc.data["system"]["hostname"] == "m"
    assert [(rule["name"], rule.get("match")) for rule in doc.data["rule"]] == [("web", "tcp port 80"), ("two", None)]
    assert "# by the door" in doc.text
    with pytest.raises(ConfigError, match='has no "nothing"'):
        doc.merge({"system": {"nothing": 1}})
    with pytest.raises(ConfigError, match="cannot be merged"):
        doc.merge({"rule": [{"match": "udp"}]})


ODD = [
    'rule = [ { name = "a" }, { name = "b" } ]\n',
    'system.hostname = "x"\n',
    '"system" = { "hostname" = "x" }\n',
    '[[rule]]\nname = "a"\n[[guest]]\nname = "g"\nimage = "i"\n[[rule]]\nname = "b"\n',
    '[[guest]]\nname = "g"\nimage = "i"\n[guest.heartbeat]\nmisses = 2\n[[guest.probes]]\nkind = "inband"\n',
    "[[rule]]\r\nname = 'a'\r\n",
    "[system]\n\n\n\n[watchdog]\n",
    'hostname = "stray"\n[system]\n',
]


@pytest.mark.parametrize("text", ODD)
def test_every_style_can_be_edited(text: str) -> None:
    doc = Document(text)
    assert doc.text == text
    for line in ("system hostname y", "rule a match udp", "rule z path g", "guest g probes 1 misses 4"):
        for change in key_path.assignments(line.split(), doc.data):
            doc.assign(change)
        assert tomllib.loads(doc.text) == doc.data
    assert key_path.look(doc.data, ("guest", "g", "probes", 1, "misses")) == 4
    assert key_path.look(doc.data, ("rule", "a", "match")) == "udp"


def test_a_shape_that_is_wrong_is_an_error_and_changes_nothing() -> None:
    doc = Document('rule = "no list"\n[system]\nhostname = "x"\n')
    with pytest.raises(ConfigError, match="a different structure"):
        doc.assign(key_path.Assign(("rule", "a", "match"), "udp"))
    assert doc.data["rule"] == "no list"
    assert doc.text == 'rule = "no list"\n[system]\nhostname = "x"\n'


def test_set_lines_lead_back() -> None:
    """`show | set` pasted into an empty configuration makes the same one."""
    data = edit('rule web match "a \\"quoted\\" one"', "guest ips1 heartbeat", "rule empty").data
    doc = Document("")
    for line in set_lines.set_lines(data):
        from console.line.parse import tokenize

        tokens, open_ = tokenize(line)
        assert not open_
        for change in key_path.assignments([token.text for token in tokens[1:]], doc.data):
            doc.assign(change)
    assert tomllib.loads(canonical(doc.data)) == doc.data
    for table in ("system", "segment", "rule", "guest", "group"):
        assert doc.data[table] == data[table]


# -- completion


def offered(line: str, action: str = "set") -> list[str]:
    found, _ = completion.complete(line.split(), action, Document(TEXT).data, ("lan0", "wan0"))
    return [each.word for each in found]


def test_completion() -> None:
    assert offered("")[:3] == ["system", "segment", "watchdog"]
    assert "web" in offered("rule")
    assert offered("rule web")[:2] == ["segment", "match"]
    assert offered("rule web on_unavailable") == ["bypass", "block", "link-down"]
    assert offered("rule web segment")[0] == "main"
    assert offered("rule web path") == ["ips1", "ips", ""]
    assert offered("rule web path ips") == ["ips1", "", ""]
    assert offered("segment main lan")[:2] == ["lan0", "wan0"]
    assert offered("guest ips1 probes") == ["1", "2", "3"]
    assert offered("group ips balance") == ["ips1"]
    assert offered("guest ips1 memory 1G")[:2] == ["image", "kernel"]
    assert offered("rule web", "delete")[:2] == ["match", "path"]
    assert {"heartbeat", "probes", ""} <= set(offered("guest ips1", "edit"))
    assert "memory" not in offered("guest ips1", "edit")
    assert offered("no such thing") == []
    assert offered("rule web", "move")[:2] == ["first", "last"]


def test_completion_says_when_a_line_is_whole() -> None:
    for line, action, whole in (
        ("rule web match udp", "set", True),
        ("rule web match", "set", False),
        ("rule web", "delete", True),
        ("", "delete", False),
        ("", "show", True),
    ):
        assert completion.complete(line.split(), action, Document(TEXT).data)[1] is whole, (line, action)


# -- the table of keys


def test_every_key_has_a_row_and_every_row_a_key() -> None:
    rows = shape.describe()
    assert {row.path for row in rows} == set(metadata.FIELDS)
    for row in rows:
        assert row.doc, row.path
        assert row.default, row.path
        assert "{" not in row.effect.replace("{name}", ""), row.path


def test_numbers_and_times_have_a_range() -> None:
    for row in shape.describe():
        if any(word in row.type for word in ("time", "size", "whole number")):
            assert row.range, row.path


def test_tables_that_nothing_serves_are_not_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`set ?` has no remote; one that is in the text already can be named, to delete it."""
    monkeypatch.setattr(metadata, "UNSERVED", frozenset({"remote"}))
    assert "remote" not in [each.word for each in completion.complete([], "set", {})[0]]
    remote = {"remote": [{"name": "dpi"}]}
    assert "remote" in [each.word for each in completion.complete([], "delete", remote)[0]]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("segment main mtu 99", "99 is less than 1500"),
        ("segment main mtu 99999", "16000"),
        ("guest ips1 mtu 99", "99 is less than 1500"),
        ("guest ips1 memory 999999G", "999999G is too large: at most 1024G"),
        ("guest ips1 memory 512", 'a number without a unit counts bytes: "512M"?'),
        ("guest ips1 hold 1000h", "1000h is too long: at most 24h"),
        ("guest ips1 cpus 0", "1"),
        ("guest ips1 lan_mac 01:00:00:00:00:01", "is a group address"),
        ("guest ips1 image ../x", "is not the name of an image"),
        ("watchdog timeout 1ms", "1ms is too short: at least"),
        ("management address 10.88.0.2", "is not an IPv4 address with prefix length"),
        ("management address 10.88.0.0/24", "is the network or broadcast address"),
        ("management address6 10.88.0.2/24", "is not an IPv6 address with prefix length"),
        ("management gateway 10.88.0.256", "is not an IPv4 address"),
        ("management gateway6 10.88.0.1", "is not an IPv6 address"),
        ("management dns 192.0.2.53 1.1.1", '"1.1.1" is not an address'),
        ("management allow 10.0.0.1/8", "not a network such as 192.0.2.0/24: 10.0.0.1/8 has host bits set"),
        ("time servers 192.0.2.1 1.2.3", '"1.2.3" is not an address or a name'),
        ("radius r1 address 10.88.0.300", "is not the address of a server"),
        ("tacacs t1 address acs.example.net", "names are not resolved here"),
        ("radius r1 secret " + 129 * "x", "must have 1 to 128 bytes"),
        ("snmp user m auth_passphrase short", "must have 8 characters or more (RFC 3414)"),
        ("snmp user m priv_passphrase " + 129 * "x", "must have 128 characters at most"),
        ("snmp receiver nms address nms.example.net", "names are not resolved here"),
        ("user ann password secret", "must be a hash, not the password itself"),
        ("user ann keys nonsense", "key"),
        ("syslog servers udp://10.0.0.1 ftp://x", "is not a server"),
        ("rule web match tcp prot 80", 'did you mean "proto"?'),
        ("guest ips1 accept tcp prot 80", 'did you mean "proto"?'),
    ],
)
def test_what_can_be_known_at_once_is_refused_at_once(line: str, why: str) -> None:
    """Not only when the whole is checked, which may be much later."""
    with pytest.raises(ConfigError) as caught:
        at_once.refuse(key_path.assignments(line.split(), {}), {})
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (
            "rule web match tcp port 81 path ips1",
            '"path" is not part of the filter but a key of its own, for a line of its own: `set rule web path ips1`',
        ),
        ("rule web match udp through vlan qinq", "`set rule web through vlan qinq`"),
        (
            "rule web match tcp port 81 ips1 av",
            '"ips1" is not part of the filter but a guest, for a line of its own: `set rule web path ips1 av`',
        ),
        ("rule web match tcp far", '"far" is not part of the filter but a remote'),
        ("rule web match tcp both", '"both" is not part of the filter but a group'),
        ("guest ips1 accept udp memory 1G", "`set guest ips1 memory 1G`"),
        ("guest ips1 accept udp or ips1", "no keyword and no address"),
        ("rule web match path ips1", "no keyword and no address"),
        ("rule web match tcp port 81 nobody", "syntax error (column 13"),
        ("rule web match tcp prot 80 path ips1", 'did you mean "proto"?'),
    ],
)
def test_a_filter_that_goes_on_with_another_key_is_told_from_a_wrong_one(line: str, why: str) -> None:
    data: dict[str, Any] = {"guest": [{"name": "ips1"}], "remote": [{"name": "far"}], "group": [{"name": "both"}]}
    with pytest.raises(ConfigError) as caught:
        at_once.refuse(key_path.assignments(line.split(), data), data)
    assert why in str(caught.value)
    assert str(caught.value).startswith(line[:5])


@pytest.mark.parametrize(
    "line",
    [
        "segment main mtu 0",
        "segment main mtu 9000",
        "segment main link_loss_limit 0s",
        "management address dhcp",
        "management gateway6 fe80::1",
        "guest ips1 restart first 10ms",
        "rule web match tcp port 80",
        'rule web match ""',
        "syslog servers []",
    ],
)
def test_what_other_keys_decide_is_left_to_the_check(line: str) -> None:
    at_once.refuse(key_path.assignments([word.strip('"') for word in line.split()], {}), {})
