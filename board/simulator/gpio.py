# SPDX-License-Identifier: GPL-2.0-only
"""The board's GPIO lines from the hardware's side: virtio-gpio requests in, driven or not driven out.

Pure state, no I/O. A line counts as driven only while its direction is out and its value is 1; anything that separates
the driver from the device (close, reset, end of the process) releases it. Numbers: virtio specification 1.2, 5.18.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

GET_NAMES, GET_DIRECTION, SET_DIRECTION, GET_VALUE, SET_VALUE = 1, 2, 3, 4, 5
OK, ERROR = 0, 1
NONE, OUT, IN = 0, 1, 2
REQUEST = struct.Struct("<HHI")


@dataclass
class Line:
    name: str
    direction: int = NONE
    value: int = 0

    @property
    def driven(self) -> bool:
        return self.direction == OUT and self.value == 1


class Lines:
    """The lines of one controller. `changed(name, driven, cause)` is called after each change of `driven`.

    `inputs` has what a line shows while it is not an output. `keeps`: a line that its owner releases keeps its level
    until the machine is reset, as many controllers do. `refuses`: the controller answers every request with an error.
    """

    features = 0

    def __init__(
        self,
        names: list[str],
        changed: Callable[[str, bool, str], None],
        inputs: Mapping[str, Callable[[], bool]] | None = None,
    ) -> None:
        self._lines = [Line(name) for name in names]
        self._changed = changed
        self._inputs = inputs or {}
        self.keeps = False
        self.refuses = False

    @property
    def names(self) -> bytes:
        return b"".join(line.name.encode() + b"\0" for line in self._lines)

    @property
    def config(self) -> bytes:
        """struct virtio_gpio_config: number of lines, padding, length of the names."""
        return struct.pack("<HHI", len(self._lines), 0, len(self.names))

    def driven(self, name: str) -> bool:
        return any(line.driven for line in self._lines if line.name == name)

    def request(self, data: bytes, room: int = 2) -> bytes:
        """Execute one request of the driver and return the response; invalid ones are answered with ERROR."""
        if len(data) < REQUEST.size:
            return bytes([ERROR, 0])
        kind, number, value = REQUEST.unpack_from(data)
        if kind == GET_NAMES:
            return bytes([OK]) + self.names
        if number >= len(self._lines) or self.refuses:
            return bytes([ERROR, 0])
        line = self._lines[number]
        if kind == GET_DIRECTION:
            return bytes([OK, line.direction])
        if kind == GET_VALUE:
            return bytes([OK, self._level(line)])
        before = line.driven
        if kind == SET_DIRECTION and value in (NONE, OUT, IN):
            if value == NONE and self.keeps and line.direction == OUT:
                return bytes([OK, 0])
            line.direction = value
        elif kind == SET_VALUE and value in (0, 1):
            line.value = value
        else:
            return bytes([ERROR, 0])
        if line.driven != before:
            self._changed(line.name, line.driven, "line driven" if line.driven else "line released")
        return bytes([OK, 0])

    def _level(self, line: Line) -> int:
        shown = self._inputs.get(line.name)
        return int(shown()) if shown is not None and line.direction != OUT else line.value

    def release(self, cause: str) -> None:
        """Release all lines, as a reset or the loss of power does, whatever they keep otherwise."""
        for line in self._lines:
            before = line.driven
            line.direction, line.value = NONE, 0
            if before:
                self._changed(line.name, False, cause)
