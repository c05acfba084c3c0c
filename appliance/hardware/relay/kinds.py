# SPDX-License-Identifier: GPL-2.0-only
"""The registry of kinds: how each kind of relay is made, and the keys that it adds to a `[[relay]]` table.

A new kind is one module beside this one, its maker in makers.py and one row of `KINDS`. The module of a kind is loaded
only if a board uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from appliance.hardware.relay import makers
from appliance.hardware.relay.keys import Key, Keys, milliseconds, number
from appliance.hardware.relay.protocol import Relay, RelaySpec
from appliance.ranges import RELAY_PULSE_MS, RELAY_START_MS, RELAY_TIMEOUT_MS, RELAY_TOGGLE_MS, Range

DEFAULT_KIND = "level"


class Kind(NamedTuple):
    """One row of the registry: how to make a relay of this kind, and the keys that it adds to `[[relay]]`.

    `released` says, for these options, what it does when its owner dies and its lines or bus are released: reverts (to
    bypass, at once), times-out (to bypass, after the time in the key `timeout`), keeps, or unknown. `kick`: how often
    it needs a sign of life while inline (ns high, ns low), if it does. `bus`: the keys whose values name the bus;
    relays on one bus are driven one after the other. `contacts_decide`: only a read-back line knows the position at the
    start. `check`: what is wrong with keys that are right one by one.
    """

    make: Callable[[RelaySpec], Relay]
    keys: Keys
    released: Callable[[Mapping[str, object]], str] = lambda options: "keeps"
    kick: Callable[[Mapping[str, object]], tuple[int, int] | None] = lambda options: None
    timeout: str = ""
    bus: tuple[str, ...] = ()
    contacts_decide: bool = False
    check: Callable[[Mapping[str, object]], list[str]] = lambda options: []


def _port_values(options: Mapping[str, object]) -> list[str]:
    mask = number(options["mask"])
    values = {key: number(options[key]) for key in _WORDS if key in options}
    found = [
        f"{key}: 0x{value:02x} has bits outside mask 0x{mask:02x}" for key, value in values.items() if value & ~mask
    ]
    if ("logical_device" in options) != ("register" in options):
        found.append("logical_device: needs register, and register needs it")
    return found + _distinct(values)


def _distinct(options: Mapping[str, object]) -> list[str]:
    values = [options[key] for key in _WORDS if key in options]
    return ["inline, bypass and disconnect must differ"] if len(set(values)) < len(values) else []


def _toggled(options: Mapping[str, object]) -> tuple[int, int]:
    high, low = (milliseconds(options.get(key, "200ms")) for key in ("high", "low"))
    return int(high * 1e6), int(low * 1e6)


def _fed(options: Mapping[str, object]) -> tuple[int, int] | None:
    """A controller's watchdog, four times in its time."""
    if "watchdog" not in options:
        return None
    quarter = int(milliseconds(options["watchdog"]) * 1e6 / 4)
    return quarter, quarter


_ACTIVE = Key("the level that drives the coil", words=("high", "low"))
_ON_RELEASE = Key("what a line does when its owner ends", words=("reverts", "keeps", "unknown"))
_TIMEOUT = Key("the relay goes to bypass this long after the last sign of life", "time", range=RELAY_TIMEOUT_MS)
_ADAPTER = Key("the I2C adapter: its path, or the beginning of its name in /sys/class/i2c-dev", required=True)
_ADDRESS = Key("the chip's address on the bus", "number", range=Range(0x03, 0x77))
_WORDS: Keys = {
    "inline": Key("what to write for inline", required=True),
    "bypass": Key("what to write for bypass", required=True),
    "disconnect": Key("what to write to separate both ports"),
}
_BYTE = Range(0, 0xFF)
_LEVEL = Kind(
    makers.level,
    {
        "line": Key("the GPIO line of the coil", "line", required=True),
        "disconnect": Key("the GPIO line of a second relay that separates both ports", "line"),
        "active": _ACTIVE,
        "on_release": _ON_RELEASE,
    },
    released=lambda options: str(options.get("on_release", "unknown")),
)

