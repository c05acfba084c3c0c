# SPDX-License-Identifier: GPL-2.0-only
"""Every command, as one table: words, arguments, what runs it, who may, how its data is shown.

The parser, `?`, Tab, `help`, the one-shot client and the README are all made from this table; a new command is a new
row. Pure data, and quick to import: nothing here reaches for the daemon or the terminal.
"""

from __future__ import annotations

from console.line.command import Arg, Command, Option
from console.line.configure_commands import FORM, TAKEOVER, WHICH

JSON = Option("--json", "print data as JSON")
SEGMENT = Arg("NAME", "a segment", source="segments")
GUEST = Arg("NAME", "a guest", source="guests")
REMOTE = Arg("NAME", "a remote", source="remotes")
PORT = Arg("NAME", "a port", source="ports")
FILE = Arg("FILE", "a configuration file", source="file")
COUNT = Arg("COUNT", "how many of the newest; 20 on a terminal", optional=True, number=True, on_terminal=20)
INCIDENT = Arg("NUMBER", "an incident's number", source="incidents", number=True)
RECORD = Arg("NAME", "one record in full", optional=True)
LINES = Arg("LINES", "how many of the last; 40 when left out", optional=True, number=True)
IMAGE = Arg("NAME", "an image", source="images")
IMPORT = (
    Option("--name", "what it is called here", Arg("NAME", "letters, digits, ., _, + and -"), required=True),
    Option("--sha256", "what its checksum must be", Arg("SUM", "64 hex digits, as `sha256sum FILE` prints them")),
    Option("--kind", "what it is, when it is no disk", Arg("KIND", "disk, kernel or initrd",
                                                         choices=("disk", "kernel", "initrd"))),
    Option("--replace", "take the place of an image of this name; can be undone"),
    JSON,
)  # fmt: skip
AGENT = (
    Arg("WORD", "what the guest's agent knows"),
    Arg("VALUE", "its number, where it takes one", optional=True, number=True),
)

EXPLAIN = (
    Option("--config", "the configuration to run the frames through", FILE, required=True),
    Option("--in", "where the frames come in", Arg("PORT", "lan or wan", choices=("lan", "wan")), required=True),
    Option("--pcap", "the frames", Arg("FRAMES", "a pcap file", source="file"), required=True),
    Option("--segment", "the segment; needed when there are several", Arg("NAME", "a segment of the configuration")),
    Option("--backend", "the real program in the kernel, or the Python model",
           Arg("BACKEND", "kernel or model", choices=("kernel", "model"))),
    Option("--down", "a guest or remote that is not available", Arg("NAME", "a guest or remote"), repeat=True),
    JSON,
)  # fmt: skip
LIVE = (
    Option("--live", "ask the running datapath; nothing is sent, changed or counted", required=True),
    Option("--in", "where the frames come in; lan when left out", Arg("PORT", "lan or wan", choices=("lan", "wan"))),
    Option("--segment", "the segment; needed when there are several", Arg("NAME", "a segment", source="segments")),
    JSON,
)
FRAMES = EXPLAIN[2]._replace(help="the frames; or name a flow: explain --live udp 10.0.0.5:1234 10.1.0.9:53")
FLOW = (
    Arg("PROTOCOL", "udp, tcp or icmp", choices=("udp", "tcp", "icmp")),
    Arg("SOURCE", "ADDRESS:PORT, [IPV6]:PORT; for icmp ADDRESS"),
    Arg("DESTINATION", "the same"),
)


def _show(word: str, text: str, *args: Arg, view: str = "generic") -> Command:
    words: tuple[str | Arg, ...] = ("show", word, *args)
    return Command(words, text, method=f"{word}.show", view=view, options=(JSON,))


def _admin(words: tuple[str | Arg, ...], text: str, local: str) -> Command:
    return Command(words, text, local=local, role="admin")


