# SPDX-License-Identifier: GPL-2.0-only
"""Emulated hardware for relays, at the boundary of their bus: lines and registers below, contacts above.

A `Rig` is one kind of relay with its hardware. Time is the rig's own: `sleep` and `elapse` move it, and what expires
(a monostable, a controller's watchdog) expires by it. Its faults can be set at any time.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.hardware.relay import factory, i2c, port, protocol, sysfs, table
from appliance.hardware.relay import line as line_module
from appliance.hardware.relay.line import LinePlace

TABLE = {"ports": ["lan0", "wan0"]}
PATIENCE_S = 20.0


class Faults:
    """What a bus does wrong. `slow`: transfers wait until it is set."""

    def __init__(self) -> None:
        self.error = False
        self.stuck = False  # writes change nothing
        self.wrong_read = False
        self.slow: threading.Event | None = None
        self.transfers = 0

    def transfer(self) -> None:
        """Every transfer goes through here. OSError: the bus reports an error."""
        self.transfers += 1
        if self.slow is not None:
            assert self.slow.wait(PATIENCE_S)
        if self.error:
            raise OSError(errno.EREMOTEIO, os.strerror(errno.EREMOTEIO))


class Rig:
    """One relay and its hardware; a subclass for each kind."""

    kind = ""
    options: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, patch: pytest.MonkeyPatch, **more: Any) -> None:
        self.faults = Faults()
        self.now_ms = 0.0
        self.table = {**TABLE, "kind": self.kind, **self.options, **more}
        self.spec = table.spec_of(self.table)
        assert not table.wrong(self.table)
        self.install(patch)
        self.relay = self.build()

    def build(self) -> protocol.Relay:
        """The relay of the table."""
        return factory.make(self.spec)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Put the emulated bus in the place of the real one."""

    @property
    def contacts(self) -> str:
        """Where the relay really is."""
        raise NotImplementedError

    def owner_dies(self) -> None:
        """The process that drives it is gone: the kernel closes its descriptors, and nothing is called any more."""

    def driver_resets(self) -> None:
        """The driver of the bus or controller is bound anew, or the chip loses its registers."""

    def sleep(self, seconds: float) -> None:
        self.now_ms += seconds * 1000

    def elapse(self, milliseconds: float) -> None:
        """Time passes in which nobody does anything."""
        self.now_ms += milliseconds


class PlainRig(Rig):
    """A relay on a bus of its own that never fails."""

    kind = "level"
    options = {"line": "plain", "on_release": "reverts"}  # noqa: RUF012

    def install(self, patch: pytest.MonkeyPatch) -> None:
        self.position = "bypass"

    def build(self) -> protocol.Relay:
        return self

    def open(self) -> str:
        return self.position

    def set(self, position: str) -> None:
        self.position = position

    def read(self) -> str:
        return self.position

    def kick(self, level: bool) -> None: ...

    def close(self) -> None:
        self.position = "bypass"

    @property
    def contacts(self) -> str:
        return self.position


class _Opened:
    """What periphery's line object does."""

    def __init__(self, rig: GpioRig, name: str, direction: str) -> None:
        self._rig, self._name = rig, name
        rig.faults.transfer()
        rig.requested.add(name)
        if direction != "in":
            rig.put(name, direction == "high")

    def write(self, level: bool) -> None:
        self._rig.faults.transfer()
        if not self._rig.faults.stuck:
            self._rig.put(self._name, level)

    def read(self) -> bool:
        self._rig.faults.transfer()
        return self._rig.level(self._name) != self._rig.faults.wrong_read

    def close(self) -> None:
        self._rig.release(self._name)


