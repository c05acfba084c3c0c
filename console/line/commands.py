# SPDX-License-Identifier: GPL-2.0-only
"""Every command, as one table: its words, arguments, handler, required role and view.

The parser, `?`, Tab, `help`, the one-shot client and COMMANDS.md are all generated from this table; a new command is a
new row. Pure data, and quick to import: nothing here needs the daemon or a terminal.
"""

from __future__ import annotations

from console.line.command import Arg, Command, Option
from console.line.configure_commands import FORM, TAKEOVER, UNIT, WHICH
from console.line.machine_commands import CLOCK, LICENCES, LLDP, LOGS, PORTS, POWER, SNMP, SYSTEM
from console.line.reach_commands import REACH

JSON = Option("--json", "print data as JSON")
SEGMENT = Arg("NAME", "a segment", source="segments")
GUEST = Arg("NAME", "a guest", source="guests")
REMOTE = Arg("NAME", "a remote", source="remotes")
SERVE = Arg("NAME", "what is served to another appliance", source="serves")

FOR = Arg("TIME", "how long: a number of seconds, or a time such as 90s, 10min or 1h", optional=True, time=True)
PORT = Arg("NAME", "a port", source="ports")
FILE = Arg("FILE", "a configuration file; - for standard input", source="file")
COUNT = Arg(
    "COUNT", "show only the newest COUNT; default on a terminal: 20", optional=True, number=True, on_terminal=20
)
INCIDENT = Arg("NUMBER", "an incident number", source="incidents", number=True)
REPORT = Arg("NUMBER", "a crash report", source="crash-log", number=True)
LINES = Arg("LINES", "number of lines; default: 40", optional=True, number=True)
IMAGE = Arg("NAME", "an image", source="images")
IMPORT = (
    Option("--name", "name of the image on the appliance", Arg("NAME", "letters, digits, . _ + -"), required=True),
    Option("--sha256", "expected SHA-256 checksum", Arg("SUM", "64 hexadecimal digits, as `sha256sum` prints them")),
    Option("--kind", "kind of image; default: a disk of a known format; raw: import the file as a raw disk",
           Arg("KIND", "disk, raw, kernel or initrd", choices=("disk", "raw", "kernel", "initrd"))),
    Option("--replace", "replace an existing image of this name; `image NAME undo` restores it"),
    JSON,
)  # fmt: skip
AGENT = (
    Arg("WORD", "a command that the guest's agent understands"),
    Arg("VALUE", "a number, if the command takes one", optional=True, number=True),
)

EXPLAIN = (
    Option("--config", "the configuration to evaluate the frames with", FILE, required=True),
    Option("--in", "side on which the frames arrive", Arg("PORT", "lan or wan", choices=("lan", "wan")),
           required=True),
    Option("--pcap", "the frames", Arg("FRAMES", "a pcap file; - for standard input", source="file"), required=True),
    Option("--segment", "the segment; required if there are several", Arg("NAME", "a segment of the configuration")),
    Option("--backend", "evaluate with the datapath program in the kernel, or with its Python model",
           Arg("BACKEND", "kernel or model", choices=("kernel", "model"))),
    Option("--down", "assume that this guest is not available", Arg("NAME", "a guest"), repeat=True),
    JSON,
)  # fmt: skip
LIVE = (
    Option("--live", "evaluate in the running datapath; nothing is sent, changed or counted", required=True),
    Option("--in", "side on which the frames arrive; default: lan", Arg("PORT", "lan or wan", choices=("lan", "wan"))),
    Option("--segment", "the segment; required if there are several", Arg("NAME", "a segment", source="segments")),
    JSON,
)
FRAMES = EXPLAIN[2]._replace(help="the frames; or describe a flow: explain --live udp 10.0.0.5:1234 10.1.0.9:53")
FLOW = (
    Arg("PROTOCOL", "udp, tcp or icmp", choices=("udp", "tcp", "icmp")),
    Arg("SOURCE", "ADDRESS:PORT or [IPV6]:PORT, or without the port (50000 then); for icmp: ADDRESS"),
    Arg("DESTINATION", "ADDRESS:PORT or [IPV6]:PORT; for icmp: ADDRESS"),
)