def _segment(mode: str, text: str) -> Command:
    words: tuple[str | Arg, ...] = ("segment", SEGMENT, mode)
    return Command(
        words,
        text,
        method="segment.set",
        fixed=(("mode", mode),),
        role="operator",
        view="done",
        options=(JSON,),
        wait=30.0,
    )


def _guest(verb: str, text: str, *args: Arg) -> Command:
    words: tuple[str | Arg, ...] = ("guest", GUEST, verb, *args)
    return Command(words, text, method=f"guest.{verb}", role="operator", view="done", options=(JSON,), wait=120.0)


SHOW = (
    _show("status", "is the link inspected or bypassed, and why", view="status"),
    _show("segments", "port pairs: relay, links, how frames are taken", view="segments"),
    _show("guests", "guests: state, cause, lease", view="guests"),
    _show("guest", "one guest: which check failed, when, and what was good last", GUEST, view="guest"),
    _show("rules", "rules in order, with what they matched", view="rules"),
    _show("counters", "every frame accounted for: ports, rules, hops", view="counters"),
    _show("transitions", "what changed, when and why", COUNT, view="transitions"),
    _show("incidents", "guests that died or failed: when, why, what is kept of it", view="incidents"),
    _show("quarantine", "flows led around a guest that they killed, and why", view="quarantine"),
    _show("crash-log", "crash records of earlier starts", RECORD, view="crash"),
    _show("version", "versions of the appliance and of what it runs on"),
    _show("events", "what happened, with cause and severity: transitions, logins", COUNT, view="events"),
    _show("management", "management port, SSH with its host keys, users, metrics, syslog", view="management"),
    _show("sessions", "who is logged in over SSH", view="sessions"),
)

SEGMENTS = (
    _segment("bypass", "close the relay: the link is a wire, nothing is inspected"),
    _segment("auto", "inline whenever everything is healthy"),
)

GUESTS = (
    Command(("guest", GUEST, "show"), "as `show guest NAME`", "guest.show", view="guest", options=(JSON,)),
    _guest("start", "start the guest, or take it back into service"),
    _guest("stop", "stop the guest; its frames go on to the next hop or port"),
    _guest("pause", "stop its processors; its frames go on to the next hop or port"),
    _guest("resume", "let a paused guest go on; it must prove itself again"),
    _guest("drain", "new flows elsewhere, established ones stay until they end"),
    Command(
        ("guest", GUEST, "console"),
        "its serial line in this terminal; Ctrl-] leaves",
        local="console",
        role="operator",
    ),
    Command(
        ("guest", GUEST, "log", LINES),
        "what it printed on its serial line",
        "guest.log",
        view="guest-log",
        options=(JSON,),
    ),
    _guest("command", "tell the guest's application something", *AGENT),
)

INCIDENTS = (
    Command(
        ("incident", INCIDENT, "show"),
        "one incident: evidence, flows, the guest's last words",
        "incident.show",
        view="incident",
        options=(JSON,),
    ),
    Command(
        ("incident", INCIDENT, "export", Arg("FILE", "a new file; left out: standard output", "file", optional=True)),
        "the last frames that the guest was handed, as pcapng",
        local="incident_export:export",
        role="operator",
    ),
    Command(
        ("quarantine", Arg("NAME", "as `show quarantine` calls it", source="quarantine"), "release"),
        "let a flow go to its guest again",
        "quarantine.release",
        role="operator",
        view="done",
        options=(JSON,),
        wait=30.0,
    ),
)

IMAGES = (
    Command(
        ("guest", "import", Arg("FILE", "qcow2, raw, kernel or initrd; - is standard input", source="file")),
        "copy an image to the appliance, checked and verified; Ctrl-C stops it",
        local="offline:import_",
        role="operator",
        view="done",
        options=IMPORT,
    ),
    _show("images", "images of guests: size, format, who uses them", view="images"),
    Command(
        ("image", IMAGE, "undo"), "take its last import back", "image.undo", role="operator", view="done",
        options=(JSON,),
    ),
    Command(
        ("image", IMAGE, "remove"), "remove it; no guest may use it", "image.remove", role="operator", view="done",
        options=(JSON,), wait=30.0,
    ),
)  # fmt: skip

