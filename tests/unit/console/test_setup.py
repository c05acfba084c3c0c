# SPDX-License-Identifier: GPL-2.0-only
"""The first-boot setup and the password command: what answers change, what is refused, all or nothing.

The daemon is a fake behind the client's one method; the user is a text.
"""

from __future__ import annotations

import io
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from appliance.errors import RefusedError
from appliance.system import password
from console.client import Client
from console.commands import one_commit, setup
from console.commands.setup import Wizard
from console.commands.setup_answers import (
    Answers,
    address_trouble,
    changes,
    clock_answer,
    gateway_trouble,
    hostname_trouble,
    servers_trouble,
    shown,
    zone_trouble,
)
from console.render import Style
from console.session import Context
from console.terminal.prompt import Asker

NEW: dict[str, Any] = {
    "system": {"hostname": "bypass"},
    "guest": [{"name": "ips1", "kernel": "/usr/share/demo/bzImage", "initrd": "/x", "cmdline": "quiet"}],
}
KEY = {"kind": "ed25519", "fingerprint": "SHA256:x"}
ZONES = Path("/")
HASH = "$y$j9T$abcdefgh$abcdefgh"


class Daemon(Client):
    """Answers as bypassd's configuration methods do, and notes what it was asked."""

    def __init__(self, now: dict[str, Any], **answers: Any) -> None:
        super().__init__("/nowhere")
        self._now, self._answers, self.calls = now, answers, list[tuple[str, Any]]()

    def call(self, method: str, params: dict[str, object] | None = None, wait: float = 5.0) -> Any:
        self.calls.append((method, params))
        given = self._answers.get(method.replace(".", "_"))
        if isinstance(given, Exception):
            raise given
        if given is not None:
            return given
        return {
            "config.show": {"data": self._now},
            "config.status": {"mine": False},
            "config.edit": {"changes": 0},
            "config.commit": {"message": "committed as 2"},
            "segments.show": [{"name": "main", "lan": "lan0", "lan_link": "up", "wan": "wan0", "wan_link": "up",
                               "relay": "inline"}],
            "management.show": {"addresses": ["192.0.2.10/24"], "ssh": {"state": "listening", "host_keys": [KEY]}},
        }.get(method, {})  # fmt: skip

    @property
    def typed(self) -> list[str]:
        """Changes as words."""
        return [" ".join(p["words"]) for m, p in self.calls if m in ("config.set", "config.delete")]

    def asked(self, method: str) -> int:
        return sum(1 for name, _ in self.calls if name == method)


def run(daemon: Daemon, typed: str) -> tuple[str, str]:
    """(what it says at the end, what it said meanwhile)."""
    said = io.StringIO()
    context = Context(daemon, io.StringIO(), io.StringIO(), Style())
    return Wizard(context, Asker(io.StringIO(typed), said)).run(), said.getvalue()


def test_answers_to_changes() -> None:
    full = Answers(
        hostname="wire1",
        address="192.0.2.10/24",
        gateway="192.0.2.1",
        dns=("192.0.2.53",),
        zone="Europe/Berlin",
        servers=("ntp.example.net", "192.0.2.1"),
        password=HASH,
        image="ips.qcow2",
    )
    assert [" ".join((verb, *words)) for verb, words in changes(NEW, full)] == [
        "set system hostname wire1",
        "set management address 192.0.2.10/24",
        "set management gateway 192.0.2.1",
        "set management dns 192.0.2.53",
        "set time zone Europe/Berlin",
        "set time servers ntp.example.net 192.0.2.1",
        "set user admin role admin",
        f"set user admin password {HASH}",
        "set guest ips1 image ips.qcow2",
        "delete guest ips1 kernel",
        "delete guest ips1 initrd",
        "delete guest ips1 cmdline",
    ]
    assert changes(NEW, Answers("bypass", "none")) == [], "what is so already is no change"


def test_from_static_to_dhcp_and_none() -> None:
    now = {"management": {"address": "192.0.2.10/24", "gateway": "192.0.2.1"}}
    dhcp = ["set management address dhcp", "delete management gateway"]
    assert [" ".join((verb, *words)) for verb, words in changes(now, Answers(address="dhcp"))] == dhcp
    none = ["delete management address", "delete management gateway"]
    assert [" ".join((verb, *words)) for verb, words in changes(now, Answers(address="none"))] == none


