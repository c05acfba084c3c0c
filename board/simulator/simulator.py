# SPDX-License-Identifier: GPL-2.0-only
"""The board's electronics: relay, status LED, power, buttons and the watchdog's second stage, and what breaks of them.

Runs in one event loop and is called only there. Owns the wires, the lines, and the Machine while the power is on.
How the relay is driven follows from the board's `[[relay]]` table (relay.py). With the board's own, the resting
position is bypass; only a driven line moves it from there, and everything that ends the drive (line released, device
reset, QEMU gone, power cut) lets it fall back at once, in this process.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from boardspec import BoardSpec, SpecError

from simulator import i2c
from simulator.events import EventLog
from simulator.gpio import Lines
from simulator.machine import Accelerator, Machine, Payload, command_line
from simulator.qmp import QmpError
from simulator.relay import Drive, Position, drive_of, inputs_of, lines_of
from simulator.serial import SerialPort
from simulator.vhost import Backend
from simulator.wires import SIDES, HostLinkWatch, Side, Wires, port_link

ERST = "erst.img"
"""The board's store of crash records, in its directory."""


@dataclass(frozen=True)
class Timing:
    """Delays of the board's parts, in milliseconds and seconds; 0 = none."""

    relay_ms: float = 0.0  # contacts in flight: neither joined nor split
    flap_ms: float = 0.0  # links renegotiate after the relay moved
    second_stage_s: float = 5.0  # after the watchdog's NMI, unless a reset came


FAULTS: Final = {
    "relay-stuck": "the contacts stay where they are, whatever drives them",
    "read-back-wrong": "the read-back line shows the other position",
    "read-back-chatters": "the read-back line shows another level at each reading",
    "lines-keep": "a GPIO line that its owner releases keeps its level until a reset",
    "lines-refused": "the GPIO controller and the I2C bus answer every request with an error",
    "watchdog-dead": "the watchdog never fires",
}
"""Parts of the board that can be broken, and repaired, at any time."""
BROWN_OUT_MS: Final = 50.0