def _show(word: str, text: str, *args: Arg, view: str = "generic") -> Command:
    words: tuple[str | Arg, ...] = ("show", word, *args)
    return Command(words, text, method=f"{word}.show", view=view, options=(JSON,))


def _counted(word: str, more: tuple[str, ...], text: str, since: str) -> Command:
    words = ("show", word, *more)
    return Command(words, text, f"{word}.show", fixed=(("since", since),), view=word, options=(JSON,))


def _clear(word: str, text: str) -> Command:
    return Command(("clear", word), text, f"{word}.clear", role="operator", view="done", options=(JSON,))


def _admin(words: tuple[str | Arg, ...], text: str, local: str) -> Command:
    return Command(words, text, local=local, role="admin")


def _segment(mode: str, text: str, *args: Arg) -> Command:
    words: tuple[str | Arg, ...] = ("segment", SEGMENT, mode, *args)
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


WAIT = (
    Option("--wait", "return when it is done: available after a start, stopped after a stop; exit code 1 if it fails"),
    Option("--timeout", "the longest time that --wait waits; default: 120s", Arg("TIME", "a time", time=True)),
    JSON,
)


def _order(verb: str, text: str) -> Command:
    words: tuple[str | Arg, ...] = ("guest", GUEST, verb)
    return Command(words, text, local="guest_order:order", role="operator", options=WAIT)


def _remote(verb: str, text: str) -> Command:
    words: tuple[str | Arg, ...] = ("remote", REMOTE, verb)
    return Command(words, text, method=f"remote.{verb}", role="operator", view="done", options=(JSON,))


def _guest(verb: str, text: str, *args: Arg) -> Command:
    words: tuple[str | Arg, ...] = ("guest", GUEST, verb, *args)
    return Command(words, text, method=f"guest.{verb}", role="operator", view="done", options=(JSON,), wait=120.0)


SHOW = (
    _show("status", "whether traffic is inspected or bypassed, and why", view="status"),
    _show("segments", "port pairs: relay, links, XDP or tc", view="segments"),
    _show("relays", "relays: position, and what they do without power or when the computer hangs", view="relays"),
    _show("guests", "guests: state, cause, lease", view="guests"),
    _show("guest", "one guest: its checks, their last success, and why one failed", GUEST, view="guest"),
    _show("remotes", "remotes: state, cause, lease, tunnel, and the way to it", view="remotes"),
    _show("remote", "one remote: its checks, its tunnels and their counters, the way to it", REMOTE, view="remote"),
    _show("serves", "what is served to other appliances: path, tunnel, and the way to them", view="serves"),
    _show("serve", "one of them: its tunnels and their counters, the way to the other appliance", SERVE, view="serve"),
    _show("groups", "groups: which members are available, and how flows are shared", view="groups"),
    _show("mirrors", "mirrors: hops that get copies of frames, how many, and how many were lost", view="mirrors"),
    _counted("rules", (), "rules in order, with the number of frames they matched", "clear"),
    Command(
        ("show", "rules", "detail"),
        "rules, and how their filters were compiled",
        "rules.show",
        view="rules-detail",
        options=(JSON,),
    ),
    _counted("counters", (), "frame counters by port, rule and hop, since they were cleared", "clear"),
    _counted("counters", ("total",), "the same since the datapath was loaded", "load"),
    _show("transitions", "state changes: what, when and why", COUNT, view="transitions"),
    _show("incidents", "guest crashes and failures: when, why, and what was recorded", view="incidents"),
    Command(
        ("show", "incidents", "all"),
        "also those that were cleared",
        local="incident_export:show_all",
        options=(JSON,),
    ),
    _show("quarantine", "flows that bypass a guest they crashed, and why", view="quarantine"),
    _show(
        "shunts",
        "flows that skip a guest because it has said that it does not need them",
        Arg("GUEST", "a guest", source="guests", optional=True),
        view="shunts",
    ),
    _show(
        "crash-log",
        "crash reports of the machine; with a number: kernel log, supervisor log, console",
        REPORT._replace(optional=True),
        view="crash",
    ),
    _show("drills", "bypass drills: results with date, and whether they prove that the link survives", view="drills"),
    _show("boots", "how often the machine started, when, and why: power, crash, order, update", view="boots"),
    _show("version", "versions of the appliance and of its components"),
    _show("events", "events with cause and severity: state changes, logins", COUNT, view="events"),
    _show("management", "management port, SSH host keys, users, metrics, syslog", view="management"),
    _show("aaa", "who decides about logins, and the state of the RADIUS and TACACS+ servers", view="aaa"),
    _show("sessions", "users who are logged in over SSH or on the console", view="sessions"),
)

