# SPDX-License-Identifier: GPL-2.0-only
"""Whether a push button is held long enough to mean it. Pure; times in seconds."""

from __future__ import annotations

from typing import Final

HOLD_S: Final = 5.0
LOOK_S: Final = 0.05  # between two looks; also the longest bounce that is not seen


class HeldButton:
    """One button. A press counts once, when it has lasted for `HOLD_S`, however long it goes on."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._counted = False

    def look(self, now: float, pressed: bool) -> bool:
        """Whether it has just been held long enough. A button that is pressed at the first look (a short circuit, a
        wrong level in board.toml) counts only after it was released."""
        if not pressed:
            self._since, self._counted = None, False
            self._known = True
        elif not self._known:
            return False
        elif self._since is None:
            self._since = now
        elif not self._counted and now - self._since >= HOLD_S:
            self._counted = True
            return True
        return False

    _known = False  # it was seen released