@dataclass
class Simulator:
    directory: Path
    spec: BoardSpec
    wires: Wires
    log: EventLog
    console: SerialPort
    debug: SerialPort
    timing: Timing = field(default_factory=Timing)
    machine: Machine | None = None
    powered: bool = False
    on_start: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.board = self.spec.machine
        self._loop = asyncio.get_running_loop()
        tables = {name: self._table(name) for name in ("", *self.spec.wirings)}
        self._inputs: dict[str, Callable[[], bool]] = {}
        for table in tables.values():
            name, high = inputs_of(table)
            if name:
                self._inputs[name] = lambda high=high: self._read_back() == high  # type: ignore[misc]
        if self.board.button_line:
            self._inputs[self.board.button_line] = lambda: self._pressed
        # all that any wiring of the board uses: the driver reads the names once
        names = [self.board.relay_line, self.board.led_line, *self._inputs]
        names += [name for table in tables.values() for name in lines_of(table)]
        self._lines = Lines(list(dict.fromkeys(names)), self._line, self._inputs)
        self._controller = i2c.Controller(self._loop.time, lambda: self._chip_changed("bypass-controller"))
        self._expander = i2c.Expander(lambda: self._chip_changed("expander"))
        self._adapter = i2c.Adapter({i2c.ADDRESS: self._controller, i2c.EXPANDER: self._expander})
        self._backends: list[Backend] = []
        self.wiring = ""
        self.drive: Drive = drive_of(tables[""], self._controller, self._expander)
        self._ordered: Position = "bypass"  # where the contacts were sent
        self._contacts: Position = "bypass"  # where they are, or come from
        self.broken: set[str] = set()
        self._chatter = False
        self._pressed = False
        self.removed: set[Side] = set()  # ports that the machine's kernel was told to drop
        self._supply = True  # of the relay's coil; False in a brown-out
        self._moving: asyncio.TimerHandle | None = None
        self._due: asyncio.TimerHandle | None = None
        self._timers: set[asyncio.TimerHandle] = set()
        self._second_stage: asyncio.TimerHandle | None = None
        self._port_links: dict[Side, bool] = {}
        self._frozen = False
        self._reset_cause = ""
        self._exit_cause = ""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watches = [HostLinkWatch(side, self.wires.host(side), self._host_link, self._peer_link) for side in SIDES]

    def start(self) -> None:
        """Create the wires, in bypass. Raises RuntimeError."""
        self.wires.create()
        for watch in self._watches:
            self._loop.add_reader(watch.open(), watch.read)
        self.log.add("relay", state="bypass", cause="start", prefix=self.wires.prefix)

    async def stop(self) -> None:
        """Power off and remove everything."""
        await self.power_cut("simulator stopped")
        for watch in self._watches:
            if watch._netlink:
                self._loop.remove_reader(watch._netlink.socket.fileno())
            watch.close()
        for timer in (self._moving, self._due, self._second_stage, *self._timers):
            if timer:
                timer.cancel()
        self.wires.destroy()

    # power

    async def power_on(self, payload: Payload, accelerator: Accelerator) -> None:
        """Start the machine. RuntimeError: it is already on; QmpError: QEMU does not start."""
        if self.machine is not None:
            raise RuntimeError("the machine is already on")
        erst = self.directory / ERST
        self._exit_cause, self._reset_cause = "qemu exited", ""
        self._port_links = dict.fromkeys(SIDES, True)
        self._frozen = False
        self.removed.clear()
        self._controller.power_up()
        self._expander.power_up()
        self.wire(payload.wiring)
        self.log.forgive()
        self.on_start()
        machine = Machine(
            self.wires.board,
            lambda fds: command_line(payload, accelerator, erst, fds),
            self.directory / "qemu.log",
            self._qmp_event,
            self._exited,
        )
        ends = machine.start()
        self.machine = machine
        try:
            for name, device in (("gpio", self._lines), ("i2c", self._adapter)):
                backend = Backend(ends[name], device, lambda: None, self._note)
                backend.start(self._loop)
                self._backends.append(backend)
            await self.console.connect(ends["console"])
            await self.debug.connect(ends["debug"])
            await machine.negotiate(ends["qmp"])
            self.powered = True
            await self._sync_port_links()
            await self._arm_watchdog()
            self.log.add("power", state="on", accelerator=accelerator.name, pid=machine.pid)
            await machine.qmp("cont")
        except BaseException:
            machine.kill()
            await machine.wait()
            raise

    async def power_cut(self, cause: str = "power cut") -> None:
        """Pull the plug: the process is killed, and the coil loses its supply at the same time."""
        if self.machine is None:
            return
        machine = self.machine
        self._exit_cause = cause
        machine.kill()
        self._powerless(cause)
        await machine.wait()

    def _powerless(self, cause: str) -> None:
        """Nothing has power any more."""
        self._lines.release(cause)
        self._follow(cause, power=False)

    async def brown_out(self, ms: float = BROWN_OUT_MS, reset: bool = True) -> None:
        """The supply dips: the coil loses its current for this long, then the board's supervisor chip resets the
        machine. `reset` False: only the relay's supply dips, and the machine does not notice."""
        if self.machine is None:
            raise QmpError("the machine is off")
        self._supply = False
        self._follow("brown-out")
        self._after(ms / 1e3, self._supply_back, reset)

    def _supply_back(self, reset: bool) -> None:
        self._supply = True
        if reset:
            self._reset_cause = "brown-out"
            self._later(self._qmp("system_reset"))
        else:
            self._follow("supply back")

    async def reset(self) -> None:
        """Press the reset button."""
        self._reset_cause = "button"
        await self._qmp("system_reset")

    async def nmi(self) -> None:
        """Press the NMI button; the kernel is configured to panic on it."""
        self.log.add("nmi", cause="button")
        await self._qmp("inject-nmi")

    async def power_button(self) -> None:
        await self._qmp("system_powerdown")

    async def pause(self) -> None:
        """Freeze the whole machine, its devices and watchdog with it; the relay stays where it is.

        QEMU's own `stop` would separate the driver from the GPIO device, and so release the relay.
        """
        self._signal(signal.SIGSTOP, "stopped")

    async def resume(self) -> None:
        self._signal(signal.SIGCONT, "running")

    def _signal(self, number: signal.Signals, state: str) -> None:
        if self.machine is None:
            raise QmpError("the machine is off")
        os.kill(self.machine.pid, number)
        self._frozen = number == signal.SIGSTOP
        self.log.add("processors", state=state, cause="frozen" if number == signal.SIGSTOP else "ordered")

    async def qmp(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        return await self._qmp(command, **(arguments or {}))

    # cables

    def set_plugged(self, side: Side, plugged: bool) -> None:
        """Plug or unplug a host's cable."""
        before = self.wires.panel.plugged
        after = before | {side} if plugged else before - {side}
        if after != before:
            stamp = self.wires.change(plugged=after)
            self.log.add("link", mono_ns=stamp, port=side, part="cable", state="up" if plugged else "down")
            self._later(self._sync_port_links())

    def _host_link(self, side: Side, up: bool) -> None:
        before = self.wires.panel.hosts_up
        stamp = self.wires.change(hosts_up=before | {side} if up else before - {side})
        self.log.add("link", mono_ns=stamp, port=side, part="host", state="up" if up else "down")
        self._later(self._sync_port_links())

    async def _sync_port_links(self) -> None:
        if self.machine is None or not self.powered:
            return
        for side in SIDES:
            up = port_link(self.wires.panel, side)
            if self._port_links.get(side) != up:
                self._port_links[side] = up
                await self.machine.qmp("set_link", name=f"{side}0", up=up)
                self.log.add("link", port=f"{side}0", part="port", state="up" if up else "down")

    def _peer_link(self, side: Side, up: bool) -> None:
        """What the host at the end of the cable sees: its own port's carrier."""
        self.log.add("link", port=side, part="peer", state="up" if up else "down")

    # ports of the machine

    def nic(self, side: Side, up: bool) -> None:
        """Take the link from a port of the machine, or give it back; the cable stays in, and its host keeps its own."""
        before = self.wires.panel.nics_down
        self.wires.change(nics_down=before - {side} if up else before | {side})
        self._later(self._sync_port_links())

    def hot_plugged(self, side: Side, there: bool) -> None:
        """Note that the machine's kernel drops a port's device, or looks for it again."""
        (self.removed.discard if there else self.removed.add)(side)

    # relay, LED and button

    def _table(self, wiring: str) -> Mapping[str, Any]:
        try:
            return dict(self.spec.described(wiring)["relay"][0])
        except (KeyError, IndexError) as error:
            raise SpecError(f"{self.spec.board_toml}: the simulator needs a [[relay]]") from error

    def wire(self, wiring: str = "") -> None:
        """Build the relay in this way; "": as board.toml says. Its contacts stay where they are until it is driven."""
        table = self._table(wiring)
        drive = drive_of(table, self._controller, self._expander)
        for name in filter(self._lines.driven, drive.lines):
            drive.edge(name, True, self._loop.time())
        self.wiring, self.drive = wiring, drive
        self._follow(f"wired as {wiring or self.spec.name}")

    def break_part(self, name: str, broken: bool = True) -> None:
        """Break or repair a part (FAULTS). ValueError: there is none of that name."""
        if name not in FAULTS:
            raise ValueError(f"no part {name!r}: {', '.join(FAULTS)}")
        (self.broken.add if broken else self.broken.discard)(name)
        self._lines.keeps = "lines-keep" in self.broken
        self._lines.refuses = self._adapter.refuses = "lines-refused" in self.broken
        self.log.add("broken" if broken else "repaired", part=name)
        if name == "watchdog-dead":
            self._cancel_second_stage()
            self._later(self._arm_watchdog())
        elif name == "relay-stuck" and not broken:
            self._ordered = self._contacts
            self._follow("relay repaired")

    def tune(self, **changes: float) -> None:
        """Change delays of the board's parts (Timing). ValueError: unknown, or negative."""
        known = {each.name for each in fields(Timing)}
        if not changes or not changes.keys() <= known or min(changes.values()) < 0:
            raise ValueError(f"not these: {changes}; there are {', '.join(sorted(known))}, from 0 on")
        self.timing = replace(self.timing, **changes)
        self.log.add("tuned", text=", ".join(f"{name} {value:g}" for name, value in changes.items()))

    def press(self, seconds: float) -> None:
        """Press the bypass button for this long."""
        if not self.board.button_line:
            raise ValueError("this board has no bypass button")
        self._pressed = True
        self.log.add("button", state="pressed")
        self._after(seconds, self._let_go)

    def _let_go(self) -> None:
        self._pressed = False
        self.log.add("button", state="released")

    def _read_back(self) -> bool:
        """Whether the read-back contact shows inline."""
        self._chatter = not self._chatter
        if "read-back-chatters" in self.broken:
            return self._chatter
        return (self._contacts == "inline") != ("read-back-wrong" in self.broken)

    def _line(self, name: str, driven: bool, cause: str) -> None:
        if name == self.board.led_line:
            self.log.add("led", state="on" if driven else "off", cause=cause)
        elif name in self.drive.lines:
            self.drive.edge(name, driven, self._loop.time())
            self._follow(cause)

    def _chip_changed(self, kind: str) -> None:
        if self.drive.kind == kind:
            self._follow(kind)

    def _follow(self, cause: str, *, power: bool = True) -> None:
        """Move the contacts to where the drive wants them, and look again when it changes its mind by itself."""
        if self._due:
            self._due.cancel()
            self._due = None
        wanted = self.drive.position(self._loop.time(), power and self._supply)
        if wanted != self._ordered:
            if "relay-stuck" in self.broken:
                self.log.add("stuck", wanted=wanted, state=self._contacts, cause=cause)
            else:
                self._move_relay(wanted, cause)
            self._ordered = wanted
        due = self.drive.due(self._loop.time())
        if due is not None and wanted != "bypass":
            self._due = self._loop.call_at(due, self._follow, self.drive.why)

    def _after(self, seconds: float, call: Callable[..., None], *arguments: Any) -> None:
        def do() -> None:
            self._timers.discard(handle)
            call(*arguments)

        handle = self._loop.call_later(seconds, do)
        self._timers.add(handle)

    def _move_relay(self, to: Position, cause: str) -> None:
        seen = asyncio.get_running_loop().time()
        if self._moving:
            self._moving.cancel()
            self._moving = None
        if self.timing.relay_ms > 0:
            self.wires.change(relay="moving")
            self._moving = self._loop.call_later(self.timing.relay_ms / 1e3, self._landed, to, cause, seen)
        else:
            self._landed(to, cause, seen)

    def _landed(self, to: Position, cause: str, seen: float) -> None:
        self._moving = None
        self._contacts = to
        flap = self.timing.flap_ms > 0
        stamp = self.wires.change(relay=to, negotiating=flap)
        line_ns = round(seen * 1e9)  # the loop's clock is CLOCK_MONOTONIC
        self.log.add("relay", mono_ns=stamp, state=to, cause=cause, line_ns=line_ns)
        self._later(self._sync_port_links())
        if flap:
            self._moving = self._loop.call_later(self.timing.flap_ms / 1e3, self._negotiated)

    def _negotiated(self) -> None:
        self._moving = None
        self.wires.change(negotiating=False)
        self._later(self._sync_port_links())

    # events from QEMU

    def _qmp_event(self, message: dict[str, Any]) -> None:
        name, data = message["event"], message.get("data", {})
        if name == "WATCHDOG":
            if "watchdog-dead" in self.broken:
                return
            self.log.add("watchdog", stage=1, action=data.get("action"))
            self._cancel_second_stage()
            self._second_stage = self._loop.call_later(self.timing.second_stage_s, self._second_stage_due)
        elif name == "RESET":
            self._cancel_second_stage()
            cause = self._reset_cause or ("guest" if data.get("guest") else "qemu")
            self._reset_cause = ""
            self.removed.clear()
            self.log.add("reset", cause=cause, reason=data.get("reason"))
            self._expander.power_up()  # the board's reset is wired to its reset pin
            self._chip_changed("expander")
            self.on_start()
        elif name == "SHUTDOWN":
            self._cancel_second_stage()
            if data.get("guest"):
                self._exit_cause = "guest shut down"
        elif name == "GUEST_PANICKED":
            self.log.add("panic", source="pvpanic")
        elif name in ("STOP", "RESUME"):
            self.log.add("processors", state="stopped" if name == "STOP" else "running", cause="qemu")

    async def _arm_watchdog(self) -> None:
        """A dead watchdog counts and does nothing."""
        action = "none" if "watchdog-dead" in self.broken else self.spec.arch.qemu.watchdog_action
        await self._qmp("watchdog-set-action", action=action)

    def _second_stage_due(self) -> None:
        self._second_stage = None
        self.log.add("watchdog", stage=2, action="reset")
        self._reset_cause = "watchdog second stage"
        self._later(self._qmp("system_reset"))

    def _cancel_second_stage(self) -> None:
        if self._second_stage:
            self._second_stage.cancel()
            self._second_stage = None

    def _exited(self, status: int) -> None:
        for backend in self._backends:
            backend.close()
        self._backends.clear()
        self._powerless(self._exit_cause)
        self._cancel_second_stage()
        self.console.disconnect()
        self.debug.disconnect()
        self.machine = None
        self.powered = False
        self.log.add("power", state="off", cause=self._exit_cause, status=status)
        if status not in (0, -signal.SIGKILL) and self._exit_cause == "qemu exited":  # whoever kills it means to
            said = (self.directory / "qemu.log").read_text(errors="replace").splitlines()[-20:]
            self.log.add("emulator failed", status=status, text="\n".join(said))

    def _note(self, text: str) -> None:
        self.log.add("note", text=text)

    async def _qmp(self, command: str, **arguments: Any) -> Any:
        if self.machine is None:
            raise QmpError(f"{command}: the machine is off")
        return await self.machine.qmp(command, **arguments)

    def _later(self, work: Any) -> None:
        async def guarded() -> None:
            try:
                await work
            except QmpError as error:
                self._note(str(error))

        task = self._loop.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def observed(self) -> dict[str, Any]:
        """The status, with what an instrument at the wires and a stop-watch would show (for the panel)."""
        now = self._loop.time()
        due = self.drive.due(now)
        stage = self._second_stage.when() - now if self._second_stage else None
        return {
            **self.status(),
            "mono_ns": round(now * 1e9),
            "nics_down": sorted(self.wires.panel.nics_down),
            "frozen": self._frozen,
            "traffic": self.wires.traffic(),
            "drive_left_s": None if due is None or self._ordered == "bypass" else round(max(0.0, due - now), 3),
            "second_stage_left_s": None if stage is None else round(max(0.0, stage), 3),
        }

    def _port(self, side: Side) -> str:
        if side in self.removed:
            return "removed"
        return "up" if port_link(self.wires.panel, side) else "down"

    def status(self) -> dict[str, Any]:
        """What an observer of the board would see."""
        panel = self.wires.panel
        return {
            "power": "on" if self.machine else "off",
            "relay": panel.relay,
            "led": "on" if self._lines.driven(self.board.led_line) else "off",
            "cables": {side: "in" if side in panel.plugged else "out" for side in SIDES},
            "hosts": {side: "up" if side in panel.hosts_up else "down" for side in SIDES},
            "ports": {side: self._port(side) for side in SIDES},
            "wiring": self.wiring or self.spec.name,
            "drive": self.drive.kind,
            "button": "pressed" if self._pressed else "released",
            "broken": sorted(self.broken),
            "timing": {each.name: getattr(self.timing, each.name) for each in fields(Timing)},
            "prefix": self.wires.prefix,
            "qemu_pid": self.machine.pid if self.machine else None,
        }
