# SPDX-License-Identifier: GPL-2.0-only
"""bypassd's end of the keeper link (protocol.py). Owns the socket from the first line of `main` to the end.

Imports are light: the first "hold" is sent before asyncio or anything heavy is loaded. The keeper is our parent. When
it dies, the kernel kills us, because the bypassd that a new keeper starts must be the only one; if the kernel cannot,
end of file on the link tells us.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from appliance import progress
from appliance.errors import ProtocolError
from appliance.hardware.watchdog import WatchdogDevice
from appliance.keeper.protocol import LINK_VARIABLE, PACKET_BYTES

_PR_SET_PDEATHSIG, _SIGKILL = 1, 9


@dataclass(frozen=True)
class RelayState:
    """One relay as the keeper reports it."""

    relay: str  # inline | bypass | disconnect
    cause: str
    usable: bool
    error: str = ""


@dataclass(frozen=True)
class KeeperState:
    """The last state that the keeper sent."""

    relays: dict[str, RelayState] = field(default_factory=dict)
    watchdog_present: bool = False  # the board has one
    watchdog_ms: int = 0  # as the device reports it; 0 = not armed
    watchdog_error: str = ""
    watchdog_unfed: bool = False  # a drill keeps it from being fed
    watchdogs: tuple[WatchdogDevice, ...] = ()  # each device, as it is
    restarts: int = 0
    last_exit: str = ""
    started_ns: int = 0

    def settled(self) -> bool:
        """Whether the keeper has tried every relay and the watchdog once, so that its state is meaningful."""
        relays = all(relay.usable or relay.error for relay in self.relays.values())
        return relays and bool(not self.watchdog_present or self.watchdog_ms or self.watchdog_error)


def parse_state(packet: bytes) -> KeeperState:
    """Parse one packet from the keeper; ProtocolError if it is malformed."""
    try:
        data = json.loads(packet)
        watchdog = data["watchdog"]
        return KeeperState(
            relays={
                str(name): RelayState(str(r["relay"]), str(r["cause"]), bool(r["usable"]), str(r["error"]))
                for name, r in data["relays"].items()
            },
            watchdog_present=bool(watchdog["present"]),
            watchdog_ms=int(watchdog["timeout_ms"]),
            watchdog_error=str(watchdog["error"]),
            watchdog_unfed=watchdog.get("unfed") is True,
            watchdogs=tuple(WatchdogDevice(**device) for device in watchdog.get("devices", ())),
            restarts=int(data["bypassd_restarts"]),
            last_exit=str(data["last_exit"]),
            started_ns=int(data["keeper_started_ns"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolError(f"the keeper sent a malformed state: {error}") from error


class KeeperLink:
    """The link, or its absence: a bypassd that was started by hand has no keeper and therefore no relay."""

    def __init__(self, link: socket.socket | None) -> None:
        self._link = link
        self.state: KeeperState | None = None
        self.lost = False
        self._number = 0  # of the last check-in that was sent
        self._changed: Callable[[], None] = lambda: None

    @classmethod
    def from_environment(cls) -> KeeperLink:
        """The link that the keeper passed to us; our own children do not inherit it."""
        number = os.environ.pop(LINK_VARIABLE, "")
        if not number.isdigit():
            return cls(None)
        link = socket.socket(fileno=int(number))
        link.setblocking(False)
        os.set_inheritable(link.fileno(), False)
        return cls(link)

    @property
    def present(self) -> bool:
        """Whether there is a keeper at the other end."""
        return self._link is not None and not self.lost

    def fileno(self) -> int:
        """The descriptor to watch for input; -1 without a keeper."""
        return self._link.fileno() if self._link else -1

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` after every new state, and when the link is lost."""
        self._changed = changed

    def hold(self) -> None:
        """Tell the keeper that our start has advanced by one step, and that the relays should stay as they are."""
        progress.step()
        relays = {"*": {"want": "hold", "cause": "starting"}}
        self._send({"type": "checkin", "relays": relays, "progress": str(progress.done())})

    def check_in(
        self,
        wants: dict[str, tuple[str, str]],
        watchdog_ms: int | None,
        grace_ms: int | None,
        *,
        at: int,
        steps: Sequence[str],
        unfed: bool = False,
        locate: bool = False,
    ) -> None:
        """Check in: `wants` maps each relay to (inline | bypass | disconnect | hold, cause). `at`, `steps`: when the
        work before it began, and what was done (sequence.py). `unfed`: a drill, the keeper is not to feed the
        watchdog. `locate`: an LED is to blink."""
        relays = {name: {"want": want, "cause": cause} for name, (want, cause) in wants.items()}
        sequence = {"number": self._number + 1, "at_ns": at, "steps": list(steps)}
        message: dict[str, object] = {
            "type": "checkin",
            "relays": relays,
            "progress": str(progress.done()),
            "sequence": sequence,
        }
        if watchdog_ms is not None:
            message["watchdog_timeout_ms"] = watchdog_ms
        if grace_ms is not None:
            message["grace_ms"] = grace_ms
        if unfed:
            message["unfed"] = True
        if locate:
            message["locate"] = True
        if self._send(message):
            self._number += 1

    def late(self, parts: str) -> None:
        """Tell the keeper why there is no check-in: these parts are late."""
        self._send({"type": "late", "parts": parts})

    def receive(self) -> None:
        """Read everything that the keeper has sent; ProtocolError if it is malformed."""
        while self._link is not None and not self.lost:
            try:
                packet = self._link.recv(PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if packet:
                self.state = parse_state(packet)
            else:
                self.lost = True
            self._changed()

    def _send(self, message: dict[str, object]) -> bool:
        """Whether it was sent."""
        if self._link is None or self.lost:
            return False
        try:
            self._link.send(json.dumps(message).encode())
        except BlockingIOError:
            return False  # the keeper hangs: the hardware watchdog deals with that
        except OSError:
            self.lost = True
            self._changed()
            return False
        return True

    def close(self) -> None:
        """Close our end; the keeper notices and waits for us to exit."""
        if self._link is not None:
            self._link.close()


def die_with_parent(parent: int) -> bool:
    """Have the kernel kill this process when its parent dies. False: `parent` is dead already."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    return os.getppid() == parent