CLEAR = (
    _clear("counters", "start the counters of `show counters` and `show rules` again; metrics are not affected"),
    _clear("incidents", "hide the present incidents from the list; they are kept"),
    Command(
        (
            "clear",
            "shunts",
            Arg("GUEST", "a guest; default: all of them", source="guests", optional=True),
            Arg("END", "only flows with this end: ADDRESS, ADDRESS:PORT or [IPV6]:PORT", optional=True),
        ),
        "send shunted flows to their guests again",
        "shunts.clear",
        role="operator",
        view="done",
        options=(JSON,),
    ),
)

CRASHES = (
    Command(
        (
            "crash-log",
            REPORT,
            "export",
            Arg("FILE", "a new file; default, or -: standard output", "file", optional=True),
        ),
        "write a crash report to a file",
        local="crash_export:export",
        role="viewer",
    ),
    Command(
        ("crash-count", "clear"),
        "clear the crash count: ends safe mode and the hold after a start",
        "crash-count.clear",
        role="admin",
        view="done",
        options=(JSON,),
        wait=30.0,
    ),
)

MIRROR = Arg("NAME", "a mirror", source="mirrors")
CANARY = (
    Command(
        (
            "canary",
            MIRROR,
            "compare",
            Arg("SECONDS", "how long; or with a unit: 10s, 5min; default: 10", optional=True, time=True),
            UNIT,
        ),
        "compare a mirror with the hop beside it, frame by frame: forwarded, changed, dropped, latency",
        local="canary:compare",
        role="operator",
        view="canary",
        options=(JSON,),
    ),
    Command(
        ("canary", MIRROR, "promote"),
        "the mirror becomes inline and the hop beside it the mirror, in one commit; no frame is lost or sent twice",
        local="canary:promote",
        role="admin",
        view="config-commit",
        options=(JSON,),
        wait=120.0,
    ),
    Command(
        ("canary", Arg("NAME", "an inline hop", source="guests"), "demote"),
        "the way back: the inline hop becomes a mirror, and the mirror beside it, if there is one, inline",
        local="canary:demote",
        role="admin",
        view="config-commit",
        options=(JSON,),
        wait=120.0,
    ),
)

DRILLS = (
    Command(
        ("drill", "run", Arg("KIND", "relay, watchdog or power", choices=("relay", "watchdog", "power"))),
        "exercise relay, watchdog or power for real; says what it means and asks",
        local="drill:run",
        role="admin",
        options=(
            Option("--segment", "relay: the segment, if there are several", SEGMENT),
            Option("now", "without asking"),
            JSON,
        ),
    ),
    Command(
        ("drill", "abort"),
        "end the drill that is under way; the link stays joined or inline",
        "drill.abort",
        role="admin",
        view="done",
        options=(JSON,),
    ),
    Command(
        (
            "drill",
            "answer",
            Arg("WHAT", "passed: traffic crossed the link without power", choices=("passed", "failed")),
        ),
        "power drill: say what the link did while the power was cut",
        local="drill:answer",
        role="admin",
        options=(JSON,),
    ),
)

