# SPDX-License-Identifier: GPL-2.0-only
"""Drives each kind of relay that the kernel has a model for: runs on the board, prints one JSON object.

gpio-sim gives lines, i2c-stub an adapter that speaks SMBus only, with chips that keep what is written. What the kernel
sees is read past the kinds: from gpio-sim's attributes, and by smbus2 itself.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from smbus2 import SMBus

from appliance.errors import HardwareError
from appliance.hardware.relay.factory import make
from appliance.hardware.relay.i2c import find_adapter, open_bus
from appliance.hardware.relay.protocol import Relay
from appliance.hardware.relay.table import spec_of, wrong

CONFIG = Path("/sys/kernel/config/gpio-sim/relays")
LINES = ("sim-coil", "sim-set", "sim-reset", "sim-contact", "sim-alive")
ADAPTER = "SMBus stub driver"
EXPANDER, DRIVEN, CONTROLLER, BLOCK = 0x20, 0x21, 0x37, 0x24
found: dict[str, Any] = {}


def lines() -> Path:
    """The model's lines; returns the folder with what the kernel sees of them."""
    if not CONFIG.parent.is_dir():
        os.system("mount -t configfs none /sys/kernel/config")
    bank = CONFIG / "bank0"
    bank.mkdir(parents=True)
    (bank / "num_lines").write_text(str(len(LINES)))
    for offset, name in enumerate(LINES):
        (bank / f"line{offset}").mkdir()
        (bank / f"line{offset}/name").write_text(name)
    (CONFIG / "live").write_text("1")
    device, chip = (path.read_text().strip() for path in (CONFIG / "dev_name", bank / "chip_name"))
    return Path("/sys/devices/platform") / device / chip


def relay(**table: Any) -> Relay:
    table["ports"] = ["lan0", "wan0"]
    assert not wrong(table), wrong(table)
    return make(spec_of(table))


def refusal(call: Callable[[], object]) -> str:
    try:
        return f"no refusal: {call()}"
    except HardwareError as error:
        return f"{type(error).__name__}: {error}"


def by_lines(seen: Path) -> None:
    def value(name: str) -> str:
        return (seen / f"sim_gpio{LINES.index(name)}/value").read_text().strip()

    def contact(level: str) -> None:
        (seen / f"sim_gpio{LINES.index('sim-contact')}/pull").write_text(f"pull-{level}")

    coil = relay(kind="level", line="sim-coil", on_release="reverts")
    story = [coil.open(), value("sim-coil")]
    for position in ("inline", "bypass", "inline"):
        coil.set(position)
        story += [coil.read(), value("sim-coil")]
    found["taken"] = refusal(relay(kind="level", line="sim-coil", on_release="reverts").open)
    coil.close()
    found["level"] = [*story, value("sim-coil")]

    contact("down")
    latching = relay(kind="latching", set_line="sim-set", reset_line="sim-reset", pulse="20ms", read_back="sim-contact")
    story = [latching.open()]
    latching.set("inline")
    story.append(latching.read())  # the contacts have not moved
    contact("up")
    story += [latching.read(), value("sim-set"), value("sim-reset")]
    latching.close()
    found["latching"] = story

    alive = relay(kind="keep-alive", line="sim-alive", keep_alive_timeout="450ms")
    story = [alive.open(), value("sim-alive")]
    alive.set("inline")
    for level in (False, True):
        story.append(value("sim-alive"))
        alive.kick(level)
    story += [value("sim-alive"), alive.read()]
    alive.close()
    found["keep-alive"] = [*story, value("sim-alive")]


def by_chips() -> None:
    path = find_adapter(ADAPTER)
    bus = open_bus(path)
    found["bus"] = type(bus).__name__
    bus.close()
    with SMBus(path) as chips:
        for register in (6, 7):
            chips.write_byte_data(EXPANDER, register, 0xFF)
        expander = relay(kind="expander", adapter=ADAPTER, address=EXPANDER, pin=9)
        story = [expander.open(), chips.read_byte_data(EXPANDER, 3), chips.read_byte_data(EXPANDER, 7)]
        expander.set("inline")
        story.append(chips.read_byte_data(EXPANDER, 3))
        story.append(expander.read())  # the pin does not follow: the model has no contacts
        chips.write_byte_data(EXPANDER, 1, 2)
        story.append(expander.read())
        chips.write_byte_data(EXPANDER, 7, 0xFF)
        found["expander"] = story
        found["expander reset"] = refusal(expander.read)
        expander.close()

        for command, answer in ((0x03, 0x1F), (0x06, 0x03), (0x12, 0x02)):
            chips.write_word_data(CONTROLLER, command, answer << 8 | command | 0x80)
        pairs = [relay(kind="bypass-controller", adapter=ADAPTER, pair=pair, watchdog="5s") for pair in (1, 2)]
        found["controller"] = [pair.open() for pair in pairs]
        found["another chip"] = refusal(lambda: pairs[0].set("inline"))

        block = relay(
            kind="block",
            adapter=ADAPTER,
            address=BLOCK,
            command=0x55,
            read_command=0x55,
            inline="01 02",
            bypass="01 00",
        )
        chips.write_block_data(BLOCK, 0x55, [1, 0])
        story = [block.open()]
        block.set("inline")
        found["block"] = [*story, block.read(), chips.read_block_data(BLOCK, 0x55)]

        number = path.rpartition("-")[2]
        Path(f"/sys/bus/i2c/devices/i2c-{number}/new_device").write_text(f"pca9535 0x{DRIVEN:x}")
        line = f"{number}-00{DRIVEN:x}:9"
        driven = relay(kind="level", line=line, on_release="keeps")
        story = [driven.open()]
        driven.set("inline")
        story.append(chips.read_byte_data(DRIVEN, 3, force=True) >> 1 & 1)
        chips.write_byte_data(DRIVEN, 1, 2, force=True)  # what the pins show is what they are driven to
        driven.close()
        again = relay(kind="level", line=line, on_release="keeps")
        found["expander with its driver"] = [*story, again.open()]
        again.set("bypass")
        again.close()
        found["its driver has it"] = refusal(relay(kind="expander", adapter=ADAPTER, address=DRIVEN, pin=9).open)


def main() -> None:
    try:
        by_lines(lines())
        by_chips()
    finally:
        with suppress(OSError):
            (CONFIG / "live").write_text("0")
            for path in (*sorted(glob.glob(f"{CONFIG}/bank0/line*")), f"{CONFIG}/bank0", str(CONFIG)):
                Path(path).rmdir()
    print(json.dumps(found))


main()
