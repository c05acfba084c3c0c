# SPDX-License-Identifier: GPL-2.0-only
"""How long the link would be dead, and whether it is joined without power: only what is known is said."""

from __future__ import annotations

import pytest

from appliance.hardware import board
from appliance.hardware.relay_facts import when_hung, when_unpowered

PROVEN = 'unpowered = "proven"\nunpowered_proven = 2026-05-03'
KEEP_ALIVE = 'kind = "keep-alive"\nline = "a"\n'


def relay(text: str) -> board.Relay:
    ports = '[[port]]\nname = "a"\npci = "0000:00:01.0"\n[[port]]\nname = "b"\npci = "0000:00:02.0"\n'
    (made,) = board.parse(f'name = "x"\n{ports}[[relay]]\nports = ["a", "b"]\n{text}').relay
    return made


@pytest.mark.parametrize(
    ("text", "watchdog_ms", "ms", "why"),
    [
        ('line = "r"\non_watchdog = "bypass"\nsettle = "20ms"', 2000, 2020, "the watchdog resets the computer"),
        ('line = "r"\non_watchdog = "bypass"', 0, None, "no watchdog is armed"),
        ('line = "r"\non_watchdog = "keeps"', 2000, None, "it stays inline"),
        ('line = "r"\non_watchdog = "inline"', 2000, None, "it stays inline"),
        ('line = "r"\non_watchdog = "disconnect"', 2000, None, "both ports are separated"),
        ('line = "r"\non_release = "reverts"', 2000, None, "not known: board.toml has no on_watchdog"),
        (KEEP_ALIVE + 'keep_alive_timeout = "450ms"\nsettle = "10ms"', 2000, 460, "its controller opens it by itself"),
        (KEEP_ALIVE + 'keep_alive_timeout = "450ms"', 0, 450, "its controller opens it by itself"),
        (KEEP_ALIVE, 2000, None, "does not say after which time"),
        ('kind = "bypass-controller"\nadapter = "i2c-1"\npair = 1\nwatchdog = "5s"', 2000, 5000, "its controller"),
        ('kind = "bypass-controller"\nadapter = "i2c-1"\npair = 1\non_watchdog = "bypass"', 2000, 2000, "the watchdog"),
        ('kind = "telepathic"', 2000, None, "not known"),
    ],
)
def test_if_the_computer_hangs(text: str, watchdog_ms: int, ms: float | None, why: str) -> None:
    gap = when_hung(relay(text), watchdog_ms)
    assert gap.ms == ms
    assert why in gap.why


@pytest.mark.parametrize(
    ("text", "drill", "word", "said"),
    [
        ("", None, "", "not known"),
        ('unpowered = "claimed"', None, "claimed", "by the board's maker"),
        ('unpowered = "no"', None, "no", "the link is dead"),
        (
            'unpowered = "proven"\nunpowered_proven = 2026-05-03',
            None,
            "proven",
            "by the board's power-off drill of 2026-05-03",
        ),
        ('unpowered = "claimed"', (True, 1777800000.0), "proven", "by this appliance's power-off drill of 2026-05-03"),
        (PROVEN, (False, 1777800000.0), "no", "failed"),
    ],
)
def test_without_power(text: str, drill: tuple[bool, float] | None, word: str, said: str) -> None:
    """A card is known that says it bypasses without power and does not bridge: this box's drill has the last word."""
    found = when_unpowered(relay(f'line = "r"\n{text}'), drill)
    assert found.word == word
    assert said in found.said