BOARD = (
    Command(
        (
            "board",
            "test",
            Arg("FILE", "a new file for the report; default, or -: standard output", "file", optional=True),
        ),
        "try every line, watchdog, port and LED of new hardware, and write a report; moves the relays, asks first",
        local="board_test:board_test",
        role="admin",
        options=(Option("now", "without asking"), JSON),
    ),
    Command(
        ("locate", "on", FOR._replace(help="how long; default: 5min. " + FOR.help.partition(": ")[2])),
        "make an LED of the box blink fast, so that a person finds it",
        "locate.set",
        role="operator",
        view="done",
        options=(JSON,),
    ),
    Command(
        ("locate", "off"),
        "stop the LED from blinking",
        "locate.set",
        fixed=(("time", 0),),
        role="operator",
        view="done",
        options=(JSON,),
    ),
)

SEGMENTS = (
    _segment("bypass", "close the relay: LAN and WAN are joined, nothing is inspected"),
    _segment("auto", "go inline whenever everything is healthy"),
    _segment("disconnect", "separate LAN and WAN, on a board that can: no frame passes"),
    _segment("inline", "go inline now and stay, also without a watchdog or a link, for 10 min or this time", FOR),
    _segment("maintenance", "bypass for an hour or this time; an order for bypass stays in force after it", FOR),
)

GUESTS = (
    Command(("guest", GUEST, "show"), "same as `show guest NAME`", "guest.show", view="guest", options=(JSON,)),
    _order("start", "start the guest, or put it back into service"),
    _order("stop", "stop the guest; traffic continues to the next hop or port"),
    _order("restart", "stop the guest and start it again, with what was changed in its configuration"),
    _guest("pause", "pause its vCPUs; traffic continues to the next hop or port"),
    _guest("resume", "resume a paused guest; it gets traffic after passing its checks"),
    _guest("drain", "send new flows elsewhere; established flows stay until they end"),
    Command(
        ("guest", GUEST, "console"),
        "attach this terminal to its serial console; Ctrl-] detaches",
        local="console",
        role="operator",
    ),
    Command(
        ("guest", GUEST, "log", LINES),
        "its serial console output",
        "guest.log",
        view="guest-log",
        options=(JSON,),
    ),
    _guest("command", "send a command to the guest application", *AGENT),
)

REMOTES = (
    Command(("remote", REMOTE, "show"), "same as `show remote NAME`", "remote.show", view="remote", options=(JSON,)),
    _remote("start", "set its tunnels up, or put it back into service after a drain or a bypass"),
    _remote("stop", "remove its tunnels; traffic continues to the next hop or port"),
    _remote("drain", "send new flows elsewhere; established flows stay until they end"),
    _remote("bypass", "send it no frames at all; its tunnels and checks go on"),
)

INCIDENTS = (
    Command(
        ("incident", INCIDENT, "show"),
        "one incident: evidence, flows, console output before the failure",
        "incident.show",
        view="incident",
        options=(JSON,),
    ),
    Command(
        (
            "incident",
            INCIDENT,
            "export",
            Arg("FILE", "a new file; default, or -: standard output", "file", optional=True),
        ),
        "the last frames that were sent to the guest, as pcapng",
        local="incident_export:export",
        role="operator",
    ),
    Command(
        ("quarantine", Arg("NAME", "a name from `show quarantine`", source="quarantine"), "release"),
        "send the flow to its guest again",
        "quarantine.release",
        role="operator",
        view="done",
        options=(JSON,),
        wait=30.0,
    ),
)

