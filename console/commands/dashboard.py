# SPDX-License-Identifier: GPL-2.0-only
"""The contents of `monitor`: turns samples into the lines of a screen. Pure; times in seconds are passed in.

`Dashboard` keeps two samples for the rates and a short history for the sparklines, as long as `monitor` runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from console.render import BOLD, PLAIN, Row, Style, cell, paint, table
from console.views.common import rows_of
from console.views.state import banner, relay_word

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-=+*#@"
HISTORY = 60  # samples of a sparkline


class Sample(NamedTuple):
    """The answers of bypassd at one time (seconds, monotonic). None: that part is not running."""

    at: float
    status: Any
    segments: Any
    counters: Any
    guests: Any  # guest.show of each
    events: Any


def sparkline(values: Sequence[float | None], width: int, blocks: str = BLOCKS) -> str:
    """The last `width` values, scaled to the highest of them; a blank for a missing value."""
    shown = list(values)[-width:]
    highest = max((value for value in shown if value is not None), default=0.0)
    line = ""
    for value in shown:
        if value is None:
            line += " "
        else:
            line += blocks[min(int(value / highest * len(blocks)), len(blocks) - 1) if highest else 0]
    return line.rjust(width)


def amount(value: float | None) -> str:
    """A rate in short form: 0, 12, 1.2k, 34M."""
    if value is None:
        return "-"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            number = value / limit
            return f"{number:.1f}{unit}" if number < 10 else f"{number:.0f}{unit}"
    return f"{value:.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


class Dashboard:
    """The samples, and the screen drawn from them."""

    def __init__(self, blocks: str = BLOCKS) -> None:
        self._blocks = blocks
        self._now: Sample | None = None
        self._before: Sample | None = None
        self._lines: dict[tuple[str, str], deque[float | None]] = {}  # (kind, name) -> history

    def add(self, sample: Sample) -> None:
        """Add a sample."""
        self._before, self._now = self._now, sample
        for port, _ in self._ports():
            self._note("port", port, self._rate("ports", port, "frames"))
        for guest in rows_of(sample.guests):
            self._note("guest", cell(guest.get("name")), latency(guest))

    def _note(self, kind: str, name: str, value: float | None) -> None:
        self._lines.setdefault((kind, name), deque(maxlen=HISTORY)).append(value)

    def _spark(self, kind: str, name: str, width: int) -> str:
        return sparkline(self._lines.get((kind, name), ()), width, self._blocks)

    def _rate(self, kind: str, name: str, key: str) -> float | None:
        """The rate per second between the last two samples; None if unknown, or if the counter was reset."""
        if self._now is None or self._before is None:
            return None
        new, old = (_count(sample.counters, kind, name, key) for sample in (self._now, self._before))
        passed = self._now.at - self._before.at
        if new is None or old is None or new < old or passed <= 0:
            return None
        return (new - old) / passed

    def _ports(self) -> list[tuple[str, Row]]:
        """(segment/side, its row) of each port."""
        found = rows_of(self._now.segments if self._now else None, "segments")
        return [(f"{cell(row.get('name'))}/{side}", row) for row in found for side in ("lan", "wan")]

    def draw(self, size: tuple[int, int], style: Style = PLAIN, note: str = "") -> list[str]:
        """The lines of the screen, no more than fit; `note` is the last one."""
        columns, height = size
        style = Style(style.colour, columns)
        if self._now is None:
            return [note]
        blocks = [banner(self._now.status, style) if isinstance(self._now.status, dict) else ""]
        wide = max(8, min(HISTORY, columns - 72))
        blocks += [self._port_table(style, wide), self._guest_table(style, wide), self._rule_table(style)]
        lines = "\n\n".join(block for block in blocks if block).splitlines()
        room = height - 1 - len(lines)
        events = rows_of(self._now.events)
        if room > 2 and events:
            lines += ["", *self._last_events(events, room - 1, style)]
        lines = lines[: height - 1]
        return [*lines, *[""] * (height - 1 - len(lines)), note]

    def _port_table(self, style: Style, wide: int) -> str:
        rows = []
        for port, row in self._ports():
            side = port.rpartition("/")[2]
            rows.append(
                {
                    "port": row.get(side),
                    "segment": row.get("name"),
                    "relay": relay_word(row.get("relay")),
                    "link": row.get(f"{side}_link"),
                    "frames": amount(self._rate("ports", port, "frames")),
                    "bits": amount(_times(self._rate("ports", port, "bytes"), 8)),
                    "dropped": amount(self._rate("ports", port, "dropped_frames")),
                    "line": self._spark("port", port, wide),
                }
            )
        columns = [("port", "PORT"), ("segment", "SEGMENT"), ("relay", "RELAY"), ("link", "LINK"),
                   ("frames", "FRAMES/s"), ("bits", "BIT/s"), ("dropped", "DROP/s"), ("line", "TREND")]  # fmt: skip
        return table(rows, columns, style) if rows else ""

    def _guest_table(self, style: Style, wide: int) -> str:
        rows = []
        for guest in rows_of(self._now.guests if self._now else None):
            name = cell(guest.get("name"))
            rows.append(
                {
                    "guest": name,
                    "state": guest.get("state"),
                    "lease": guest.get("lease"),
                    "to": amount(self._rate("hops", name, "to_frames")),
                    "from": amount(self._rate("hops", name, "from_frames")),
                    "latency": _ms(latency(guest)),
                    "p99": _ms(guest.get("latency_p99_ms")),
                    "line": self._spark("guest", name, wide),
                }
            )
        columns = [("guest", "GUEST"), ("state", "STATE"), ("lease", "LEASE"), ("to", "TO/s"), ("from", "FROM/s"),
                   ("latency", "LATENCY"), ("p99", "P99"), ("line", "TREND")]  # fmt: skip
        return table(rows, columns, style) if rows else ""

    def _rule_table(self, style: Style) -> str:
        counters = self._now.counters if self._now else None
        rules = rows_of(counters.get("rules")) if isinstance(counters, dict) else []
        names = [cell(row.get("name")) for row in rules]
        keys = ("frames", "bypassed", "blocked", "excess")
        rows = [{"rule": name, **{key: amount(self._rate("rules", name, key)) for key in keys}} for name in names]
        rows.sort(key=lambda row: -(self._rate("rules", row["rule"], "frames") or 0.0))
        columns = [("rule", "RULE"), *((key, f"{key.upper()}/s") for key in keys)]
        return table(rows[:6], columns, style) if rows else ""

    def _last_events(self, events: Sequence[Row], room: int, style: Style) -> list[str]:
        lines = [paint("LAST EVENTS", BOLD, style)]
        for row in list(events)[-(room - 1) :]:
            when = cell(row.get("when")).replace("T", " ")[11:19]
            lines.append(f"{when}  {cell(row.get('source'))}: {cell(row.get('text'))}"[: style.width])
        return lines


def latency(guest: Mapping[str, Any]) -> float | None:
    """The longest latency (ms) among the latest results of the guest's data path checks."""
    values = [row.get("latency_ms") for row in rows_of(guest.get("checks"))]
    return max((float(value) for value in values if isinstance(value, int | float)), default=None)


def _count(counters: Any, kind: str, name: str, key: str) -> float | None:
    rows = counters.get(kind) if isinstance(counters, dict) else None
    if isinstance(rows, list):
        rows = {cell(row.get("name")): row for row in rows if isinstance(row, dict)}
    row = rows.get(name) if isinstance(rows, dict) else None
    value = row.get(key) if isinstance(row, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _ms(value: Any) -> str:
    return f"{value:.2f} ms" if isinstance(value, int | float) else "-"