ACCESS = (
    Command(
        ("setup",), "the first questions: name, address, password, guest, segments", local="setup:setup", role="admin"
    ),
    Command(
        ("user", Arg("NAME", "a user of the configuration", source="users"), "password"),
        "ask for a new password, and commit it; one's own, or for administrators anybody's",
        local="user_password:user_password",
    ),
    Command(
        ("management", "unblock", Arg("ADDRESS", "an address that failed to log in too often")),
        "let an address log in again at once",
        "management.unblock",
        role="admin",
        view="done",
        options=(JSON,),
    ),
)

SIDE = Arg("SIDE", "one side of it only", choices=("lan", "wan"), optional=True)
CAPTURE_FILTER = Arg("FILTER", "what to capture, as tcpdump takes it: tcp port 80", optional=True, rest=True)
CAPTURE_OPTIONS = (
    Option("count", "end after so many frames", Arg("N", "frames", number=True)),
    Option("direction", "only frames that come in from there, or go out to there",
           Arg("WAY", "in or out", choices=("in", "out"))),
    Option("bytes", "keep so many bytes of each frame", Arg("N", "bytes, 1 to 16384", number=True)),
)  # fmt: skip
TO_FILE = Option("file", "into a file of the appliance", Arg("FILE", "a new file", source="file"))
IN_DETAIL = Option("detail", "every field of each layer")


def _at_points(words: tuple[str, ...], text: str, local: str, options: tuple[Option, ...]) -> tuple[Command, ...]:
    """A command for each kind of point at which frames can be copied."""
    places: tuple[tuple[str, tuple[str | Arg, ...]], ...] = (
        ("at a port", ("port", PORT)),
        ("at a guest, before it and behind it", ("guest", GUEST, SIDE)),
        ("at a remote", ("remote", REMOTE, SIDE)),
        ("at every point of the way", ("segment", SEGMENT)),
    )
    return tuple(
        Command((*words, *place, CAPTURE_FILTER), f"{text} {where}", local=local, role="operator", options=options)
        for where, place in places
    )


CAPTURE = (
    *_at_points(("capture",), "frames", "capture:stream", (*CAPTURE_OPTIONS, TO_FILE)),
    *_at_points(("show", "packets"), "frames in words", "packets:show", (*CAPTURE_OPTIONS, IN_DETAIL, JSON)),
)

EVERY = Option("every", "look anew after so many seconds", Arg("SECONDS", "1 to 3600", number=True))
TIMES = Option("count", "end after so many looks", Arg("N", "looks", number=True))
MONITOR = (
    Command(
        ("monitor",), "ports, relay, guests, rates and latencies, live", local="monitor:monitor", options=(EVERY, TIMES)
    ),
    Command(("monitor", "events"), "events as they happen", local="monitor:events"),
)

TOOLS = (
    Command(("check", FILE), "validate a configuration; needs no daemon", local="check", options=(JSON,)),
    Command(
        ("explain",), "what would happen to frames of a pcap file; needs no daemon", local="explain", options=EXPLAIN
    ),
    Command(("explain", *FLOW), "what happens to such a frame, and why", local="explain_live", options=LIVE),
    Command(
        ("explain",),
        "what happens to the frames of a pcap file, and why",
        local="explain_live",
        options=(LIVE[0], FRAMES, *LIVE[1:]),
    ),
    Command(
        ("support-bundle", Arg("FILE", "a new file; left out: standard output", source="file", optional=True)),
        "state, logs, kernel and network in one file, without secrets",
        local="support_bundle:support_bundle",
        role="operator",
    ),
    Command(("api", "schema"), "every method of the control socket", method="api.schema", options=(JSON,)),
)