IMAGES = (
    Command(
        ("guest", "import", Arg("FILE", "a qcow2, raw, kernel or initrd file; - for standard input", source="file")),
        "copy an image to the appliance and verify it; Ctrl-C cancels",
        local="offline:import_",
        role="operator",
        view="done",
        options=IMPORT,
    ),
    _show("images", "guest images: size, format, which guests use them", view="images"),
    Command(
        ("image", IMAGE, "undo"), "undo the last import of this image", "image.undo", role="operator", view="done",
        options=(JSON,),
    ),
    Command(
        ("image", IMAGE, "remove"), "delete an image that no guest uses", "image.remove", role="operator", view="done",
        options=(JSON,), wait=30.0,
    ),
)  # fmt: skip

ACCESS = (
    Command(
        ("setup",),
        "guided setup: host name, management address, DNS, time, password, guest image",
        local="setup:setup",
        role="admin",
    ),
    Command(
        ("user", Arg("NAME", "a user of the configuration", source="users"), "password"),
        "set a password: your own, or that of any user if you are an administrator",
        local="user_password:user_password",
    ),
    Command(
        ("test", "aaa", Arg("USER", "a user's name")),
        "try a user and a password with the RADIUS and TACACS+ servers; nobody is logged in",
        local="aaa_test:test",
        role="admin",
        view="aaa-test",
        options=(JSON,),
    ),
    Command(
        ("session", Arg("ID", "an id from `show sessions`", source="sessions", number=True), "end"),
        "end a session of any user, and the command that runs in it",
        "session.end",
        role="admin",
        view="done",
        options=(JSON,),
    ),
    Command(
        ("management", "unblock", Arg("ADDRESS", "an address that is blocked after failed logins")),
        "unblock an address immediately",
        "management.unblock",
        role="admin",
        view="done",
        options=(JSON,),
    ),
)

SIDE = Arg("SIDE", "only this side of the hop", choices=("lan", "wan"), optional=True)
CAPTURE_FILTER = Arg("FILTER", "a capture filter as in tcpdump: tcp port 80", optional=True, rest=True)
CAPTURE_OPTIONS = (
    Option("count", "stop after N frames", Arg("N", "number of frames", number=True)),
    Option("direction", "only frames received from that point (in), or sent to it (out)",
           Arg("WAY", "in or out", choices=("in", "out"))),
    Option("bytes", "keep N bytes of each frame", Arg("N", "bytes, 1 to 16384", number=True)),
)  # fmt: skip
TO_FILE = Option("file", "write to a file on the appliance", Arg("FILE", "a new file; - for standard output", "file"))
IN_DETAIL = Option("detail", "show every field of each layer")


def _at_points(words: tuple[str, ...], text: str, local: str, options: tuple[Option, ...]) -> tuple[Command, ...]:
    """One command for each kind of point at which frames can be captured."""
    places: tuple[tuple[str, tuple[str | Arg, ...]], ...] = (
        ("at a port", ("port", PORT)),
        ("before and after a guest", ("guest", GUEST, SIDE)),
        ("before and after a remote, without the tunnel", ("remote", REMOTE, SIDE)),
        ("at each point along the path", ("segment", SEGMENT)),
    )
    return tuple(
        Command((*words, *place, CAPTURE_FILTER), f"{text} {where}", local=local, role="operator", options=options)
        for where, place in places
    )


CAPTURE = (
    *_at_points(("capture",), "capture frames", "capture:stream", (*CAPTURE_OPTIONS, TO_FILE)),
    *_at_points(("show", "packets"), "decode frames", "packets:show", (*CAPTURE_OPTIONS, IN_DETAIL, JSON)),
)

EVERY = Option("every", "refresh interval in seconds", Arg("SECONDS", "1 to 3600", number=True))
TIMES = Option("count", "stop after N refreshes", Arg("N", "number of refreshes", number=True))
MONITOR = (
    Command(
        ("monitor",),
        "live view of ports, relay, guests, rates and latencies",
        local="monitor:monitor",
        options=(EVERY, TIMES),
    ),
    Command(("monitor", "events"), "print events as they happen", local="monitor:events"),
)

