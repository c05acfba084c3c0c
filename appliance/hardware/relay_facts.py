# SPDX-License-Identifier: GPL-2.0-only
"""What a relay does when nobody drives it, and how long the link would be dead then. Pure.

Facts are those of board.toml, and what this appliance's own power-off drill showed. A fact that is not known stays
unknown: None, with a sentence that says what is missing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from appliance.hardware.board import Relay


class Gap(NamedTuple):
    """How long the link would be dead (ms; None: no limit is known), and why."""

    ms: float | None
    why: str


class Unpowered(NamedTuple):
    """Whether both ports are joined without power: proven, claimed, no, or "" (not known). `said`: by what."""

    word: str
    said: str


_UNTIL_STARTED = "until the supervisor has started again"


def when_hung(relay: Relay, watchdog_ms: int) -> Gap:
    """The computer hangs while the relay is inline. `watchdog_ms`: the time-out in effect; 0: none is armed."""
    moves = int(relay.settle) / 1e6
    if relay.released == "times-out":
        if relay.times_out_ms is None:
            return Gap(None, "its controller opens it by itself; board.toml does not say after which time")
        return Gap(relay.times_out_ms + moves, "its controller opens it by itself")
    if relay.on_watchdog in ("inline", "keeps"):
        return Gap(None, f"it stays inline when the watchdog resets the computer: {_UNTIL_STARTED}")
    if relay.on_watchdog == "disconnect":
        return Gap(None, f"both ports are separated when the watchdog resets the computer: {_UNTIL_STARTED}")
    if relay.on_watchdog == "":
        return Gap(None, "not known: board.toml has no on_watchdog for this relay")
    if not watchdog_ms:
        return Gap(None, "no watchdog is armed: until somebody resets the computer")
    return Gap(watchdog_ms + moves, "the watchdog resets the computer, which opens the relay")


def when_unpowered(relay: Relay, drill: tuple[bool, float] | None) -> Unpowered:
    """`drill`: the newest power-off drill of this appliance: whether traffic crossed the link, and when (Unix time)."""
    if drill is not None:
        passed, at = drill
        day = datetime.fromtimestamp(at, UTC).date()
        if passed:
            return Unpowered("proven", f"by this appliance's power-off drill of {day}")
        return Unpowered("no", f"this appliance's power-off drill of {day} failed")
    if relay.unpowered == "proven":
        return Unpowered("proven", f"by the board's power-off drill of {relay.unpowered_proven}")
    if relay.unpowered == "claimed":
        return Unpowered("claimed", "by the board's maker: `drill run power` proves it")
    if relay.unpowered == "no":
        return Unpowered("no", "by board.toml: without power the link is dead")
    return Unpowered("", "not known: `drill run power` shows it")