def test_servers_and_zone_that_are_there_already() -> None:
    """The same again is no change; none, or dhcp, takes the servers out."""
    now = {
        "management": {"address": "dhcp", "dns": ["192.0.2.53"]},
        "time": {"zone": "Asia/Tokyo", "servers": ["192.0.2.1"]},
    }
    same = Answers(address="dhcp", dns=("192.0.2.53",), zone="Asia/Tokyo", servers=("192.0.2.1",))
    assert changes(now, same) == []
    other = Answers(address="dhcp", dns=(), zone="UTC", servers=())
    assert [" ".join((verb, *words)) for verb, words in changes(now, other)] == [
        "delete management dns",
        "set time zone UTC",
        "delete time servers",
    ]


def test_an_answer_about_the_clock() -> None:
    """A time of day, with or without the date and seconds, in the zone that is shown; keep moves nothing."""
    shown = datetime(2026, 5, 1, 14, 30, 20, tzinfo=ZoneInfo("Europe/Berlin"))
    assert clock_answer("keep", shown) == (None, "")
    assert clock_answer("14:31", shown)[0] == timedelta(seconds=40)
    assert clock_answer("14:30:21", shown)[0] == timedelta(seconds=1)
    assert clock_answer("2026-05-02 14:30:20", shown)[0] == timedelta(days=1)
    for wrong in ("", "noon", "25:00", "2026-13-01 10:00", "1999-01-01 10:00"):
        moved, why = clock_answer(wrong, shown)
        assert (moved, bool(why)) == (None, True), wrong


def test_the_clock_is_set_after_the_commit_and_alone() -> None:
    """A clock without a server is set, with the zone's offset; one that cannot be set is said and undoes nothing."""
    typed = "wire1\nnone\nEurope/Berlin\n2031-05-01 14:30\nno\nyes\n"
    daemon = Daemon({}, clock_set={"message": "clock: 2031-05-01 14:30:00 CEST"})
    end, said = run(daemon, typed)
    order = [name for name, _ in daemon.calls if name in ("config.commit", "clock.set")]
    assert order == ["config.commit", "clock.set"]
    (when,) = [params["when"] for name, params in daemon.calls if name == "clock.set"]
    assert when.startswith("2031-05-01T14:30:")
    assert when.endswith("+02:00")
    assert "clock set 2031-05-01 14:30" in said
    assert end.startswith("clock: 2031")
    same = Daemon({"time": {"zone": "UTC"}}, clock_set=RefusedError("NTP keeps the clock"))
    end, _ = run(same, "\nnone\n\n2031-05-01 14:30\nno\nyes\n")
    assert "NTP keeps the clock" in end
    assert same.asked("config.commit") == 0


def test_servers_are_asked_where_they_can_be_reached() -> None:
    """With DHCP its servers are the default and the clock is not asked for; with no address nothing of it is."""
    _, said = run(Daemon({}), "wire1\ndhcp\n192.0.2.53\n\nntp.example.net\nno\nyes\n")
    assert "management dns 192.0.2.53" in said
    assert "time servers ntp.example.net" in said
    assert "The clock shows" not in said
    old = {"management": {"address": "dhcp", "dns": ["192.0.2.53"]}, "time": {"servers": ["192.0.2.1"]}}
    daemon = Daemon(old)
    run(daemon, "\nnone\n\n\nno\nyes\n")
    assert daemon.typed == ["management address", "management dns", "time servers"]
    _, said = run(Daemon({}), "wire1\n192.0.2.10/24\n\ndhcp\n\n\n\n\nno\nyes\n")
    assert "there is no DHCP server to ask" in said


def test_a_hash_is_not_shown() -> None:
    assert [shown(each) for each in changes(NEW, Answers(password=HASH))] == [
        "configure set user admin role admin",
        "user admin password",
    ]


@pytest.mark.parametrize(
    ("trouble", "good", "bad"),
    [
        (hostname_trouble, ["wire1", "a", "A-1"], ["", "-a", "a b", "x" * 64, "wire1\n"]),
        (address_trouble, ["dhcp", "none", "192.0.2.10/24"], ["", "192.0.2.10", "192.0.2.0/24", "DHCP?", "::1/64"]),
        (lambda t: gateway_trouble(t, "192.0.2.10/24"), ["none", "192.0.2.1"], ["192.0.2.10", "192.0.3.1", "x"]),
        (lambda t: servers_trouble(t, False), ["none", "dhcp", "::1", "1.1.1.1, ::2"], ["a", "1.1.1.1 " * 4]),
        (lambda t: servers_trouble(t, True), ["none", "ntp.example.net 192.0.2.1"], ["192.0.2", "a_b", "a " * 9]),
        (lambda t: zone_trouble(t, ZONES), ["UTC", "Europe/Berlin"], ["", "berlin", "Europe/Berlim", "../etc/passwd"]),
    ],
)
def test_what_is_taken(trouble: Any, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if trouble(text)] == []
    assert [text for text in bad if not trouble(text)] == []