TOOLS = (
    Command(("check", FILE), "validate a configuration file; works without bypassd", local="check", options=(JSON,)),
    Command(
        ("explain",),
        "what a configuration does with the frames of a pcap file; works without bypassd",
        local="explain",
        options=EXPLAIN,
    ),
    Command(
        ("explain", *FLOW),
        "what the running datapath does with a frame of this flow, and why",
        local="explain_live",
        options=LIVE,
    ),
    Command(
        ("explain",),
        "what the running datapath does with the frames of a pcap file, and why",
        local="explain_live",
        options=(LIVE[0], FRAMES, *LIVE[1:]),
    ),
    Command(
        ("support-bundle", Arg("FILE", "a new file; default, or -: standard output", "file", optional=True)),
        "collect state, logs, kernel and network in one file, without secrets",
        local="support_bundle:support_bundle",
        role="operator",
    ),
    Command(("api",), "one JSON-RPC request from standard input, its answer as one JSON object", local="api:call"),
    Command(
        ("api", "schema"),
        "all methods of the control socket, as JSON",
        "api.schema",
        view="json",
        options=(JSON,),
        wait=30.0,  # the longest of all answers
    ),
)

SUMMARY = Option("--json", "print whether something was changed, and what, as one JSON object")
CONFIGURATION = (
    Command(
        ("configure", "terminal"),
        "same as `configure`",
        local="configure:configure",
        role="admin",
        options=(TAKEOVER,),
    ),
    Command(
        ("configure", Arg("LINE", "one configure command, committed immediately", optional=True, rest=True)),
        "edit the configuration; commands on standard input are applied all or none",
        local="configure:configure",
        role="admin",
        options=(TAKEOVER, SUMMARY),
    ),
    Command(
        ("show", "configuration", Arg("WORDS", "table, name", source="config show", optional=True, rest=True)),
        "the running configuration, or another version",
        local="configure:show",
        options=(WHICH, FORM, JSON),
    ),
    Command(
        ("backup", Arg("FILE", "a new file; - for standard output", source="file")),
        "write configuration and SSH host keys to a file, encrypted with a passphrase",
        local="backup:backup",
        role="admin",
        options=(Option("--images", "the images that guests use, too"), JSON),
    ),
    Command(
        ("restore", Arg("FILE", "a file that `backup` wrote; - for standard input", source="file")),
        "commit the configuration of a backup, use its SSH host keys and import its images",
        local="restore:restore",
        role="admin",
        options=(
            Option("--configuration-only", "keep SSH host keys and images of this appliance"),
            Option(
                "--confirmed",
                "roll back after this TIME unless `configuration confirm` follows",
                Arg("TIME", "a time", time=True),
            ),
            JSON,
        ),
    ),
    Command(("show", "commits"), "commit history: who, when and why", local="configure:history", options=(JSON,)),
    Command(
        ("show", "candidate"),
        "who is editing, uncommitted changes, and a commit awaiting confirmation",
        local="configure:status",
        options=(JSON,),
    ),
    Command(
        ("configuration", "confirm"),
        "keep the commit that is awaiting confirmation",
        local="configure:confirm",
        role="admin",
    ),
    Command(
        ("configuration", "revert"),
        "roll back the commit that is awaiting confirmation, immediately",
        local="configure:revert",
        role="admin",
    ),
)