CONFIGURATION = (
    Command(
        ("configure", Arg("LINE", "one command of configure, committed at once", optional=True, rest=True)),
        "change the configuration; lines on standard input: all of them or nothing",
        local="configure:configure",
        role="admin",
        options=(TAKEOVER,),
    ),
    Command(
        ("show", "configuration", Arg("WORDS", "table, name", source="config show", optional=True, rest=True)),
        "the running configuration, or another",
        local="configure:show",
        options=(WHICH, FORM, JSON),
    ),
    Command(("show", "commits"), "who committed what, when and why", local="configure:history", options=(JSON,)),
    Command(
        ("show", "candidate"),
        "who edits, what is uncommitted or on probation",
        local="configure:status",
        options=(JSON,),
    ),
    Command(
        ("configuration", "confirm"), "keep what was committed on probation", local="configure:confirm", role="admin"
    ),
    Command(
        ("configuration", "revert"), "take back what was committed on probation", local="configure:revert", role="admin"
    ),
)

COLUMNS = Arg("N", "columns; 0: as it says", number=True)
LINES_HIGH = Arg("N", "rows; 0: as it says", number=True)
PAGE = Arg("N", "rows; 0: no paging", number=True)
ON_OFF = Arg("VALUE", "on or off", choices=("on", "off"))
TERMINAL = (
    Command(("show", "terminal"), "size and abilities of this terminal", local="terminal:show", options=(JSON,)),
    Command(("terminal", "width", COLUMNS), "its width", local="terminal:setting"),
    Command(("terminal", "height", LINES_HIGH), "its height", local="terminal:setting"),
    Command(("terminal", "length", PAGE), "how long a page is, as other appliances say it", local="terminal:setting"),
    Command(("terminal", "detect"), "ask it for its size", local="terminal:detect"),
    Command(("terminal", "dumb", ON_OFF), "it can only print", local="terminal:setting"),
    Command(("terminal", "colour", ON_OFF), "colours", local="terminal:setting"),
    Command(("terminal", "paging", ON_OFF), "stop when a page is full", local="terminal:setting"),
)

SESSION = (
    Command(("help", Arg("WORDS", "words of a command", optional=True, rest=True)), "these lines", local="help"),
    Command(("exit",), "end the session", local="exit"),
    Command(("quit",), "end the session", local="exit"),
    Command(("logout",), "end the session", local="exit"),
)

# The topics of `help`, in its order. A new topic is a new line here.
TOPICS: dict[str, tuple[Command, ...]] = {
    "See": SHOW,
    "Segments": SEGMENTS,
    "Guests": GUESTS,
    "Incidents": INCIDENTS,
    "Images": IMAGES,
    "Access": ACCESS,
    "Frames": CAPTURE,
    "Configuration": CONFIGURATION,
    "Live": MONITOR,
    "Tools": TOOLS,
    "Terminal": TERMINAL,
    "Session": SESSION,
}
COMMANDS: tuple[Command, ...] = tuple(row for rows in TOPICS.values() for row in rows)

# What words mean that begin several commands, for `?`.
GROUPS: dict[str, str] = {
    "show": "what the appliance is and does",
    "show packets": "frames at a point of the way, in words",
    "segment": "take a port pair out of the line, or back",
    "guest": "start, stop, drain a guest",
    "incident": "what is kept of a guest that died or failed",
    "quarantine": "a flow that is led around a guest",
    "image": "take back or remove a guest's image",
    "management": "the management port",
    "capture": "frames at a point of the way, as pcapng for Wireshark",
    "api": "the control socket",
    "configuration": "a commit on probation",
    "terminal": "what this terminal is and can do",
}

PIPES: tuple[Command, ...] = (
    Command(("match", Arg("PATTERN", "a regular expression; case does not matter")), "only the lines that match"),
    Command(
        ("except", Arg("PATTERN", "a regular expression; case does not matter")), "only the lines that do not match"
    ),
    Command(("json",), "as JSON"),
    Command(("count",), "how many lines"),
    Command(("save", Arg("FILE", "a file of the appliance", source="file")), "into a file"),
)
