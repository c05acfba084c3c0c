# SPDX-License-Identifier: GPL-2.0-only
"""One GPIO line, found by its name or by chip and offset: an output for a relay's coil or the status LED, or an input.

A `Line` owns the line that it requested: it is released when the object is closed or the process ends, and a released
line returns to the board's resting state if `on_release = "reverts"`. Only the keeper creates these objects. Imports
are light, because the relay is driven before anything heavy is loaded; periphery is imported when the first line is
opened.

Levels: `active` says which physical level of the line means "driven". Polarity is applied here and not by the kernel,
so that "released" is a defined level whatever the board's wiring.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import struct
from typing import TYPE_CHECKING, NamedTuple

from appliance.errors import HardwareError
from appliance.hardware.relay.protocol import RelayBusError

if TYPE_CHECKING:
    from periphery.gpio import CdevGPIO

# linux/gpio.h, character device ABI version 2
_GET_CHIPINFO = 0x8044B401
_V2_GET_LINEINFO = 0xC100B405
_V2_GET_LINE = 0xC250B407
_V2_LINE_GET_VALUES = 0xC010B40E
_FLAG_OUTPUT = 1 << 3
_LINE_INFO = struct.Struct("=32s32sIIQ")  # name, consumer, offset, attributes, flags; 176 more bytes follow
_REQUEST_SIZE = 592  # struct gpio_v2_line_request: offsets[64] first, number of lines at 560, file descriptor at 588


class LineSpec(NamedTuple):
    """One GPIO line as described in board.toml."""

    line: str
    active_high: bool = True
    keeps: bool = False  # the controller keeps the level when the line is released


class LinePlace(NamedTuple):
    """Chip and offset of a named line."""

    chip: str
    offset: int
    flags: int


def find_line(name: str, pattern: str = "/dev/gpiochip*") -> LinePlace:
    """Look for a line by its name on every GPIO chip; "CHIP:OFFSET" is one without a name on the chip of that name or
    label. HardwareError lists what was found instead.
    """
    seen: list[str] = []
    place = None
    wanted, _, number = name.rpartition(":")
    for chip in sorted(glob.glob(pattern)):
        try:
            fd = os.open(chip, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            seen.append(f"{chip}: {error.strerror}")
            continue
        try:
            known = fcntl.ioctl(fd, _GET_CHIPINFO, bytes(68))
            (lines,) = struct.unpack_from("=I", known, 64)
            for offset in range(lines):
                label, flags = _info(fd, offset)
                if label == name:
                    return LinePlace(chip, offset, flags)
            labels = [_text(known[:32]), _text(known[32:64])]
            if wanted in labels and int(number) < lines:
                place = place or LinePlace(chip, int(number), _info(fd, int(number))[1])
            seen.append(f"{labels[0]} ({labels[1]}) has {lines} other lines")
        except OSError as error:
            seen.append(f"{chip}: {error.strerror}")
        finally:
            os.close(fd)
    if place is not None:
        return place
    there = "; ".join(seen) or "no GPIO chip"
    raise HardwareError(f'GPIO line "{name}" not found ({there}): load the GPIO driver, or correct board.toml')


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode("ascii", "replace")


def _info(chip: int, offset: int) -> tuple[str, int]:
    """Name and flags of a line. OSError: the chip refuses."""
    info = bytearray(256)
    struct.pack_into("=I", info, 64, offset)
    fcntl.ioctl(chip, _V2_GET_LINEINFO, info)
    label, _, _, _, flags = _LINE_INFO.unpack_from(info)
    return _text(label), flags


def _level_as_is(place: LinePlace) -> bool:
    """Read a line's physical level without changing its direction."""
    chip = os.open(place.chip, os.O_RDWR | os.O_CLOEXEC)
    try:
        request = bytearray(_REQUEST_SIZE)
        struct.pack_into("=I", request, 0, place.offset)
        request[256:263] = b"bypassd"
        struct.pack_into("=I", request, 560, 1)
        fcntl.ioctl(chip, _V2_GET_LINE, request)
        (line,) = struct.unpack_from("=i", request, 588)
        try:
            values = bytearray(struct.pack("=QQ", 0, 1))
            fcntl.ioctl(line, _V2_LINE_GET_VALUES, values)
            return bool(values[0] & 1)
        finally:
            os.close(line)
    finally:
        os.close(chip)


class Line:
    """One line, an output unless a subclass says otherwise.

    Opening it sets its released level, unless it is found driven (see `open`).
    """

    def __init__(self, spec: LineSpec) -> None:
        self.spec = spec
        self._gpio: CdevGPIO | None = None

    def open(self) -> bool:
        """Request the line; returns whether it is driven now.

        A controller that keeps its levels may still drive a line that an earlier keeper set: it is then left as it is,
        so that a restarted keeper moves no relay. Every other line starts released. HardwareError: not found, busy,
        refused.
        """
        self.close()
        # imported even if the line is missing: a later attempt must not read from a disk, which may stall
        from periphery.gpio import CdevGPIO, GPIOError

        place = find_line(self.spec.line)
        try:
            driven = False
            if self.spec.keeps and place.flags & _FLAG_OUTPUT:
                driven = _level_as_is(place) == self.spec.active_high
            # periphery's "out" would drive 0 first, which is the active level of an active-low line
            direction = self._direction(driven)
            self._gpio = CdevGPIO(place.chip, place.offset, direction, label="bypass-keeper")
        except (GPIOError, OSError) as error:
            hint = "another program holds it" if error.errno == errno.EBUSY else "check the GPIO driver"
            raise HardwareError(f'GPIO line "{self.spec.line}" on {place.chip} refused: {error}: {hint}') from error
        return driven

    def _direction(self, driven: bool) -> str:
        return "high" if driven == self.spec.active_high else "low"

    @property
    def is_open(self) -> bool:
        """Whether the line is requested."""
        return self._gpio is not None

    def drive(self, on: bool) -> None:
        """Drive or release the line; RelayBusError if the controller refuses."""
        self._call("write", on == self.spec.active_high)

    def driven(self) -> bool:
        """Read the line back; RelayBusError if the controller is gone."""
        return bool(self._call("read")) == self.spec.active_high

    def _call(self, method: str, *arguments: bool) -> bool | None:
        if self._gpio is None:
            raise HardwareError(f'GPIO line "{self.spec.line}" is not open')
        try:
            result: bool | None = getattr(self._gpio, method)(*arguments)
            return result
        except OSError as error:
            raise RelayBusError(f'GPIO line "{self.spec.line}": {method} failed: {error}') from error

    def close(self) -> None:
        """Release the line; its level then depends on the board (`on_release`)."""
        gpio, self._gpio = self._gpio, None
        if gpio is not None:
            try:
                gpio.close()
            except OSError:
                pass  # the chip is gone: nothing is left to release


class InputLine(Line):
    """One input line. `driven` says whether it has its active level; `open` always returns False."""

    def _direction(self, driven: bool) -> str:
        return "in"
