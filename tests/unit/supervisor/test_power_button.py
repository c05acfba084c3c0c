# SPDX-License-Identifier: GPL-2.0-only
"""The power button: what is a press, and that it orders a power off or is ignored. A pipe stands for its device."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.config.schema.model import Config, System
from appliance.hardware import buttons
from appliance.supervisor.power_button import PowerButton
from tests.support.waiting import until


def event(kind: int = 1, code: int = buttons.KEY_POWER, value: int = 1) -> bytes:
    return buttons.EVENT.pack(1, 2, kind, code, value)


@pytest.mark.parametrize(
    ("keys", "has"),
    [
        ("10000000000000 0", True),  # the power button of ACPI
        ("8000 10000000000000 0", True),
        ("10000000000000", False),  # the same bit of the lowest word
        ("402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe", True),  # a keyboard's own
        ("402000000 3803078f800d001 feefffdfffefffff fffffffffffffffe", False),  # one without
        ("0", False),
        ("", False),
    ],
)
def test_which_device_is_a_power_button(keys: str, has: bool) -> None:
    assert buttons.has_power_key(keys) is has


def test_a_press_is_the_key_going_down() -> None:
    """Not its release, its repetition while it is held, another key, the end of a report, or half a record."""
    others = event(value=0) + event(value=2) + event(code=30) + event(kind=0, code=0, value=0)
    assert buttons.presses(others + event()[:-1]) == 0
    assert buttons.presses(event() + others + event()) == 2


def test_this_machines_devices_can_be_read() -> None:
    assert all(path.name.startswith("event") for path in buttons.find())


class Button:
    def __init__(self, folder: Path, config: Config | None) -> None:
        self.path, self.presses, self.said = folder / "event0", 0, list[str]()
        os.mkfifo(self.path)
        record = SimpleNamespace(record=lambda *args: self.said.append(args[-1]))
        self.system: Any = SimpleNamespace(config=config, events=record, paths=SimpleNamespace(root=folder))

    async def press(self) -> None:
        self.presses += 1

    async def of(self, data: bytes, seen: Any, *, closed: bool = False) -> None:
        """Run until the data written to the device has had its effect."""
        missing = self.path.with_name("event1")
        task = asyncio.create_task(PowerButton(self.system, self.press, lambda: [missing, self.path]).run())
        fd = -1
        while fd < 0:
            try:
                fd = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads yet
                await asyncio.sleep(0.001)
        os.write(fd, data)
        await until(seen)
        if closed:
            os.close(fd)
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("config", [None, Config()])
def test_a_press_powers_off(tmp_path: Path, config: Config | None) -> None:
    """Also before there is a configuration, and although another device cannot be opened."""
    button = Button(tmp_path, config)
    asyncio.run(button.of(event(value=0) + event(), lambda: button.presses == 1))
    assert button.said == []


def test_it_can_be_ignored_and_says_so(tmp_path: Path) -> None:
    button = Button(tmp_path, Config(system=System(power_button="ignore")))
    asyncio.run(button.of(event(), lambda: button.said, closed=True))
    assert button.presses == 0
    assert "ignored as configured" in button.said[0]


def test_below_another_root_the_machines_buttons_are_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    button = Button(tmp_path, Config())
    monkeypatch.setattr(buttons, "find", lambda: [button.path])
    asyncio.run(PowerButton(button.system, button.press).run())  # ends at once: there is none
    button.system.paths.root = Path("/")
    assert PowerButton(button.system, button.press)._of_machine() == [button.path]
