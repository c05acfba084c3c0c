# SPDX-License-Identifier: GPL-2.0-only
"""The events and actions of the keeper's core: all that core.py, which decides, and loop.py, which acts, exchange."""

from __future__ import annotations

from typing import NamedTuple

from appliance.causes import Cause
from appliance.hardware.watchdog import WatchdogDevice
from appliance.keeper.sequence import Proof
from appliance.keeper.silence import Looked

BYPASS, INLINE, DISCONNECT, HOLD = "bypass", "inline", "disconnect", "hold"
UNKNOWN = "unknown"  # the position of a relay that does not answer and keeps its position by itself
WANTS = (BYPASS, INLINE, DISCONNECT, HOLD)


# Events
class Started(NamedTuple):
    """The keeper's loop begins; `relays` names the board's relays."""

    relays: tuple[str, ...]
    watchdog: bool = True  # the board has one
    settle: dict[str, int] | None = None  # how long each relay's contacts take to move, in ns (0 if not named)
    keep_alive: dict[str, tuple[int, int]] | None = None  # relays that are inline while toggled: ns high, ns low
    keeps: frozenset[str] = frozenset()  # relays that are not known to fall back to bypass when they are released
    leds: frozenset[str] = frozenset()  # names of the board's LEDs


class Tick(NamedTuple):
    """The time that `KeeperCore.deadline` returned has come."""


class Ask(NamedTuple):
    """The position that bypassd requests for one relay."""

    want: str
    cause: str = ""


class CheckIn(NamedTuple):
    """A check-in of bypassd."""

    relays: dict[str, Ask]
    watchdog_ms: int | None = None
    grace_ns: int | None = None
    notes: tuple[str, ...] = ()  # values that could not be used as sent
    unfed: bool = False  # a drill: do not feed the watchdog, so that it resets the machine
    locate: bool = False  # make an LED blink, so that a person finds the box
    progress: str = ""  # how far its start is; any text that differs from the previous one is progress
    proof: Proof | None = None  # that it is not only alive (sequence.py); None while it starts


class Late(NamedTuple):
    """bypassd is alive, but cannot check in because parts of it are late; `parts` is text for a person."""

    parts: str


class Exited(NamedTuple):
    """bypassd ended, or could not be started; `how` is text for a person."""

    how: str


class LinkLost(NamedTuple):
    """bypassd closed its end of the keeper link but has not ended, or sent a malformed packet."""

    why: str


class RelayReport(NamedTuple):
    """Result of OpenRelay, Drive or ReadRelay: the position found, or why there is none.

    `expected` is the position that the action expected: a report may arrive after the next order was given. `moved`: it
    is the result of Drive, and the contacts have been moving only since now.
    """

    relay: str
    position: str = ""
    error: str = ""
    expected: str = ""
    cause: Cause = Cause.RELAY_MISSING  # of the error
    moved: bool = False


class WatchdogReport(NamedTuple):
    """Result of OpenWatchdog, SetWatchdog or Feed: the timeout that counts, or why there is none; and each device."""

    timeout_ms: int = 0
    error: str = ""
    devices: tuple[WatchdogDevice, ...] = ()


class Stop(NamedTuple):
    """SIGTERM: an orderly stop."""


Event = Started | Tick | CheckIn | Late | Looked | Exited | LinkLost | RelayReport | WatchdogReport | Stop


# Actions
class Spawn(NamedTuple):
    """Start bypassd."""


class Kill(NamedTuple):
    """Send bypassd a signal: SIGTERM if `orderly`, else SIGKILL."""

    orderly: bool


class Look(NamedTuple):
    """Read the kernel's account of bypassd and report it as Looked."""


class OpenRelay(NamedTuple):
    """Open the relay's lines and report."""

    relay: str


class ReadRelay(NamedTuple):
    """Read the relay's position back and report."""

    relay: str
    expected: str


class Drive(NamedTuple):
    """Move the relay and report."""

    relay: str
    position: str


class Kick(NamedTuple):
    """Set the keep-alive line of a relay to this level; report only a failure."""

    relay: str
    level: bool


class CloseRelay(NamedTuple):
    """Release the relay."""

    relay: str


class OpenWatchdog(NamedTuple):
    """Open the watchdog, set its timeout and report."""

    timeout_ms: int


class SetWatchdog(NamedTuple):
    """Set the open watchdog's timeout and report."""

    timeout_ms: int


class Feed(NamedTuple):
    """Feed the watchdog; report only a failure."""


class CloseWatchdog(NamedTuple):
    """Set the open watchdog's timeout for the last time and close it: it keeps counting."""

    timeout_ms: int


class Led(NamedTuple):
    """Switch an LED: status or locate (lamp.py)."""

    on: bool
    name: str = "status"


class Send(NamedTuple):
    """Send the state to bypassd."""


class Log(NamedTuple):
    """One log line."""

    text: str
    severe: bool = True


class Exit(NamedTuple):
    """Exit with status 0."""


Action = (
    Spawn | Kill | Look | OpenRelay | ReadRelay | Drive | Kick | CloseRelay | OpenWatchdog | SetWatchdog | Feed
    | CloseWatchdog | Led | Send | Log | Exit
)  # fmt: skip
