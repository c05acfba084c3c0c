# SPDX-License-Identifier: GPL-2.0-only
"""The command table and its parser: abbreviations, ambiguity, options, pipes, `?` and Tab."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.api.rpc import ROLES
from console.execute import located
from console.line.command import Arg
from console.line.commands import COMMANDS
from console.line.complete import completion, listed
from console.line.configure_commands import ROWS
from console.line.manual import commands, manual
from console.line.parse import Table, UsageError, complete, parse, seconds, tokenize


def words(line: str, table: Table = COMMANDS) -> str:
    """The row a line leads to, with its values: `segment NAME bypass {NAME: main}`."""
    parsed = parse(tokenize(line)[0], table)
    row = " ".join(word if isinstance(word, str) else word.name for word in parsed.command.words)
    values = "".join(f" {name}={value}" for name, value in parsed.args.items())
    options = "".join(f" {flag}={value}" for flag, value in parsed.options.items())
    pipes = "".join(f" | {pipe.command.words[0]}{list(pipe.args.values())}" for pipe in parsed.pipes)
    return row + values + options + pipes


GOOD = [
    ("show status", "show status"),
    ("sh st", "show status"),
    ("  sh   ru  ", "show rules"),
    ("show status --json", "show status --json=[]"),
    ("show --json status", "show status --json=[]"),
    ("show transitions", "show transitions COUNT"),
    ("show trans 5", "show transitions COUNT COUNT=5"),
    ("segment main bypass", "segment NAME bypass NAME=main"),
    ("seg main a", "segment NAME auto NAME=main"),
    ("show guest ips1", "show guest NAME NAME=ips1"),
    ("show guests", "show guests"),
    ("show gu", "show guests"),
    ("sh gu", "show guests"),
    ("sh gu --json | count", "show guests --json=[] | count[]"),
    ("show gu ips1", "show guest NAME NAME=ips1"),
    ("show gu ips1 --json", "show guest NAME NAME=ips1 --json=[]"),
    ("guest ips1 sta", "guest NAME start NAME=ips1"),
    ("guest stop stop", "guest NAME stop NAME=stop"),
    ("inc 7 exp x.pcapng", "incident NUMBER export FILE NUMBER=7 FILE=x.pcapng"),
    ("quarantine quarantine-1 rel", "quarantine NAME release NAME=quarantine-1"),
    ("guest ips1 command hang 5", "guest NAME command WORD VALUE NAME=ips1 WORD=hang VALUE=5"),
    ('guest ips1 command "a b" --json', "guest NAME command WORD VALUE NAME=ips1 WORD=a b --json=[]"),
    ("guest ips1 command -- --x", "guest NAME command WORD VALUE NAME=ips1 WORD=--x"),
    ("guest ips1 command '--x'", "guest NAME command WORD VALUE NAME=ips1 WORD=--x"),
    ("check a\\ b.toml", "check FILE FILE=a b.toml"),
    ("capture port lan0", "capture port NAME FILTER NAME=lan0"),
    ("cap po lan0 count 10 tcp port 80", "capture port NAME FILTER NAME=lan0 FILTER=tcp port 80 count=['10']"),
    ("capture guest ips1 wan udp or len > 100 count 3 direction in",
     "capture guest NAME SIDE FILTER NAME=ips1 SIDE=wan FILTER=udp or len > 100 count=['3'] direction=['in']"),
    ("capture guest count count 4", "capture guest NAME SIDE FILTER NAME=count count=['4']"),
    ("capture remote dpi wan", "capture remote NAME SIDE FILTER NAME=dpi SIDE=wan"),
    ("remote dpi bypass", "remote NAME bypass NAME=dpi"),
    ("show remote dpi", "show remote NAME NAME=dpi"),
    ("sh remotes", "show remotes"),
    ("capture guest ips1 udp", "capture guest NAME SIDE FILTER NAME=ips1 FILTER=udp"),
    ("capture port lan0 'count'", "capture port NAME FILTER NAME=lan0 FILTER=count"),
    ("show packets segment main arp detail | count",
     "show packets segment NAME FILTER NAME=main FILTER=arp detail=[] | count[]"),
    ("show log", "show log SOURCE"),
    ("sh log ker li 50 mat eth", "show log SOURCE SOURCE=kernel lines=['50'] match=['eth']"),
    ("sh log gu ips1 fo", "show log guest NAME NAME=ips1 follow=[]"),
    ("ping box cou 3", "ping HOST HOST=box count=['3']"),
    ("reb in 10 h", "reboot in TIME UNIT TIME=10 UNIT=h"),
    ("reb c", "reboot cancel"),
    ("factory-reset k", "factory-reset WHAT WHAT=keep-images"),
    ("drill run rel", "drill run KIND KIND=relay"),
    ("explain --live u 10.0.0.5 10.1.0.9:53 --in w",
     "explain PROTOCOL SOURCE DESTINATION PROTOCOL=udp SOURCE=10.0.0.5 DESTINATION=10.1.0.9:53 --live=[] --in=['wan']"),
    ("capture port lan0 cou", "capture port NAME FILTER NAME=lan0 FILTER=cou"),
    ("help show status", "help WORDS WORDS=show status"),
    ("help", "help WORDS"),
    ("exit", "exit"),
    ("show guests | match ips | count", "show guests | match['ips'] | count[]"),
    ("show guests|m 'a|b'|js", "show guests | match['a|b'] | json[]"),
    ("explain --config c --in lan --pcap p", "explain --config=['c'] --in=['lan'] --pcap=['p']"),
    ("explain --live udp 10.0.0.5:1234 10.1.0.9:53",
     "explain PROTOCOL SOURCE DESTINATION PROTOCOL=udp SOURCE=10.0.0.5:1234 DESTINATION=10.1.0.9:53 --live=[]"),
    ("explain --live --pcap f --in wan", "explain --live=[] --pcap=['f'] --in=['wan']"),
    ("explain --config=c --in=wan --pcap=p --down a --down b --backend model --json",
     "explain --config=['c'] --in=['wan'] --pcap=['p'] --down=['a', 'b'] --backend=['model'] --json=[]"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "expected"), GOOD, ids=[line for line, _ in GOOD])
def test_understood(line: str, expected: str) -> None:
    """A line leads to its row, abbreviated or not, with values, options and pipes."""
    assert words(line) == expected


BAD = [
    ("", "no command"),
    ("| count", "no command"),
    ("bogus", 'unknown command "bogus"; type `?` for the list'),
    ("show", 'incomplete command after "show"; type `show ?` for the list'),
    ("show memery", 'unknown argument "memery" after "show"; type `show ?` for the list'),
    ("show s", 'ambiguous command "show s": status, segments'),
    ("guest ips1 st", 'ambiguous command "guest ips1 st": start, stop'),
    ("show guest", 'incomplete command after "show guest"; expected: NAME'),
    ("show gu ips1 ips2", 'unexpected argument "ips2" after "show gu ips1"'),
    ("show guests ips1", 'unexpected argument "ips1" after "show guests"'),
    ("show log nowhere", 'unexpected argument "nowhere" after "show log"; expected: supervisor, kernel,'),
    ("show log kernel nowhere", 'unexpected argument "nowhere" after "show log kernel"'),
    ("show status now", 'unexpected argument "now" after "show status"'),
    ("show transitions many", 'COUNT must be a number, not "many"'),
    ("show transitions ٣", "COUNT must be a number"),
    ("segment", 'incomplete command after "segment"; expected: NAME'),
    ("segment main", 'incomplete command after "segment main"; expected: bypass, auto'),
    ("shwo status", 'unknown command "shwo"; did you mean "show"? type `?` for the list'),
    ("guest ips1 stpo", 'unknown argument "stpo" after "guest ips1"; did you mean "stop"? expected: show, start, stop'),
    ("segment main shut", 'unknown argument "shut" after "segment main"; expected: bypass, auto, disconnect, inline'),
    ("show status --jso", 'unknown option --jso after "show status"; options: --json'),
    ("show status --json --json", "--json may be given only once"),
    ("show status --json=1", "--json takes no value"),
    ("exit --json", "unknown option --json"),
    ("explain --config c", "missing option --in: side on which the frames arrive"),
    ("explain", 'incomplete command after "explain"; expected: --config or --live'),
    ("explain --live", "missing option --pcap: the frames; or describe a flow: explain --live udp"),
    ("explain --live udp 10.0.0.5:1", "incomplete command after"),
    ("explain --live gre a b", 'PROTOCOL must be udp, tcp or icmp, not "gre"'),
    ("explain --config", "--config needs a value"),
    ("explain --config c --in up", '--in must be lan or wan, not "up"'),
    ("show log d", 'ambiguous command "show log d": dhcp, data-partition'),
    ("show log kernel lines 0", "lines must be 1 to 5000, not 0"),
    ("ping box count x", 'count must be a number, not "x"'),
    ("ping box count 100001", "count must be 1 to 100000, not 100001"),
    ("traceroute box hops 0", "hops must be 1 to 64, not 0"),
    ("tcp box 65536", "PORT must be 1 to 65535, not 65536"),
    ("reboot in 10 days", 'unexpected argument "days" after "reboot in 10"; expected: s, sec'),
    ("reboot n", 'unknown argument "n" after "reboot"; expected: now, in, at, cancel'),
    ("reboot now f", 'unexpected argument "f" after "reboot now"'),
    ("factory-reset all n", 'unexpected argument "n" after "factory-reset all"'),
    ("show guests |", "expected a command after |"),
    ("show guests | match", 'incomplete command after "match"; expected: PATTERN'),
    ("show guests | grep x", 'unknown command "grep"; expected: match, except, json, count, save'),
    ("show ''", 'unknown argument "" after "show"'),
    ("capture hop dpi", 'unknown argument "hop" after "capture"; expected: port, guest, remote, segment'),
]


@pytest.mark.parametrize(
    ("line", "table"),
    [
        ("capture port lan0 tcp[tcpflags] & (tcp-syn|tcp-ack) != 0", COMMANDS),
        ("capture port lan0 tcp port 80 || udp", COMMANDS),
        ("set rule web match tcp[tcpflags] & (tcp-syn|tcp-ack) != 0", ROWS),
    ],
)
def test_a_pipe_in_a_filter_gets_a_hint(line: str, table: Table) -> None:
    """An unquoted | of a filter begins a pipe; the error says to quote it."""
    with pytest.raises(UsageError, match=r"put a value that contains \| in quotes"):
        parse(tokenize(line)[0], table)


TIMES = [
    ("10", 10, True), ("10s", 10, False), ("10m", 600, False), ("10min", 600, False), ("10 min", 600, False),
    ("10 m", 600, False), ("90 seconds", 90, False), ("1h", 3600, False), ("2 minutes", 120, False),
]  # fmt: skip


@pytest.mark.parametrize("comment", ["", " comment 5 min of work"])
@pytest.mark.parametrize(("typed", "expected", "bare"), TIMES, ids=[typed for typed, _, _ in TIMES])
def test_times_have_units(typed: str, expected: int, bare: bool, comment: str) -> None:
    """`commit confirmed` takes seconds, or a time with its unit attached or as the next word."""
    parsed = parse(tokenize(f"commit confirmed {typed}{comment}")[0], ROWS)
    assert seconds(parsed.args["SECONDS"], parsed.args.get("UNIT", "")) == expected
    assert parsed.args.get("TEXT", "") == comment.removeprefix(" comment ")
    assert (parsed.args["SECONDS"].isdigit() and "UNIT" not in parsed.args) is bare


def test_a_time_with_two_units_is_refused() -> None:
    parsed = parse(tokenize("commit confirmed 10s min")[0], ROWS)
    with pytest.raises(UsageError, match="two units"):
        seconds(parsed.args["SECONDS"], parsed.args["UNIT"])


TYPED_BY_HABIT = [
    (COMMANDS, "show running-config", "show configuration WORDS"),
    (COMMANDS, "sh run", "show configuration WORDS"),
    (COMMANDS, "sh run rule web", "show configuration WORDS WORDS=rule web"),
    (COMMANDS, "show startup-config", "show configuration WORDS of=['startup']"),
    (COMMANDS, "sh users | count", "show sessions | count[]"),
    (COMMANDS, "show history", "show commits"),
    (COMMANDS, "show int", "show ports"),
    (COMMANDS, "show ntp", "show clock"),
    (COMMANDS, "show lldp neighbors", "show lldp"),
    (COMMANDS, "show snmp-server", "show snmp"),
    (COMMANDS, "show logging", "show log SOURCE"),
    (COMMANDS, "show inventory", "show system"),
    (COMMANDS, "show environment", "show system"),
    (COMMANDS, "show memory", "show system"),
    (COMMANDS, "show uptime", "show system"),
    (COMMANDS, "show date", "show clock"),
    (COMMANDS, "nslookup example.org", "dns HOST HOST=example.org"),
    (COMMANDS, "who", "show sessions"),
    (COMMANDS, "reload", "reboot"),
    (COMMANDS, "conf t", "configure terminal"),
    (COMMANDS, "conf", "configure LINE"),
    (COMMANDS, "configure terminal", "configure terminal"),
    (COMMANDS, "confirm", "configuration confirm"),
    (COMMANDS, "revert", "configuration revert"),
    (ROWS, "no rule web", "delete WORDS WORDS=rule web"),
    (ROWS, "show of running", "show WORDS of=['running']"),
]


@pytest.mark.parametrize(("table", "line", "expected"), TYPED_BY_HABIT, ids=[line for _, line, _ in TYPED_BY_HABIT])
def test_what_hands_type_by_habit_is_understood(table: Table, line: str, expected: str) -> None:
    assert words(line, table) == expected


ANSWERED = [
    (COMMANDS, "set", '"set" is a command of `configure`: type `configure` first, or `configure set` for it alone'),
    (COMMANDS, "set rule web path ips1", "or `configure set rule web path ips1` for it alone"),
    (COMMANDS, "commit", '"commit" is a command of `configure`'),
    (COMMANDS, "delete rule web", '"delete" is a command of `configure`'),
    (COMMANDS, "write", '"write" is not a command here: what was committed is kept, also over a restart'),
    (COMMANDS, "wr mem", "what was committed is kept"),
    (COMMANDS, "copy run start", "what was committed is kept"),
    (COMMANDS, "en", '"enable" is not a command here: your role decides what you may do'),
    (COMMANDS, "show i", 'ambiguous command "show i": incidents, images'),
    (COMMANDS, "do show clock", "it is needed in `configure` only"),
    (COMMANDS, "shutdown", "use `reboot` or `poweroff`"),
    (COMMANDS, "halt", "use `reboot` or `poweroff`"),
    (COMMANDS, "telnet 192.0.2.1 22", "use `tcp HOST 22`"),
    (COMMANDS, "ping -c 3 192.0.2.1", "use `ping HOST count 3`"),
    (COMMANDS, "show tech-support", "use `support-bundle FILE`"),
    (COMMANDS, "request system reboot", "use `reboot` or `poweroff`"),
    (COMMANDS, "erase startup-config", "use `factory-reset`"),
    (COMMANDS, "scp -t /tmp/x", '"scp" is not a command here: files come and go by commands'),
    (COMMANDS, "/usr/libexec/sftp-server", "`ssh USER@BOX guest import - --name NAME < FILE`"),
    (ROWS, "write", '"write" is not a command here: use `commit`'),
    (ROWS, "abort", "use `discard`, then `exit`"),
    (ROWS, "commit and-quit", "use `commit`, then `exit`"),
    (ROWS, "conf t", "you are in `configure`"),
    (ROWS, "guest ips1 stop", '"guest ips1 stop" is a command of the shell: `run guest ips1 stop`'),
    (ROWS, "set", 'incomplete command after "set"'),
    (ROWS, "bogus", 'unknown command "bogus"; type `?` for the list'),
]


@pytest.mark.parametrize(
    ("table", "line", "says"), ANSWERED, ids=[f"{line}-{n}" for n, (_, line, _) in enumerate(ANSWERED)]
)
def test_what_is_typed_at_the_wrong_level_is_answered(table: Table, line: str, says: str) -> None:
    """It never does something else: `set` is not short for `setup`."""
    with pytest.raises(UsageError) as caught:
        words(line, table)
    assert says in str(caught.value)


HABITS = [
    ("commit confirmed soon", 'SECONDS must be a number of seconds, or a time such as 90s, 10min or 1h, not "soon"'),
    ("commit confirmed 10 fortnights", 'unknown argument "fortnights" after "commit confirmed 10"; expected: comment'),
    ("commit-confirm 10", '"commit-confirm" is not a command here: use `commit confirmed 600`, which is in seconds'),
    ("show | compare", '"show | compare" is not a command here: use `compare`'),
    ("exit discard", '"exit discard" is not a command here: use `discard`, then `exit`'),
]


@pytest.mark.parametrize(("line", "says"), HABITS, ids=[line for line, _ in HABITS])
def test_what_other_appliances_call_it(line: str, says: str) -> None:
    """Commands of other appliances are answered with the right one."""
    with pytest.raises(UsageError) as caught:
        parse(tokenize(line)[0], ROWS)
    assert says in str(caught.value)


@pytest.mark.parametrize(("line", "expected"), BAD, ids=[line for line, _ in BAD])
def test_refused(line: str, expected: str) -> None:
    """A line that is not a command is refused with the reason and the possible words."""
    with pytest.raises(UsageError) as caught:
        words(line)
    assert str(caught.value).startswith(expected)


FOLLOWING = [
    ("", list(dict.fromkeys(str(row.words[0]) for row in COMMANDS))),
    ("seg", ["segment"]),
    ("capture guest ips1 ", ["lan", "wan", "FILTER", "count", "direction", "bytes", "file"]),
    ("capture guest ips1 lan tcp count 5 d", ["FILTER", "direction"]),
    ("show tr", ["transitions"]),
    ("show gu", ["guests", "guest"]),
    ("show gu ", ["NAME"]),
    ("segment ", ["NAME"]),
    ("segment main ", ["bypass", "auto", "disconnect", "inline", "maintenance"]),
    ("show status ", ["--json"]),
    ("show status --", ["--json"]),
    ("show transitions ", ["COUNT"]),
    ("explain --in ", ["lan", "wan"]),
    ("explain --in w", ["wan"]),
    ("explain --b", ["--backend"]),
    ("show guests | ", ["match", "except", "json", "count", "save"]),
    ("show guests |", ["match", "except", "json", "count", "save"]),
    ("show guests | m", ["match"]),
    ("bogus ", []),
    ("show status x ", []),
]


@pytest.mark.parametrize(("line", "expected"), FOLLOWING, ids=[line or "(nothing)" for line, _ in FOLLOWING])
def test_what_may_follow(line: str, expected: list[str]) -> None:
    """`?` and Tab offer exactly what the parser would accept."""
    assert [item.text for item in complete(line)[2]] == expected


def live(arg: Arg, partial: str, _: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    known = {"guests": ["ips1", "ips2", "nat"], "file": ["a b/", "a c"]}
    return [(name, "running") for name in known.get(arg.source, []) if name.startswith(partial)]


@pytest.mark.parametrize(
    ("line", "insert", "rows"),
    [
        ("sh", "ow ", []),
        ("show ", "", list(dict.fromkeys(str(row.words[1]) for row in COMMANDS if row.words[0] == "show"))),
        ("show cr", "ash-log ", []),
        ("show v", "ersion ", []),
        ("guest i", "", ["ips1", "ips2", "import"]),
        ("guest ips", "", ["ips1", "ips2"]),
        ("guest n", "at ", []),
        ("guest ", "", ["ips1", "ips2", "nat", "import"]),
        ("guest x", "", ["NAME"]),
        ("check a", "\\ ", []),
        ("segment ", "", ["NAME"]),
        ("explain --pc", "ap ", []),
        ("nothing ", "", []),
    ],
)
def test_tab(line: str, insert: str, rows: list[str]) -> None:
    """Tab inserts what is unambiguous, names of the live system included, and shows the rest with its meaning."""
    found = completion(line, live)
    assert (found.insert, [name for name, _ in found.rows]) == (insert, rows)


def test_the_table_is_sound() -> None:
    """No two rows are typed alike; each runs something that exists, has a help text and a role."""
    assert len({command.syntax for command in COMMANDS}) == len(COMMANDS)
    for command in COMMANDS:
        assert bool(command.method) != bool(command.local)
        assert not command.local or callable(located(command.local))
        assert command.role in ROLES
        assert command.help
        optional = [isinstance(word, Arg) and word.optional for word in command.words]
        assert optional == sorted(optional)  # they stand at the end


def test_every_row_can_be_typed() -> None:
    """Each row, typed with example values, is understood as itself."""
    for command in COMMANDS:
        words = (w if isinstance(w, str) else w.choices[0] if w.choices else "7" for w in command.words)
        line = " ".join(words)
        for option in command.options:
            if option.required:
                value = (option.value.choices or ("x",))[0] if option.value else ""
                line += f" {option.flag} {value}"
        assert parse(tokenize(line)[0]).command is command


def test_the_list_of_commands_is_the_table() -> None:
    """COMMANDS.md is the program's own; `python -m console.line.manual > console/COMMANDS.md` writes it anew."""
    listed = (Path(__file__).parents[3] / "console" / "COMMANDS.md").read_text()
    assert listed == manual()


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.sampled_from("show guetix-|\"'\\? =json1\t\x00é"), max_size=40))
def test_any_line_is_parsed_or_refused(line: str) -> None:
    """Whatever is typed, the answer is a command or a UsageError, and completion never fails."""
    tokens, _ = tokenize(line)
    for token in tokens:
        assert 0 <= token.start < len(line)
    try:
        parse(tokens)
    except UsageError as error:
        assert str(error)  # noqa: PT017
    completion(line, live)


def test_what_several_choices_mean_is_said_once() -> None:
    """Where it takes several lines; short meanings stand beside each, because two guests may be in the same state."""
    rows = [("on", "a long text that needs two lines"), ("off", "a long text that needs two lines"), ("x", "short")]
    assert listed(rows, 30) == ("  on   a long text that needs\n       two lines\n  off\n  x    short")
    assert listed([("a", "running"), ("b", "running")], 30) == "  a  running\n  b  running"


@pytest.mark.parametrize(
    ("typed", "syntax"),
    [
        ("guest drain", ["guest NAME drain"]),
        ("guest ips1 drain", ["guest NAME drain"]),
        ("guest dr", ["guest NAME drain"]),
        ("sh ru", ["show rules", "show rules detail"]),
        ("image", ["image NAME undo", "image NAME remove"]),
        ("nothing", []),
    ],
)
def test_help_finds_a_command_by_its_words(typed: str, syntax: list[str]) -> None:
    """With the names of guests and the like or without, abbreviated or not."""
    lines = [line.strip() for line in commands(typed)]
    assert [line.partition("  ")[0] for line in lines] == syntax
