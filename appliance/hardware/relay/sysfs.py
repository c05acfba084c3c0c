# SPDX-License-Identifier: GPL-2.0-only
"""Kind "attribute": a kernel driver shows the relay as a file below /sys, which takes and gives a word.

The driver decides what happens when the keeper ends: nothing, as a rule, so the relay stays where it is. A write that
the driver refuses or holds up is an error of its bus.
"""

from __future__ import annotations

import glob
import os

from appliance.errors import HardwareError
from appliance.hardware.relay.protocol import (
    BYPASS,
    DISCONNECT,
    INLINE,
    RelayBusError,
    RelayFaultError,
    RelaySpec,
    UnsupportedRelayError,
)

_MOST_BYTES = 4096


class AttributeRelay:
    """Keeps no file open. `path` may have a `*` where a name is not stable; it must then match one file."""

    def __init__(self, spec: RelaySpec) -> None:
        self.spec = spec
        options = spec.options
        self._path, self._read_path = str(options["path"]), str(options.get("read_path", options["path"]))
        self._words = {key: str(options[key]) for key in (INLINE, BYPASS, DISCONNECT) if key in options}

    def open(self) -> str:
        """The position as the driver shows it. HardwareError: there is no such file."""
        self._find(self._path)
        return self.read()

    def set(self, position: str) -> None:
        """Write the word of the position."""
        if position not in self._words:
            raise HardwareError(f"relay {self.spec.name}: this board has no {position}: use bypass")
        path = self._find(self._path)
        try:
            file = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
            try:
                os.write(file, f"{self._words[position]}\n".encode())
            finally:
                os.close(file)
        except OSError as error:
            said = f"{path} refuses {self._words[position]!r}: {error.strerror}"
            raise RelayBusError(f"relay {self.spec.name}: {said}: see the kernel log") from error

    def read(self) -> str:
        """The position of the word that the file holds. RelayFaultError: it is none of them."""
        path = self._find(self._read_path)
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                text = os.read(file, _MOST_BYTES).decode("utf-8", "replace").strip()
            finally:
                os.close(file)
        except OSError as error:
            raise RelayBusError(f"relay {self.spec.name}: {path} cannot be read: {error.strerror}") from error
        for position, word in self._words.items():
            if text == word:
                return position
        raise RelayFaultError(
            f"relay {self.spec.name}: {path} holds {text[:40]!r}: board.toml has no position for that"
        )

    def kick(self, level: bool) -> None:
        """It needs no sign of life."""

    def close(self) -> None:
        """Nothing is held."""

    def _find(self, pattern: str) -> str:
        found = sorted(glob.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise UnsupportedRelayError(
                f"relay {self.spec.name}: {pattern} matches {len(found)} files: name one of them"
            )
        raise HardwareError(f"relay {self.spec.name}: {pattern} does not exist: load its driver, or correct board.toml")