class GpioRig(Rig):
    """Lines of a GPIO controller. `reverts`: a released line returns to its resting level, which is low."""

    reverts = True
    inputs: dict[str, Callable[[], bool]] = {}  # noqa: RUF012

    def install(self, patch: pytest.MonkeyPatch) -> None:
        self.levels: dict[str, bool] = {}
        self.requested: set[str] = set()
        self.edges: list[tuple[float, str, bool]] = []
        self.inputs = {"contacts": lambda: self.contacts == "inline"}
        gpio = pytest.importorskip("periphery.gpio")
        patch.setattr(gpio, "CdevGPIO", lambda chip, offset, direction, label: _Opened(self, chip, direction))
        patch.setattr(line_module, "find_line", lambda name: LinePlace(name, 0, 8 if name in self.levels else 0))
        patch.setattr(line_module, "_level_as_is", lambda place: self.level(place.chip))
        for module in ("latching", "keep_alive"):
            found = __import__(f"appliance.hardware.relay.{module}", fromlist=["time"])
            patch.setattr(found, "time", SimpleNamespace(sleep=self.sleep))

    def level(self, name: str) -> bool:
        return self.inputs[name]() if name in self.inputs else self.levels.get(name, False)

    def put(self, name: str, level: bool) -> None:
        if self.levels.get(name, False) != level:
            self.edges.append((self.now_ms, name, level))
        self.levels[name] = level
        self.moved(name, level)

    def moved(self, name: str, level: bool) -> None:
        """A level was set."""

    def release(self, name: str) -> None:
        self.requested.discard(name)
        if self.reverts and name not in self.inputs:
            self.put(name, False)

    def owner_dies(self) -> None:
        for name in list(self.requested):
            self.release(name)

    def driver_resets(self) -> None:
        for name in list(self.levels):
            self.put(name, False)


class LevelRig(GpioRig):
    """A coil on a line that falls back when it is released."""

    kind = "level"
    options = {"line": "coil", "on_release": "reverts"}  # noqa: RUF012

    @property
    def contacts(self) -> str:
        return "inline" if self.levels.get("coil") else "bypass"


class KeepingLevelRig(LevelRig):
    """A coil on a line whose controller keeps its level."""

    options = {"line": "coil", "on_release": "keeps"}  # noqa: RUF012
    reverts = False


class WeldedRig(LevelRig):
    """A coil that falls back, with a contact that shows the position, and contacts that may stay inline."""

    options = {**LevelRig.options, "read_back": "contacts", "settle": "20ms"}  # noqa: RUF012
    welded = False

    @property
    def contacts(self) -> str:
        return "inline" if self.welded else super().contacts


class LatchingRig(GpioRig):
    """Two coils; each moves the contacts when its pulse lasted `needs_ms`."""

    kind = "latching"
    options = {"set_line": "set", "reset_line": "reset", "pulse": "20ms"}  # noqa: RUF012
    needs_ms = 15.0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        super().install(patch)
        self.position = "bypass"
        self.since: dict[str, float] = {}
        self.both = False  # both coils had current at once

    def moved(self, name: str, level: bool) -> None:
        if level:
            self.both = self.both or bool(self.since)
            self.since[name] = self.now_ms
        elif name in self.since and self.now_ms - self.since.pop(name) >= self.needs_ms:
            self.position = "inline" if name == "set" else "bypass"

    @property
    def contacts(self) -> str:
        return self.position


class LatchingReadBackRig(LatchingRig):
    """The same with a contact that shows the position."""

    options = {**LatchingRig.options, "read_back": "contacts"}  # noqa: RUF012


class KeepAliveRig(GpioRig):
    """A monostable: inline until `holds_ms` after the last edge, once it has seen the start sequence."""

    kind = "keep-alive"
    options = {"line": "alive", "keep_alive_timeout": "450ms"}  # noqa: RUF012
    holds_ms = 450.0

    @property
    def contacts(self) -> str:
        started = len(self.edges) >= 1
        return "inline" if started and self.now_ms - self.edges[-1][0] <= self.holds_ms else "bypass"

    def driver_resets(self) -> None:
        """One edge more, if the line was high; then none."""
        super().driver_resets()
        self.faults.stuck = True


