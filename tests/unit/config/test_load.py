# SPDX-License-Identifier: GPL-2.0-only
"""Configuration: the design's example loads, each class of error is found and named, and no other exception occurs."""

import re
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config.check.finding import facts
from appliance.config.check.load import check, load, loads, read_text
from appliance.config.check.verify import verify
from appliance.config.edit.document import Document
from appliance.config.edit.key_path import Assign
from appliance.config.schema import limits
from appliance.config.schema.model import Config
from appliance.errors import ConfigError, FilterError, UnreachableError, cells
from appliance.units import Duration, Size

GOOD = """\
[system]
hostname = "wire1"

[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"
mode = "auto"
on_link_loss = "propagate"
rearm_delay = "2s"

[watchdog]
timeout = "2s"

[[guest]]
name = "ips1"
image = "ips1.qcow2"
memory = "512M"
cpus = 1
accept = "ip or ip6"
tags = false
heartbeat = { interval = "100ms", misses = 3 }
probes = [ { kind = "inband", interval = "20ms", misses = 2 },
           { kind = "http", url = "http://169.254.10.2/health", interval = "1s", misses = 3 } ]

[[guest]]
name = "ips2"
kernel = "demo.vmlinuz"

[[guest]]
name = "dpi"
kernel = "demo.vmlinuz"
probes = [ { kind = "inband", interval = "100ms", misses = 3 } ]

[[group]]
name = "ips"
balance = [ { hop = "ips1", weight = 50 }, { hop = "ips2", weight = 50 } ]

[[rule]]
name = "web"
segment = "main"
match = "tcp port 80 or tcp port 443"
path = ["ips", "dpi"]
on_unavailable = "bypass"
"""


REMOTE = """
[[remote]]
name = "far"
tunnel = { kind = "vxlan", remote = "198.51.100.7", lan_key = 7, wan_key = 8 }
"""


def errors(text: str) -> list[str]:
    """The errors of a text, filters left out, each without its line number."""
    return [f"{error.where}: {error.what}" for error in check(text, filters=False)]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def test_example_of_the_design_loads() -> None:
    """Every value of the example arrives in its struct, times in nanoseconds and sizes in bytes."""
    config = loads(GOOD, filters=False)
    assert config.system.hostname == "wire1"
    assert config.segment[0].rearm_delay == 2_000_000_000
    assert config.guest[0].memory == 512 << 20
    assert config.guest[0].heartbeat is not None
    assert config.guest[0].heartbeat.interval == 100_000_000
    assert [probe.kind for probe in config.guest[0].probes] == ["inband", "http"]
    assert config.guest[2].probes[0].misses == 3
    assert [(m.hop, m.weight) for m in config.group[0].balance] == [("ips1", 50), ("ips2", 50)]
    assert config.rule[0].path == ("ips", "dpi")
    assert loads("", filters=False) == Config()


def _many(count: int, template: str) -> str:
    return "".join(template.format(n=n) for n in range(count))


GUEST = '[[guest]]\nname = "g{n}"\nimage = "g{n}"\n'
BASE = '[[segment]]\nname = "main"\nlan = "lan0"\nwan = "wan0"\n'