KINDS: dict[str, Kind] = {
    "level": _LEVEL,  # the coil is energized while a GPIO line has its active level
    "gpio": _LEVEL,  # the former name of "level"
    "latching": Kind(  # a pulse on one of two lines moves it, and nothing holds it
        makers.latching,
        {
            "set_line": Key("the GPIO line whose pulse moves the relay to inline", "line", required=True),
            "reset_line": Key("the GPIO line whose pulse moves the relay to bypass", "line", required=True),
            "pulse": Key("how long a pulse lasts", "time", range=RELAY_PULSE_MS, required=True),
            "active": _ACTIVE,
        },
        contacts_decide=True,
    ),
    "keep-alive": Kind(  # inline while a GPIO line toggles
        makers.keep_alive,
        {
            "line": Key("the GPIO line that is toggled", "line", required=True),
            "high": Key("how long its active level lasts", "time", range=RELAY_TOGGLE_MS),
            "low": Key("how long its other level lasts", "time", range=RELAY_TOGGLE_MS),
            "start": Key("levels before the first one, to start the controller", "levels", range=RELAY_START_MS),
            "keep_alive_timeout": _TIMEOUT,
            "active": _ACTIVE,
        },
        released=lambda options: "times-out",
        kick=_toggled,
        timeout="keep_alive_timeout",
        contacts_decide=True,
    ),
    "expander": Kind(  # a pin of an I2C expander that no kernel driver has
        makers.expander,
        {
            "adapter": _ADAPTER,
            "address": _ADDRESS._replace(required=True),
            "pin": Key("the pin of the coil", "number", range=Range(0, 15), required=True),
            "disconnect": Key("the pin of a second relay that separates both ports", "number", range=Range(0, 15)),
            "active": _ACTIVE,
        },
        bus=("adapter",),
    ),
    "bypass-controller": Kind(  # a controller with a watchdog of its own behind registers
        makers.controller,
        {
            "adapter": _ADAPTER,
            "address": _ADDRESS,
            "pair": Key("the pair of ports, counted from 1", "number", range=Range(1, 8), required=True),
            "watchdog": Key("the time of the controller's own watchdog", "time", range=Range(1000, 255_000)),
        },
        released=lambda options: "times-out" if "watchdog" in options else "keeps",
        kick=_fed,
        timeout="watchdog",
        bus=("adapter",),
    ),
    "block": Kind(  # a controller that takes the position as a block of bytes
        makers.block,
        {
            "adapter": _ADAPTER,
            "address": _ADDRESS._replace(required=True),
            "command": Key("the SMBus command that takes the position", "number", range=_BYTE, required=True),
            "read_command": Key("the SMBus command that shows it", "number", range=_BYTE),
            **{key: row._replace(kind="bytes") for key, row in _WORDS.items()},
        },
        bus=("adapter",),
        check=_distinct,
    ),
    "attribute": Kind(  # a file of a kernel driver
        makers.attribute,
        {
            "path": Key("the file that takes the position", "path", required=True),
            "read_path": Key("the file that shows it, if it is another one", "path"),
            **_WORDS,
        },
        check=_distinct,
    ),
    "port": Kind(  # bits of an I/O port or of a Super-I/O register
        makers.port,
        {
            "port": Key("the I/O port, or that of the Super-I/O chip", "number", range=Range(0, 0xFFFE), required=True),
            "logical_device": Key("the Super-I/O chip's logical device", "number", range=_BYTE),
            "register": Key("the register of that device", "number", range=_BYTE),
            "mask": Key("the bits that belong to the relay", "number", range=Range(1, 0xFF), required=True),
            **{key: row._replace(kind="number", range=_BYTE) for key, row in _WORDS.items()},
        },
        bus=("port",),
        check=_port_values,
    ),
}