class ChipRig(Rig):
    """A chip with registers on an I2C adapter; the fake bus stands where periphery or smbus2 would."""

    def install(self, patch: pytest.MonkeyPatch) -> None:
        self.registers: dict[int, int] = {}
        self.writes: list[tuple[int, int]] = []
        self.opened = False
        patch.setattr(i2c, "find_adapter", lambda name: f"/dev/{name}")
        patch.setattr(i2c, "driver_of", lambda path, address: "")
        patch.setattr(i2c, "open_bus", self.attach)
        self.reset()

    def attach(self, path: str) -> ChipRig:
        self.faults.transfer()
        return self

    def reset(self) -> None:
        """Power-on values."""

    def read_byte(self, address: int, register: int) -> int:
        self.faults.transfer()
        return self.shown(register) ^ (0xFF if self.faults.wrong_read else 0)

    def shown(self, register: int) -> int:
        return self.registers.get(register, 0)

    def write_byte(self, address: int, register: int, value: int) -> None:
        self.faults.transfer()
        self.writes.append((register, value))
        if not self.faults.stuck:
            self.registers[register] = value

    def close(self) -> None: ...

    def driver_resets(self) -> None:
        self.reset()


class ExpanderRig(ChipRig):
    """A PCA9535 with a coil at pin 9, which rests while the pin is an input."""

    kind = "expander"
    options = {"adapter": "i2c-1", "address": 0x20, "pin": 9}  # noqa: RUF012

    def reset(self) -> None:
        self.registers = {0: 0, 1: 0, 2: 0xFF, 3: 0xFF, 4: 0, 5: 0, 6: 0xFF, 7: 0xFF}

    def shown(self, register: int) -> int:
        if register in (0, 1):  # a pin that is an input is pulled low
            return self.registers[register + 2] & ~self.registers[register + 6] & 0xFF
        return super().shown(register)

    @property
    def contacts(self) -> str:
        return "inline" if self.shown(1) & 2 else "bypass"


class ControllerRig(ChipRig):
    """A Lanner controller, generation 3: pair 2, capabilities, a watchdog that sets its pairs to bypass."""

    kind = "bypass-controller"
    options = {"adapter": "SMBus", "pair": 2, "watchdog": "5s"}  # noqa: RUF012

    def reset(self) -> None:
        self.registers = {0x03: 0x1F, 0x04: 3, 0x05: 3, 0x06: 3, 0x10: 3, 0x11: 3, 0x12: 3, 0x21: 0, 0x22: 0}
        self.due: float | None = None

    def read_word(self, address: int, register: int) -> int:
        self._count()
        return self.read_byte(address, register) << 8 | (register | 0x80)

    def write_byte(self, address: int, register: int, value: int) -> None:
        self._count()
        super().write_byte(address, register, value)
        if register == 0x24 and not self.faults.stuck:
            self.due = self.now_ms + 1000 * self.registers[0x22]
        elif register == 0x25 and not self.faults.stuck:
            self.due = None

    def _count(self) -> None:
        if self.due is not None and self.now_ms > self.due:
            self.due = None
            self.registers[0x12] |= self.registers[0x21]

    @property
    def contacts(self) -> str:
        self._count()
        return "bypass" if self.registers[0x12] & 2 else "inline"


class PlainControllerRig(ControllerRig):
    """The same without its watchdog."""

    options = {"adapter": "SMBus", "pair": 2}  # noqa: RUF012


class BlockRig(ChipRig):
    """A SteelHead card's controller; the bytes are made up."""

    kind = "block"
    options = {  # noqa: RUF012
        "adapter": "SMBus",
        "address": "0x24",
        "command": "0x55",
        "read_command": "0x56",
        "inline": "01 02",
        "bypass": "01 00",
        "disconnect": "01 01",
    }

    def reset(self) -> None:
        self.block = bytes([1, 0])

    def write_block(self, address: int, command: int, data: bytes) -> None:
        self.faults.transfer()
        assert (address, command) == (0x24, 0x55)
        if not self.faults.stuck:
            self.block = data

    def read_block(self, address: int, command: int) -> bytes:
        self.faults.transfer()
        assert (address, command) == (0x24, 0x56)
        return bytes([1, 9]) if self.faults.wrong_read else self.block

    @property
    def contacts(self) -> str:
        return {0: "bypass", 1: "disconnect", 2: "inline"}[self.block[1]]