CASES = [
    # (description, text, the one error it gives)
    ("syntax", "[system\n", "syntax: Expected ']' at the end of a table declaration (line 1, column 8)"),
    ("endless number", "a = " + "9" * 5000, "syntax: Exceeds the limit"),
    ("nested too deeply", "a = " + "[" * 9000, "syntax: nested too deeply"),
    ("unknown table", '[[rules]]\nname = "a"\n', 'rules: unknown table; did you mean "rule"?'),
    ("key outside", 'hostname = "a"\n', "hostname: unknown key outside of any table"),
    ("unknown key", changed("cpus = 1", "cpu = 1"), 'guest ips1: cpu: unknown key; did you mean "cpus"?'),
    ("unknown key inside", changed("misses = 3 }", "miss = 3 }"), 'guest ips1: heartbeat: miss: unknown key; did you'),
    ("odd key", '[system]\n"a\\n b" = 1\n', r'system: "a\n b": unknown key'),
    ("single for many", '[rule]\nname = "a"\n', "rule: is a list of tables: write [[rule]]"),
    ("many for single", "[[system]]\n", "system: is a single table: write [system]"),
    ("value for table", "system = 3\n", "system: is a single table: write [system]"),
    ("missing name", '[[rule]]\npath = []\n', "rule 1: name: is missing"),
    ("bad name", '[[rule]]\nname = "We b"\n', 'rule 1: name: "We b" is not a name'),
    ("name with newline", '[[rule]]\nname = "web\\n"\n', r'rule 1: name: "web\n" is not a name'),
    ("mtu below Ethernet's", BASE + "mtu = 1400\n", "segment main: mtu: 1400 is less than 1500"),
    ("mtu beyond any port's", BASE + "mtu = 16001\n", "segment main: mtu: "),
    ("number for text", changed('"lan0"', "7"), "segment main: lan: 7 is not text in quotes"),
    ("text for number", changed("cpus = 1", 'cpus = "1"'), 'guest ips1: cpus: "1" is not a whole number'),
    ("number for truth", changed("tags = false", "tags = 0"), "guest ips1: tags: 0 is not true or false"),
    ("date for text", changed('"lan0"', "2020-01-01"), "segment main: lan: 2020-01-01 is not text in quotes"),
    ("NUL", changed('"lan0"', '"a\\u0000"'), "segment main: lan: text cannot contain a NUL character"),
    ("too small", changed("cpus = 1", "cpus = 0"), "guest ips1: cpus: 0 is too small: at least 1"),
    ("too large", changed("cpus = 1", "cpus = 65"), "guest ips1: cpus: 65 is too large: at most 64"),
    ("far too large", changed("cpus = 1", "cpus = 1" + "0" * 99), "guest ips1: cpus: so large a number is too large"),
    ("word", changed('"propagate"', '"propagat"'), 'segment main: on_link_loss: "propagat" is not one of propagate, '),
    ("time without unit", changed('"2s"', "2"), 'segment main: rearm_delay: 2 has no unit: write text such as "100ms"'),
    ("not a time", changed('"2s"', '"2 weeks"'), 'segment main: rearm_delay: "2 weeks" is not a time with a unit'),
    ("endless time", changed('"2s"', f'"{"9" * 400}s"'), 'segment main: rearm_delay: "99999999'),
    ("long time", changed('"2s"', '"25h"'), "segment main: rearm_delay: 25h is too long: at most 24h"),
    ("not a size", changed('"512M"', '"512MB"'), 'guest ips1: memory: "512MB" is not a size such as "512M"'),
    ("size without unit", changed('"512M"', "512"), 'guest ips1: memory: 512 has no unit: write text such as "512M"'),
    ("little memory", changed('"512M"', '"1M"'), "guest ips1: memory: 1M is too small: at least 16M"),
    ("bytes", changed('"512M"', '"512"'), "guest ips1: memory: 512 is too small: at least 16M; a number without"),
    ("hostname", changed('"wire1"', '"wire 1"'), 'system: hostname: "wire 1" is not a host name: letters'),
    ("list", changed('["ips", "dpi"]', '"ips"'), 'rule web: path: "ips" is not a list'),
    ("table", changed('{ interval = "100ms", misses = 3 }', "5"), "guest ips1: heartbeat: 5 is not a table"),
    ("watchdog", changed('timeout = "2s"', 'timeout = "10ms"'), "watchdog: timeout: 10ms is too short: at least 1s"),
    ("interval 0", changed('interval = "20ms"', 'interval = "0s"'), "guest ips1: probes 1: interval: 0ns is too short"),
    ("probe without url", changed('url = "http://169.254.10.2/health", ', ""), "guest ips1: probes 2: url: a probe"),
    ("probe with bad url", changed('"http://', '"ftp://'), 'guest ips1: probes 2: url: "ftp://169.254.10.2/'),
    ("probe with needless key", changed('"inband",', '"inband", target = "x",'), "guest ips1: probes 1: target: a"),
    ("probe of a name", changed("169.254.10.2", "health.example"), 'guest ips1: probes 2: url: "http://health.example'),
    ("slow without sense", changed('"inband",', '"inband", slow = { limit = "1s" },'),
     "guest ips1: probes 1: slow: limit"),
    ("frame too short", changed('"inband",', '"inband", frame = "0123",'), "guest ips1: probes 1: frame: 2 bytes"),
    ("half a frame", changed('"inband",', '"inband", frame = "012",'), "guest ips1: probes 1: frame: an odd"),
    ("negative alone", changed('"inband", interval = "20ms", misses = 2', f'"negative", frame = "{"00" * 60}"'),
     "guest ips1: probes: a negative heartbeat alone proves nothing"),
    ("tcp without port", changed('"http", url = "http://169.254.10.2/health"', '"tcp", target = "192.0.2.1"'),
     'guest ips1: probes 2: target: "192.0.2.1" is not an address and a port'),
    ("arp without device", changed('"http", url = "http://169.254.10.2/health"', '"arp", target = "192.0.2.1"'),
     "guest ips1: probes 2: via: a probe of kind"),
    ("ping by name", changed('"http", url = "http://169.254.10.2/health"', '"ping", target = "gateway"'),
     'guest ips1: probes 2: target: "gateway" is not an IP address'),
    ("quarantine without recorder", changed('accept = "ip or ip6"', 'recorder = { frames = 0 }\nquarantine = {}'),
     "guest ips1: quarantine: needs the recorder"),
    ("recorder too large", changed('accept = "ip or ip6"', "recorder = { frames = 5000 }"), "guest ips1: recorder"),
    ("unknown probe", changed('"inband"', '"telepathy"'), 'guest ips1: probes 1: kind: "telepathy" is not one of'),
    ("lan is wan", changed('"wan0"', '"lan0"'), 'segment main: wan: "lan0" is also the lan port'),
    ("no port", changed('"wan0"', '""'), "segment main: wan: is empty: name a port"),
    ("port twice", GOOD + '[[segment]]\nname = "b"\nlan = "lan1"\nwan = "wan0"\n',
     'segment b: wan: port "wan0" is already used by segment main'),
    ("segment twice", GOOD + '[[segment]]\nname = "main"\nlan = "lan1"\nwan = "wan1"\n',
     'segment main: name: "main" is already the name of a segment'),
    ("remote", GOOD + REMOTE, "remote far: tunnel: remote: 198.51.100.7 is IPv4, and the management port has no"),
    ("name of two guests", changed('name = "dpi"', 'name = "ips2"').replace(', "dpi"]', "]"),
     'guest ips2: name: "ips2" is already the name of a guest'),
    ("name of two groups", GOOD + '[[group]]\nname = "ips"\nstandby = ["ips2"]\n',
     'group ips: name: "ips" is already the name of a group'),
    ("rule twice", GOOD + '[[rule]]\nname = "web"\n', 'rule web: name: "web" is already the name of a rule'),
    ("guest without image", changed('image = "ips1.qcow2"\n', ""), "guest ips1: image: a guest needs an image"),
    ("initrd alone", changed("cpus = 1", 'initrd = "x"'), "guest ips1: initrd: is used only with a kernel"),
    ("balance and standby", GOOD.replace("[[rule]]", 'standby = ["dpi"]\n[[rule]]').replace(', "dpi"]', "]"),
     "group ips: standby: give either balance or standby, not both"),
    ("spare of a standby group", GOOD + '[[group]]\nname = "x"\nstandby = ["ips2"]\nspare = ["dpi"]\n',
     "group x: spare: only a balanced group has spare members"),
    ("spare that is a member", GOOD + '[[group]]\nname = "x"\nbalance = [{ hop = "dpi" }]\nspare = ["dpi"]\n',
     'group x: spare: "dpi" is listed twice'),
    ("more members than there are", GOOD + '[[group]]\nname = "x"\nstandby = ["ips2", "dpi"]\nminimum = 3\n',
     "group x: minimum: 3, but it has only 2 members: it would never be available"),
    ("no minimum", GOOD + '[[group]]\nname = "x"\nstandby = ["ips2"]\nminimum = 0\n',
     "group x: minimum: 0 is too small: at least 1"),
    ("unknown hash", GOOD + '[[group]]\nname = "x"\nstandby = ["ips2"]\nhash = "4-tuple"\n', "group x: hash: "),
    ("group without members", GOOD + '[[group]]\nname = "x"\n', "group x: balance: a group needs members"),
    ("weight 0", changed("weight = 50", "weight = 0"), "group ips: balance 1: weight: 0 is too small: at least 1"),
    ("unknown member", changed('hop = "ips2"', 'hop = "isp2"'), 'group ips: balance: no guest or remote is named'),
    ("member twice", changed('hop = "ips2"', 'hop = "ips1"'), 'group ips: balance: "ips1" is listed twice'),
    ("group in group", GOOD + '[[group]]\nname = "x"\nstandby = ["ips"]\n', 'group x: standby: "ips" is a group;'),
    ("group in itself", GOOD + '[[group]]\nname = "x"\nstandby = ["x"]\n', 'group x: standby: "x" is a group (a loop)'),
    ("unknown segment", changed('segment = "main"', 'segment = "mian"'), 'rule web: segment: no segment is named'),
    ("unknown hop", changed('"ips", "dpi"]', '"ips", "dpo"]'), 'rule web: path: no guest, remote or group is named'),
    ("loop", changed('"ips", "dpi"]', '"dpi", "dpi"]'), 'rule web: path: "dpi" is in the path twice: a loop'),
    ("loop through a group", changed('"ips", "dpi"]', '"ips2", "ips"]'), 'rule web: path: "ips2" is in the path twice'),
    ("segments", _many(17, '[[segment]]\nname = "s{n}"\nlan = "l{n}"\nwan = "w{n}"\n'),
     "segment: 17 segments are more than MAX_SEGMENTS = 16"),
    ("hops", _many(128, GUEST), "guest: 128 guests and remotes are more than MAX_HOPS = 127"),
    ("groups", GOOD + _many(64, '[[group]]\nname = "x{n}"\nstandby = ["dpi"]\n'),
     "group: 65 groups are more than MAX_GROUPS = 64"),
    ("rules", _many(4097, '[[rule]]\nname = "r{n}"\n'), "rule: 4097 rules are more than MAX_RULES = 4096"),
    ("path", _many(9, GUEST) + f'[[rule]]\nname = "r"\npath = {[f"g{n}" for n in range(9)]}\n',
     "rule r: path: 9 hops are more than MAX_PATH = 8"),
    ("members", _many(9, GUEST) + f'[[group]]\nname = "r"\nstandby = {[f"g{n}" for n in range(9)]}\n',
     "group r: standby: 9 members are more than MAX_MEMBERS = 8"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_error(text: str, expected: str) -> None:
    """Each kind of mistake gives exactly one error, which names table and key."""
    found = errors(text)
    assert len(found) == 1, found
    assert found[0].startswith(expected)


def test_full_tables_are_good() -> None:
    """The limits themselves are allowed."""
    text = _many(127, GUEST) + _many(4096, '[[rule]]\nname = "r{n}"\n')
    text += _many(16, '[[segment]]\nname = "s{n}"\nlan = "l{n}"\nwan = "w{n}"\n')
    assert errors(text + f'[[rule]]\nname = "p"\npath = {[f"g{n}" for n in range(8)]}\n'.replace("r4095", "x")) == [
        "rule: 4097 rules are more than MAX_RULES = 4096 (line 382)"
    ]
    assert errors(text) == []


def test_several_errors_in_one_run_with_lines() -> None:
    """All mistakes are reported together, each with the line it stands on."""
    text = changed("cpus = 1", "cpus = 0").replace('"lan0"', "7").replace("[[rule]]", "[[rule]]\nnote = 1")
    found = check(text, "FILE", filters=False)
    assert [(e.source, e.where) for e in found] == [
        ("FILE", "segment main: lan"),
        ("FILE", "guest ips1: cpus"),
        ("FILE", "rule web: note"),
    ]
    for error in found:
        line = int(re.search(r"\(line (\d+)\)", error.what)[1])  # type: ignore[index]
        key = error.where.rsplit(": ", 1)[1]
        assert text.splitlines()[line - 1].startswith(f"{key} =")
    with pytest.raises(ConfigError) as caught:
        loads(text, "FILE", filters=False)
    assert [str(error) for error in (caught.value, *caught.value.also)] == [str(error) for error in found]


def test_lines_are_not_fooled_by_multi_line_text() -> None:
    """Text that looks like a key inside a multi-line string is not a key."""
    text = '[[guest]]\nname = "g"\ncmdline = """\ncpus = 1\n"""\nkernel = "k"\ncpus = 0\n'
    assert str(check(text, filters=False)[0]).endswith("(line 7)")


def test_unreadable_files(tmp_path: Path) -> None:
    """A missing file, a folder, binary data and an oversized file are errors of the same form."""
    with pytest.raises(ConfigError, match=r"none\.toml: file: cannot be read: No such file or directory"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="file: cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "a").write_bytes(b"[system]\n\xff")
    with pytest.raises(ConfigError, match=r"a: file: is not UTF-8 text \(line 2\)"):
        load(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"#" * (limits.MAX_FILE + 1))
    with pytest.raises(ConfigError, match="is larger than MAX_FILE"):
        load(tmp_path / "b")
    with pytest.raises(ConfigError, match="embedded null"):
        read_text("a\0b")


def test_filters_are_compiled_and_named() -> None:
    """A bad filter names its rule or guest; a compiler that cannot work is reported once."""
    config = loads(GOOD, filters=False)

    def refuse(text: str, _: tuple[str, ...]) -> None:
        if "443" in text:
            raise FilterError("syntax\nerror")

    assert [str(e) for e in verify(config, refuse, "F")] == ["F: rule web: match: syntax error"]

    def absent(_: str, __: tuple[str, ...]) -> None:
        raise UnreachableError("no libpcap")

    assert [str(e) for e in verify(config, absent)] == ["guest ips1: accept: no libpcap"]


def test_missing_libpcap_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libpcap, filters are not silently accepted."""
    monkeypatch.delattr("appliance.filter.compiler", raising=False)
    monkeypatch.setitem(sys.modules, "appliance.filter.compiler", None)
    found = check(GOOD)
    assert len(found) == 1
    assert found[0].what.startswith("filters cannot be checked without libpcap")
    assert check(GOOD.replace('accept = "ip or ip6"', "").replace('match = "tcp port 80 or tcp port 443"', "")) == []


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    """Editors put it before UTF-8 text; lines and edits are as without it."""
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load(file) == loads(GOOD)
    document = Document(read_text(file))
    document.assign(Assign(("system", "hostname"), "wire2"))
    assert loads(document.text).system.hostname == "wire2"
    assert not document.comments_lost
    (found,) = check(read_text(file).replace('"lan0"', '"wan0"'))
    assert "(line 7)" in found.what
    (found,) = check(read_text(file).replace("[system]", "[system"))
    assert "(line 1, column" in found.what


def test_real_libpcap() -> None:
    """libpcap's own message arrives with the rule's name."""
    assert check(GOOD) == []
    found = check(changed("tcp port 443", "tcp prot 443"))
    assert len(found) == 1
    assert found[0].where == "rule web: match"
    filter_text, caret = found[0].pointer.splitlines()
    assert filter_text[caret.index("^") :].startswith("prot")
    assert "\n" not in found[0].what


@pytest.mark.parametrize(
    ("filter_text", "line", "column", "place", "shown"),
    [
        ('"tcp port 80 or tcp prot 443"', 1, 20, ", column 20 of the filter)", "tcp port 80 or tcp prot 443"),
        ('"""\ntcp port 80 or\n  tcp prot 443\n"""', 2, 7, "; line 2, column 7 of the filter)", "  tcp prot 443"),
        ('"udp）or tcp"', 1, 4, ", column 4 of the filter)", "udp）or tcp"),
        ('"tcp port 80 and "', 1, 17, ", column 17 of the filter)", "tcp port 80 and "),
    ],
    ids=["one line", "lines", "full width", "end"],
)
def test_a_filter_error_has_its_place(filter_text: str, line: int, column: int, place: str, shown: str) -> None:
    """Line and column, in the message, as numbers, and as a caret below the line; full-width letters take two cells."""
    (found,) = check(changed('"tcp port 80 or tcp port 443"', filter_text))
    assert found.what.endswith(f"(line {found.line}{place}")
    assert {"line": found.line, "filter_line": line, "filter_column": column}.items() <= facts(found).items()
    text, caret = found.pointer.splitlines()
    assert text == shown
    assert caret.index("^") == cells(text[: column - 1])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("(udp）and tcp", '"）" (U+FF09) is not ASCII: did you mean ")"?'),
        ("tcp\u00a0port 80", "(U+00A0) is not ASCII: did you mean"),
        ("tcp.port == 80", "a display filter of Wireshark"),
        ("ip.src eq 10.0.0.1", "a display filter of Wireshark"),
        ("foo.bar == 1", "a display filter of Wireshark"),
        ("host www.example.com", "give an address"),
    ],
)
def test_what_was_meant_by_a_filter(text: str, what: str) -> None:
    (found,) = check(changed("tcp port 80 or tcp port 443", text))
    assert what in found.what


def test_times_and_sizes_read_as_written() -> None:
    """A value prints as a person would write it."""
    for text in ("100ms", "2s", "5min", "3h", "7us", "9ns"):
        assert str(Duration.parse(text)) == text
    for text in ("512M", "2G", "3K", "17"):
        assert str(Size.parse(text)) == text


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_give_only_config_errors(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Whatever is in the file, the loader answers with a configuration or a ConfigError of one line."""
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_bytes(data)
    try:
        load(path, filters=False)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017


_KEYS = sorted(
    {field.encode_name for field in msgspec.structs.fields(Config)}
    | {"name", "lan", "wan", "mode", "image", "memory", "probes", "kind", "path", "match", "hop", "weight", "tunnel"}
    | {"balance", "standby", "heartbeat", "interval", "url", "a b", "x\n"}
)
_VALUES = st.recursive(
    st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=12), st.dates().map(str)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(_KEYS), _VALUES, max_size=5))
def test_any_toml_gives_only_config_errors(data: dict[str, object]) -> None:
    """Well-formed TOML of the wrong shape is refused the same way."""
    import tomlkit

    for error in check(tomlkit.dumps(data), filters=False):
        assert isinstance(error, ConfigError)
        assert "\n" not in str(error)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_mutation_of_a_good_file_gives_only_config_errors(data: st.DataObject) -> None:
    """A good file with one place overwritten loads or is refused; it never crashes the loader."""
    start = data.draw(st.integers(0, len(GOOD) - 1))
    length = data.draw(st.integers(0, 30))
    text = GOOD[:start] + data.draw(st.text(max_size=10)) + GOOD[start + length :]
    assert all(isinstance(error, ConfigError) for error in check(text, filters=False))