def test_a_whole_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wrong answers are asked again; one commit; the end says how to log in and which key to expect."""
    (tmp_path / "a.qcow2").touch()
    monkeypatch.setattr(setup, "IMAGES", tmp_path)
    daemon = Daemon(NEW)
    answers = "no good name\nwire1\n192.0.2.10\n192.0.2.10/24\n10.0.0.1\n192.0.2.1\n"
    answers += "\n\n\n\nyes\ncorrect horse\n7\n1\nyes\n"
    end, said = run(daemon, answers)
    assert said.count("Invalid: ") == 4
    assert "ssh admin@192.0.2.10" in end
    assert "SHA256:x" in end
    hashes = [text.split()[-1] for text in daemon.typed if "password" in text]
    assert password.fits("correct horse", hashes[0])
    assert hashes[0] not in said + end
    assert "guest ips1 image a.qcow2" in daemon.typed
    assert daemon.asked("config.commit") == 1


def test_no_at_the_end_changes_nothing() -> None:
    daemon = Daemon(NEW)
    with pytest.raises(RefusedError, match="nothing was changed"):
        run(daemon, "wire1\nnone\n\n\nno\nno\n")
    assert daemon.typed == []


def test_end_of_input_in_the_middle_changes_nothing() -> None:
    daemon = Daemon(NEW)
    with pytest.raises(EOFError):
        run(daemon, "wire1\n")
    assert daemon.typed == []


def test_a_refused_commit_leaves_no_changes_behind() -> None:
    daemon = Daemon(NEW, config_commit=RefusedError("the kernel says no"))
    with pytest.raises(RefusedError, match="kernel says no"):
        run(daemon, "wire1\nnone\n\n\nno\nyes\n")
    assert daemon.calls[-1] == ("config.end", {"discard": True})


def test_half_done_work_of_others_is_not_committed_along() -> None:
    daemon = Daemon(NEW, config_edit={"changes": 3, "left_by": "bob"})
    with pytest.raises(RefusedError, match="the candidate has 3 uncommitted changes by bob"):
        one_commit.apply(daemon, [one_commit.Change("set", ("system", "hostname", "x"))], "x")
    assert daemon.typed == []
    assert daemon.asked("config.commit") == 0


def test_a_missing_link_is_said_and_looked_at_again() -> None:
    rows = [{"name": "main", "lan": "lan0", "lan_link": "down", "wan": "wan0", "wan_link": "up", "relay": "bypass",
             "cause": "link_down"}]  # fmt: skip
    daemon = Daemon(NEW, segments_show=rows)
    _, said = run(daemon, "wire1\nnone\n\n\nno\nyes\nno\nyes\n")
    assert "lan0 link down, wan0 link up; relay BYPASS (link_down)" in said
    assert daemon.asked("segments.show") == 2


def test_what_is_said_fits_the_terminal_of_the_session() -> None:
    """Sentences are folded, and a list's items hang."""
    out = io.StringIO()
    Asker(out=out, style=Style(width=24)).say("one two three four five six\n  item one two three four")
    assert out.getvalue() == "one two three four five\nsix\n  item one two three\n      four\n"


def test_a_question_is_explained_and_asked_again_after_going_back() -> None:
    """? says what is asked and why; < leads to the question before; what was answered then is the new answer."""
    daemon = Daemon({})
    typed = "?\nwire1\n?\n<\nwire2\nnone\n?\n<\ndhcp\n\n\n\n?\nno\nyes\n"
    _, said = run(daemon, typed)
    assert daemon.typed == ["system hostname wire2", "management address dhcp"]
    for text in ("name in prompts, logs", "apart from the link", "An area and a city", "logs in over SSH; the console"):
        assert text in said


def test_setup_is_offered_until_it_was_done_or_declined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    offered = tmp_path / "offered"
    for typed, recorded in (("\n", False), ("", False), ("setup\n", False), ("no\n", True)):
        monkeypatch.setattr(setup, "Asker", lambda typed=typed: Asker(io.StringIO(typed), io.StringIO()))
        setup.offer(Context(Daemon({}), io.StringIO(), io.StringIO(), Style()), offered)
        assert offered.exists() is recorded, typed
    offered.unlink()
    monkeypatch.setattr(setup, "Asker", lambda: Asker(io.StringIO("setup\nwire1\nnone\n\n\nno\nyes\n"), io.StringIO()))
    setup.offer(Context(Daemon({}), io.StringIO(), io.StringIO(), Style()), offered)
    assert offered.exists()
