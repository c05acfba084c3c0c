# SPDX-License-Identifier: GPL-2.0-only
"""The box in a terminal, live: connectors, relay, LED, wires with their rates, watchdog, and keys that break each part.

`draw` and `request_for` are pure: what is shown follows from two observations of the simulator, what a key does from
the newest one. `show` owns the terminal and asks the simulator through its control socket, so it may be another
process. On a terminal that cannot place text (TERM=dumb, a pipe) the picture is printed once, and then each event as a
line.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator.control import ask
from simulator.wires import SIDES, Side

Fragments = list[tuple[str, str]]
Observation = dict[str, Any]

WIDTH, HEIGHT = 78, 24
MIDDLE = 32  # between the two connectors
PERIOD_S = 0.25
MOST_ORDERS = 20
EVENTS = 4  # shown below the picture
PARTS = {
    "s": "relay-stuck",
    "w": "read-back-wrong",
    "c": "read-back-chatters",
    "k": "lines-keep",
    "x": "lines-refused",
    "d": "watchdog-dead",
}
HELP = (
    "1 2 cable   3 4 link of lan0 wan0   5 6 pull out lan0 wan0   b hold button",
    "s stuck   w wrong read-back   c chatter   k keep lines   x bus error   d dog",
    "p plug  r reset  n NMI  z freeze  o brown-out  +- relay  l links  m mend  q",
)
SLOWEST_MS = 1000.0
RENEGOTIATION_MS = 2000.0
BOX = str.maketrans({"─": "-", "│": "|", "┌": "+", "┐": "+", "└": "+", "┘": "+", "━": "=", "┃": "#", "═": "=",
                     "●": "o", "○": ".", "╳": "X", "→": ">", "←": "<"})  # fmt: skip


@dataclass
class View:
    """What is drawn: the newest observation, the one before it, the newest events, the answer to the last key."""

    now: Observation = field(default_factory=dict)
    before: Observation = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    said: str = ""


def rates(before: Observation, now: Observation) -> dict[str, tuple[float, float]]:
    """Frames a second that each device received and sent between two observations."""
    span = (now.get("mono_ns", 0) - before.get("mono_ns", 0)) / 1e9
    old, new = before.get("traffic", {}), now.get("traffic", {})
    if span <= 0:
        return {}
    return {
        name: (max(0, new[name][0] - old[name][0]) / span, max(0, new[name][1] - old[name][1]) / span)
        for name in new
        if name in old
    }


def short(rate: float) -> str:
    """A rate in at most five characters."""
    for unit, size in (("M", 1e6), ("k", 1e4)):
        if rate >= size:
            return f"{rate / (1e6 if unit == 'M' else 1e3):.1f}{unit}"
    return f"{rate:.0f}"


def draw(view: View, *, ascii_only: bool = False) -> Fragments:
    """The picture, at most 78 columns and 24 lines."""
    lines = _picture(view)
    fragments: Fragments = []
    for line in lines[:HEIGHT]:
        room = WIDTH
        for style, text in line:
            shown = (text.translate(BOX) if ascii_only else text)[:room]
            room -= len(shown)
            fragments.append((style, shown))
        fragments.append(("", "\n"))
    return fragments


def _picture(view: View) -> list[Fragments]:
    now = view.now
    if not now:
        return [[("bold", "waiting for the board ...")]]
    power = now["power"] == "on"
    head: Fragments = [("bold", f" board {now['wiring']}"), ("", "   power "), _mark(now["power"], power)]
    head += [("", f"   {now['prefix']}-lan, {now['prefix']}-wan   machine "), ("", str(now["qemu_pid"] or "-"))]
    lines: list[Fragments] = [head, []]
    lines += _wires(now, rates(view.before, now))
    lines += [[], *_parts(now), []]
    for event in view.events[-EVENTS:]:
        lines.append([("", f" {event['wall'][11:23]}  {told(event)}")])
    lines += [[] for _ in range(EVENTS - len(view.events[-EVENTS:]))]
    lines.append([("bold", f" {view.said}")])
    lines += [[("reverse", f" {text:{WIDTH - 2}} ")] for text in HELP]
    return lines


def _mark(text: str, good: bool) -> tuple[str, str]:
    return ("ansigreen" if good else "ansired", text)


def _wires(now: Observation, rate: dict[str, tuple[float, float]]) -> list[Fragments]:
    """Connectors, relay and machine. What a host sends, its connector receives."""
    outside = {side: "═══════════════" if now["cables"][side] == "in" else "══════  ╳  ════" for side in SIDES}
    into = {side: short(rate.get(side, (0.0, 0.0))[0]) for side in SIDES}
    out = {side: short(rate.get(side, (0.0, 0.0))[1]) for side in SIDES}
    relay = now["relay"]
    style = {"bypass": "ansiyellow", "inline": "ansigreen"}.get(relay, "ansired")
    direct = f" {relay.upper()} ".center(MIDDLE, "━" if relay == "bypass" else " ")
    through = " machine ".center(MIDDLE, "━" if relay == "inline" else " ")
    leg, bar = "┃" if relay == "inline" else " ", "─" * (MIDDLE + 12)
    return [
        [("", f" host {now['hosts']['lan']:10}┌{bar}┐{'host ' + now['hosts']['wan']:>15}")],
        [("", f" {outside['lan']}│ LAN ●"), (style, direct), ("", f"● WAN │{outside['wan']}")],
        [("", f" {into['lan']:>7} f/s →  │"), (style, f"{leg:>6}{' ' * MIDDLE}{leg:<6}"),
         ("", f"│  ← {into['wan']:>7} f/s")],
        [("", f" {out['lan']:>7} f/s ←  │lan0 ●"), (style, through), ("", f"● wan0│  → {out['wan']:>7} f/s")],
        [("", f"{' ' * 16}└{bar}┘")],
    ]  # fmt: skip


def _parts(now: Observation) -> list[Fragments]:
    timing, broken = now["timing"], now["broken"]
    left = now["drive_left_s"]
    counting = "" if left is None else f": opens in {left * 1000:.0f} ms unless it is driven on"
    stage = now["second_stage_left_s"]
    if "watchdog-dead" in broken:
        dog: tuple[str, str] = ("ansired", "broken: it never fires")
    elif stage is not None:
        dog = ("ansired", f"EXPIRED: NMI sent, hard reset in {stage:.1f} s")
    else:
        dog = ("", "has not expired" if now["power"] == "on" else "without power")
    lit = now["led"] == "on"
    delays = f"contacts {timing['relay_ms']:g} ms, links {timing['flap_ms']:g} ms"
    return [
        [("", " relay     "), ("bold", now["relay"]), ("", f", driven as {now['drive']}{counting}")],
        [("", " delays    "), ("", f"{delays}, hard reset {timing['second_stage_s']:g} s after the NMI")],
        [("", " LED       "), ("ansigreen" if lit else "", "● on " if lit else "○ off"),
         ("", f"   button {now['button']}")],
        [("", " ports     "), ("", ", ".join(f"{side}0 {now['ports'][side]}" for side in SIDES)),
         *([("ansired", "   machine frozen")] if now["frozen"] else [])],
        [("", " watchdog  "), dog],
        [("", " broken    "), _mark(", ".join(broken) or "nothing", not broken)],
    ]  # fmt: skip


def told(event: dict[str, Any]) -> str:
    """An event in one line."""
    known = ("n", "mono_ns", "wall", "event", "line_ns", "prefix", "pid", "accelerator", "status")
    return " ".join([event["event"], *(str(value) for key, value in event.items() if key not in known)])


def request_for(key: str, now: Observation) -> dict[str, Any] | None:
    """What a key orders; None: it orders nothing."""
    if not now:
        return None
    sides: dict[str, Side] = {"1": "lan", "2": "wan", "3": "lan", "4": "wan", "5": "lan", "6": "wan"}
    simple = {"r": "reset", "n": "nmi", "o": "brown-out"}
    timing = now["timing"]
    if key in PARTS:
        return {"do": "mend" if PARTS[key] in now["broken"] else "break", "part": PARTS[key]}
    if key in simple:
        return {"do": simple[key]}
    if key == "p":
        return {"do": "power cut" if now["power"] == "on" else "power on"}
    if key == "z":
        return {"do": "resume" if now["frozen"] else "pause"}
    if key == "b":
        return {"do": "press", "seconds": 6}
    if key in ("+", "-"):
        slow = timing["relay_ms"] * 2 or 5.0
        fast = timing["relay_ms"] / 2 if timing["relay_ms"] > 1 else 0.0
        return {"do": "tune", "timing": {"relay_ms": min(SLOWEST_MS, slow) if key == "+" else fast}}
    if key == "l":
        return {"do": "tune", "timing": {"flap_ms": 0.0 if timing["flap_ms"] else RENEGOTIATION_MS}}
    if key in sides:
        side = sides[key]
        if key in "12":
            return {"do": "unplug" if now["cables"][side] == "in" else "plug", "side": side}
        state = now["ports"][side]
        if key in "34":
            return {"do": "nic", "side": side, "order": "up" if side in now["nics_down"] else "down"}
        return {"do": "nic", "side": side, "order": "return" if state == "removed" else "remove"}
    return None


def in_words(request: dict[str, Any]) -> str:
    """A request as it is shown."""
    found = []
    for value in request.values():
        rows = value.items() if isinstance(value, dict) else None
        found.append(str(value) if rows is None else ", ".join(f"{name} {row:g}" for name, row in rows))
    return " ".join(found)


def repairs(now: Observation) -> list[dict[str, Any]]:
    """The requests that repair everything that is broken."""
    return [{"do": "mend", "part": part} for part in now.get("broken", ())]


def show(directory: Path) -> int:
    """Show the board that runs in `directory` until the user leaves. Exit status 0, 1 if the board ends meanwhile."""
    if not sys.stdout.isatty() or not sys.stdin.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return _print_events(directory)
    return asyncio.run(_live(directory))


def _observe(directory: Path, view: View) -> None:
    """Fill the view. ConnectionError, FileNotFoundError: the board ended."""
    seen = ask(directory, {"do": "observe"})
    if "error" in seen:
        raise ConnectionError(seen["error"])
    view.before, view.now = view.now, seen["ok"]
    since = view.events[-1]["n"] + 1 if view.events else 0
    view.events = [*view.events, *ask(directory, {"do": "log", "since": since})["ok"]][-EVENTS:]


def _print_events(directory: Path) -> int:
    """For a terminal that cannot place text."""
    import time

    view, shown = View(), -1
    try:
        _observe(directory, view)
        time.sleep(PERIOD_S)
        _observe(directory, view)
        print("".join(text for _, text in draw(view, ascii_only=True)), flush=True)
        shown = view.events[-1]["n"] if view.events else -1
        while True:
            time.sleep(PERIOD_S)
            for event in ask(directory, {"do": "log", "since": shown + 1})["ok"]:
                print(f"{event['wall'][11:23]}  {told(event)}", flush=True)
                shown = event["n"]
    except (FileNotFoundError, ConnectionError):
        print("the board ended", flush=True)
        return 0 if shown >= 0 else 1


async def _live(directory: Path) -> int:
    from prompt_toolkit.application import Application
    from prompt_toolkit.formatted_text import FormattedText
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.layout import Layout, Window
    from prompt_toolkit.layout.controls import FormattedTextControl

    view, keys = View(), KeyBindings()
    ascii_only = "utf" not in (sys.stdout.encoding or "").lower()
    tasks: list[asyncio.Task[None]] = []  # the first one watches

    @keys.add("<any>")
    def _(event: KeyPressEvent) -> None:
        key = event.key_sequence[0].key
        if key in ("q", "Q", "c-c", "escape"):
            event.app.exit(result=0)
            return
        wanted = repairs(view.now) if key == "m" else [request_for(key, view.now)]
        tasks[1:] = [task for task in tasks[1:] if not task.done()]
        for request in wanted:
            # each by itself: a frozen machine answers none before it is resumed
            if request is not None and len(tasks) < MOST_ORDERS:
                tasks.append(asyncio.create_task(obey(request)))

    def text() -> FormattedText:
        return FormattedText([*draw(view, ascii_only=ascii_only)])

    control = FormattedTextControl(text, focusable=True, show_cursor=False)
    app: Application[int] = Application(layout=Layout(Window(control)), key_bindings=keys, full_screen=True)
    app.ttimeoutlen = 0.05

    async def watch() -> None:
        try:
            while True:
                await asyncio.to_thread(_observe, directory, view)
                app.invalidate()
                await asyncio.sleep(PERIOD_S)
        except (FileNotFoundError, ConnectionError):
            app.exit(result=1)

    async def obey(request: dict[str, Any]) -> None:
        words = in_words(request)
        view.said = f"{words} ..."
        try:
            answer = await asyncio.to_thread(ask, directory, request)
        except (FileNotFoundError, ConnectionError):
            return  # `watch` ends the panel
        view.said = f"{words}: {answer['error']}" if "error" in answer else words

    tasks.append(asyncio.create_task(watch()))
    try:
        return await app.run_async()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