COLUMNS = Arg("N", "columns; 0: as reported by the terminal", number=True)
LINES_HIGH = Arg("N", "lines; 0: as reported by the terminal", number=True)
PAGE = Arg("N", "lines; 0: no paging", number=True)
ON_OFF = Arg("VALUE", "on or off", choices=("on", "off"))
TERMINAL = (
    Command(("show", "terminal"), "size and capabilities of this terminal", local="terminal:show", options=(JSON,)),
    Command(("terminal", "width", COLUMNS), "set the terminal width", local="terminal:setting"),
    Command(("terminal", "height", LINES_HIGH), "set the terminal height", local="terminal:setting"),
    Command(("terminal", "length", PAGE), "lines per page", local="terminal:setting"),
    Command(("terminal", "detect"), "ask the terminal for its size", local="terminal:detect"),
    Command(("terminal", "dumb", ON_OFF), "send only plain text, no cursor movement", local="terminal:setting"),
    Command(("terminal", "colour", ON_OFF), "use colours", local="terminal:setting"),
    Command(("terminal", "paging", ON_OFF), "stop after each page", local="terminal:setting"),
)

SESSION = (
    Command(("help", Arg("WORDS", "words of a command", optional=True, rest=True)), "show this help", local="help"),
    Command(("exit",), "end the session", local="exit"),
    Command(("quit",), "end the session", local="exit"),
    Command(("logout",), "end the session", local="exit"),
)

# The topics of `help`, in order. A new topic is a new line here.
TOPICS: dict[str, tuple[Command, ...]] = {
    "Status": SHOW,
    "Segments": (*SEGMENTS, *DRILLS, *CRASHES),
    "Board": BOARD,
    "Guests": GUESTS,
    "Remotes": REMOTES,
    "Mirrors": CANARY,
    "Incidents": (*INCIDENTS, *CLEAR),
    "Images": IMAGES,
    "Access": ACCESS,
    "Frames": CAPTURE,
    "Configuration": CONFIGURATION,
    "Live": MONITOR,
    "Machine": (*POWER, *CLOCK, *PORTS, *LLDP, *SNMP, *LOGS, *SYSTEM, *LICENCES),
    "Network": REACH,
    "Tools": TOOLS,
    "Terminal": TERMINAL,
    "Session": SESSION,
}
COMMANDS: tuple[Command, ...] = tuple(row for rows in TOPICS.values() for row in rows)

# Help for words that begin several commands, shown by `?`.
GROUPS: dict[str, str] = {
    "show": "show state, counters and configuration",
    "show log": "the newest lines of a log",
    "show packets": "decode frames at a point along the path",
    "clear": "restart the count of frames or incidents, or end shunts",
    "board": "the board that this firmware runs on",
    "locate": "make an LED of the box blink",
    "canary": "compare a mirror with the hop beside it, and let them change places",
    "drill": "exercise relay, watchdog and power, and keep the result",
    "crash-log": "crash reports of the machine",
    "crash-count": "counted crashes of the machine, which lead to safe mode",
    "segment": "bypass a segment, force it inline, or return it to automatic mode",
    "guest": "start, stop, drain or inspect a guest",
    "remote": "start, stop, drain, bypass or inspect a remote",
    "incident": "records of a guest crash or failure",
    "quarantine": "flows that bypass a guest they crashed",
    "image": "undo the import of a guest image, or delete it",
    "management": "the management port",
    "clock": "set the clock",
    "configure": "edit the configuration",
    "reboot": "restart the appliance: now, later, or not after all",
    "poweroff": "shut the appliance down: now, later, or not after all",
    "session": "end a session of any user",
    "capture": "capture frames at a point along the path, as pcapng for Wireshark",
    "api": "the control socket",
    "configuration": "confirm or roll back a commit that is awaiting confirmation",
    "terminal": "settings of this terminal",
}

PIPES: tuple[Command, ...] = (
    Command(("match", Arg("PATTERN", "a regular expression, case-insensitive")), "show only lines that match"),
    Command(("except", Arg("PATTERN", "a regular expression, case-insensitive")), "show only lines that do not match"),
    Command(("json",), "print data as JSON"),
    Command(("count",), "count rows or lines"),
    Command(("save", Arg("FILE", "a file on the appliance; - for standard output", "file")), "write to a file"),
)
