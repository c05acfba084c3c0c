# SPDX-License-Identifier: GPL-2.0-only
"""The board's electronics: relay coil, status LED, power, reset button and the watchdog's second stage.

Runs in one event loop and is called only there. Owns the wires, the lines, and the Machine while the power is on.
The relay's resting position is bypass; only a driven line moves it from there, and everything that ends the drive
(line released, device reset, QEMU gone, power cut) lets it fall back at once, in this process.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boardspec import SimulatedMachine

from simulator.events import EventLog
from simulator.gpio import Lines
from simulator.machine import Accelerator, Machine, Payload, command_line
from simulator.qmp import QmpError
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


@dataclass
class Simulator:
    directory: Path
    board: SimulatedMachine
    wires: Wires
    log: EventLog
    console: SerialPort
    debug: SerialPort
    timing: Timing = field(default_factory=Timing)
    machine: Machine | None = None
    powered: bool = False
    on_start: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines = Lines([self.board.relay_line, self.board.led_line], self._line)
        self._backend: Backend | None = None
        self._moving: asyncio.TimerHandle | None = None
        self._second_stage: asyncio.TimerHandle | None = None
        self._port_links: dict[Side, bool] = {}
        self._reset_cause = ""
        self._exit_cause = ""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watches = [HostLinkWatch(side, self.wires.host(side), self._host_link) for side in SIDES]

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
        for timer in (self._moving, self._second_stage):
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
            self._backend = Backend(ends["gpio"], self._lines, self._backend_ended, self._note)
            self._backend.start(self._loop)
            await self.console.connect(ends["console"])
            await self.debug.connect(ends["debug"])
            await machine.negotiate(ends["qmp"])
            self.powered = True
            await self._sync_port_links()
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
        self._lines.release(cause)
        await machine.wait()

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

    # relay and LED

    def _line(self, name: str, driven: bool, cause: str) -> None:
        if name == self.board.led_line:
            self.log.add("led", state="on" if driven else "off", cause=cause)
        else:
            self._move_relay(driven, cause)

    def _move_relay(self, inline: bool, cause: str) -> None:
        seen = asyncio.get_running_loop().time()
        if self._moving:
            self._moving.cancel()
            self._moving = None
        if self.timing.relay_ms > 0:
            self.wires.change(relay="moving")
            self._moving = self._loop.call_later(self.timing.relay_ms / 1e3, self._landed, inline, cause, seen)
        else:
            self._landed(inline, cause, seen)

    def _landed(self, inline: bool, cause: str, seen: float) -> None:
        self._moving = None
        flap = self.timing.flap_ms > 0
        stamp = self.wires.change(relay="inline" if inline else "bypass", negotiating=flap)
        line_ns = round(seen * 1e9)  # the loop's clock is CLOCK_MONOTONIC
        self.log.add("relay", mono_ns=stamp, state="inline" if inline else "bypass", cause=cause, line_ns=line_ns)
        if flap:
            self._moving = self._loop.call_later(self.timing.flap_ms / 1e3, self._negotiated)
            self._later(self._sync_port_links())

    def _negotiated(self) -> None:
        self._moving = None
        self.wires.change(negotiating=False)
        self._later(self._sync_port_links())

    # events from QEMU

    def _qmp_event(self, message: dict[str, Any]) -> None:
        name, data = message["event"], message.get("data", {})
        if name == "WATCHDOG":
            self.log.add("watchdog", stage=1, action=data.get("action"))
            self._cancel_second_stage()
            self._second_stage = self._loop.call_later(self.timing.second_stage_s, self._second_stage_due)
        elif name == "RESET":
            self._cancel_second_stage()
            cause = self._reset_cause or ("guest" if data.get("guest") else "qemu")
            self._reset_cause = ""
            self.log.add("reset", cause=cause, reason=data.get("reason"))
            self.on_start()
        elif name == "SHUTDOWN":
            self._cancel_second_stage()
            if data.get("guest"):
                self._exit_cause = "guest shut down"
        elif name == "GUEST_PANICKED":
            self.log.add("panic", source="pvpanic")
        elif name in ("STOP", "RESUME"):
            self.log.add("processors", state="stopped" if name == "STOP" else "running", cause="qemu")

    def _second_stage_due(self) -> None:
        self._second_stage = None
        self.log.add("watchdog", stage=2, action="reset")
        self._reset_cause = "watchdog second stage"
        self._later(self._qmp("system_reset"))

    def _cancel_second_stage(self) -> None:
        if self._second_stage:
            self._second_stage.cancel()
            self._second_stage = None

    def _backend_ended(self) -> None:
        self._backend = None

    def _exited(self, status: int) -> None:
        if self._backend:
            self._backend.close()
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

    def status(self) -> dict[str, Any]:
        """What an observer of the board would see."""
        panel = self.wires.panel
        return {
            "power": "on" if self.machine else "off",
            "relay": panel.relay,
            "led": "on" if self._lines.driven(self.board.led_line) else "off",
            "cables": {side: "in" if side in panel.plugged else "out" for side in SIDES},
            "hosts": {side: "up" if side in panel.hosts_up else "down" for side in SIDES},
            "prefix": self.wires.prefix,
            "qemu_pid": self.machine.pid if self.machine else None,
        }