class AttributeRig(Rig):
    """A file of a driver that is kept in memory: the boundary are the system calls."""

    kind = "attribute"
    options = {"path": "/sys/class/bypass/*/mode", "inline": "normal", "bypass": "bypass"}  # noqa: RUF012
    PATH = "/sys/class/bypass/bypass0/mode"

    def install(self, patch: pytest.MonkeyPatch) -> None:
        self.text = "bypass"
        patch.setattr(sysfs, "glob", SimpleNamespace(glob=lambda pattern: [self.PATH]))
        calls = SimpleNamespace(open=self._open, write=self._write, read=self._read, close=lambda fd: None)
        patch.setattr(sysfs, "os", SimpleNamespace(**{**vars(os), **vars(calls)}))

    def _open(self, path: str, flags: int) -> int:
        assert path == self.PATH
        self.faults.transfer()
        return 99

    def _write(self, fd: int, data: bytes) -> None:
        self.faults.transfer()
        if not self.faults.stuck:
            self.text = data.decode().strip()

    def _read(self, fd: int, count: int) -> bytes:
        self.faults.transfer()
        return b"confused\n" if self.faults.wrong_read else f"{self.text}\n".encode()

    @property
    def contacts(self) -> str:
        return "inline" if self.text == "normal" else "bypass"

    def driver_resets(self) -> None:
        self.text = "bypass"


class SuperIoRig(Rig):
    """A W83627 at 0x2e: register F1 of logical device 8, bit 4, 0 = bypass."""

    kind = "port"
    options = dict(port="0x2e", logical_device=8, register="0xf1", mask="0x10", inline="0x10", bypass=0)  # noqa: C408, RUF012

    def install(self, patch: pytest.MonkeyPatch) -> None:
        self.unlocking, self.index, self.logical = 0, 0, 0
        self.registers = {(8, 0xF1): 0x04}  # other bits, which must stay
        calls = SimpleNamespace(open=self._open, pread=self._pread, pwrite=self._pwrite, close=lambda fd: None)
        patch.setattr(port, "os", SimpleNamespace(**{**vars(os), **vars(calls)}))

    def _open(self, path: str, flags: int) -> int:
        assert path == "/dev/port"
        self.faults.transfer()
        return 99

    def _pread(self, fd: int, count: int, where: int) -> bytes:
        self.faults.transfer()
        assert where == 0x2F
        value = self.registers.get((self.logical, self.index), 0xFF) if self.unlocking == 2 else 0xFF
        return bytes([value ^ (0xFF if self.faults.wrong_read else 0)])

    def _pwrite(self, fd: int, data: bytes, where: int) -> None:
        self.faults.transfer()
        if where == 0x2E:
            if data[0] == 0x87 and self.unlocking < 2:
                self.unlocking += 1
            elif data[0] == 0xAA:
                self.unlocking = 0
            elif self.unlocking == 2:
                self.index = data[0]
        elif self.unlocking == 2 and self.index == 7:
            self.logical = data[0]
        elif self.unlocking == 2 and not self.faults.stuck:
            self.registers[self.logical, self.index] = data[0]

    @property
    def contacts(self) -> str:
        return "inline" if self.registers[8, 0xF1] & 0x10 else "bypass"

    def driver_resets(self) -> None:
        self.registers[8, 0xF1] = 0x04


RIGS: dict[str, type[Rig]] = {
    "level": LevelRig,
    "level that keeps": KeepingLevelRig,
    "latching": LatchingRig,
    "latching with read-back": LatchingReadBackRig,
    "keep-alive": KeepAliveRig,
    "expander": ExpanderRig,
    "bypass-controller": ControllerRig,
    "bypass-controller without watchdog": PlainControllerRig,
    "block": BlockRig,
    "attribute": AttributeRig,
    "port": SuperIoRig,
}
