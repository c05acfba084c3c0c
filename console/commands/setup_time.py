# SPDX-License-Identifier: GPL-2.0-only
"""The questions of `setup` (setup.py) about name servers, time zone, time servers and clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from appliance.errors import BypassError
from appliance.paths import Paths
from console.client import Client
from console.commands.questions import Questions
from console.commands.setup_answers import Answers, clock_answer, server_words, servers_trouble, zone_trouble
from console.render import cell

ROOT = Paths().root


def steps(now: dict[str, Any], answers: Answers, questions: Questions) -> list[Callable[[], None]]:
    """The questions, in order, that complete `answers`; `now` is the running configuration."""
    management, times = now.get("management", {}), now.get("time", {})

    def reachable() -> bool:
        return answers.address != "none" or bool(management.get("address6"))

    def servers(kind: str, old: list[str], about: str, names: bool) -> tuple[str, ...]:
        by_dhcp = answers.address == "dhcp"
        usual = "dhcp" if by_dhcp else "none"

        def trouble(text: str) -> str:
            return "there is no DHCP server to ask" if text == "dhcp" and not by_dhcp else servers_trouble(text, names)

        return server_words(questions.until(trouble, f"{kind}, or {usual}", " ".join(old) or usual, about))

    def name_servers() -> None:
        about = (
            "Addresses of up to three name servers, between blanks; dhcp takes those that the DHCP server names. They"
            " resolve the names of time servers and of hosts in `ping` and `dns`, and nothing that traffic depends on."
        )
        old = management.get("dns", [])
        answers.dns = servers("Name servers (DNS)", old, about, names=False) if reachable() else ()

    def zone() -> None:
        about = (
            "An area and a city as Europe/Berlin, or UTC. `show clock`, `reboot at` and the logs of programs use it;"
            " events and JSON are in UTC."
        )
        old = str(times.get("zone", "UTC"))
        answers.zone = questions.until(lambda text: zone_trouble(text, ROOT), "Time zone", old, about)

    def time_servers() -> None:
        about = (
            "Addresses or names of NTP servers that keep the clock, between blanks; dhcp takes those that the DHCP"
            " server names. Without any the clock is set by hand and runs free. Traffic never depends on the clock."
        )
        old = times.get("servers", [])
        answers.servers = servers("Time servers (NTP)", old, about, names=True) if reachable() else ()

    def clock() -> None:
        answers.ahead = None
        if answers.servers or answers.address == "dhcp":
            return  # a server keeps it
        questions.asker.say(f"\nThe clock shows {local(answers):%Y-%m-%d %H:%M:%S %Z}.")
        about = "The time of day in the time zone above, as 2026-05-01 14:30 or 14:30. It is set when setup ends."
        text = questions.until(lambda text: clock_answer(text, local(answers))[1], "Time, or keep", "keep", about)
        answers.ahead = clock_answer(text, local(answers))[0]

    return [name_servers, zone, time_servers, clock]


def local(answers: Answers) -> datetime:
    """The clock, as the time zone of the answers shows it."""
    try:
        return datetime.now(ZoneInfo(answers.zone or "UTC"))
    except (ZoneInfoNotFoundError, ValueError):
        return datetime.now(UTC)


def set_clock(client: Client, answers: Answers) -> str:
    """Move the clock by what was answered; what is to be said about it, "" if it stays."""
    if answers.ahead is None:
        return ""
    try:
        moment = (local(answers) + answers.ahead).isoformat(timespec="seconds")
        return cell(client.call("clock.set", {"when": moment})["message"])
    except BypassError as error:
        return f"The clock was not set: {cell(error)}. `clock set` sets it."
