# SPDX-License-Identifier: GPL-2.0-only
"""The simulated board for tests and tools: `with Board(directory, payload) as board: board.power_on()`.

A Board owns a directory (logs, ERST store, control socket, data disk), the namespaces `<prefix>-*`, a thread with the
event loop in which the electronics run, and every process started through its hosts. All of it ends with `close`, which
also runs at the interpreter's exit. All methods may be called from any thread and block until done. Timeouts are those
of the reference machine; they are scaled by the board's measured speed (pace.py).
"""

from __future__ import annotations

import asyncio
import atexit
import fcntl
import os
import re
import shlex
import threading
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from boardspec import SpecError

from simulator.control import ControlServer, NicOrder
from simulator.events import Event, EventLog, Predicate
from simulator.host import Host
from simulator.machine import Accelerator, Payload
from simulator.pace import Pace, booted
from simulator.serial import SerialPort
from simulator.shell import DebugShell, Result
from simulator.simulator import BROWN_OUT_MS, Simulator, Timing
from simulator.wires import Side, Wires

T = TypeVar("T")
CALL_S = 60.0


def hot_plug(pci: str, order: NicOrder) -> str:
    """The command in the board that takes a device off its bus, or finds it again (pure).

    The kernel removes the device as it does when one is pulled out. QEMU itself cannot pull it: the machine's first bus
    takes no hot-plugging, and behind a port of another bus the board's ports would have other addresses.
    """
    return f"echo 1 >/sys/bus/pci/devices/{pci}/remove" if order == "remove" else "echo 1 >/sys/bus/pci/rescan"


class BoardError(Exception):
    """The board could not be set up; the text says why and what to do."""


class Board:
    """One simulated board. `prefix` names its namespaces; the default is the first free one of tw, tw2, tw3 ..."""

    def __init__(
        self,
        directory: Path,
        payload: Payload,
        *,
        prefix: str | None = None,
        timing: Timing | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.directory = directory.resolve()
        self.payload = payload
        self.accelerator = accelerator or Accelerator()
        self.pace = Pace()
        self._timing = timing or Timing()
        self._wanted_prefix = prefix
        self._lock = -1
        self._open = False

    def __enter__(self) -> Board:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Create namespaces and wires, with connectors joined and power off. Raises BoardError."""
        if os.geteuid() != 0:
            raise BoardError("the board simulator creates network namespaces and must run as root")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise BoardError(
                f"another board simulator is using {self.directory}: end it, or choose another --dir"
            ) from error
        self._wires = wires = self._claim()
        self.prefix = wires.prefix
        self.events = EventLog(self.directory / "events.jsonl")
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._trouble)
        self._thread = threading.Thread(target=self._loop.run_forever, name="board", daemon=True)
        self._thread.start()
        self._open = True
        atexit.register(self.close)
        try:
            check = self.events.check
            qemu, folder = self.payload.board.arch.qemu, self.directory
            self.console = SerialPort(qemu.console, self._loop, folder / "console.log", check, self._console_panic)
            self.debug = SerialPort(qemu.debug, self._loop, folder / "debug.log", self._check_debug)
            # not the debug port's: `sh` passes its shell a timeout that is already scaled
            self.events.stretch = self.console.stretch = self._wait
            self.events.listeners.append(self._wake)
            self._shell = DebugShell(self.debug, self._shell_lost)
            self._call(self._start(wires))
        except SpecError as error:
            self.close()
            raise BoardError(str(error)) from error
        except RuntimeError as error:
            self.close()
            raise BoardError(f"the board's namespaces cannot be created: {error}") from error
        self.lan = Host(wires.host("lan"), "10.77.0.1", "fd77::1")
        self.wan = Host(wires.host("wan"), "10.77.0.2", "fd77::2")
        self.mgmt = Host(wires.host("mgmt"), "10.88.0.1", "fd88::1")

    def close(self) -> None:
        """Power off and clean up everything. May be called repeatedly."""
        if not self._open:
            return
        self._open = False
        atexit.unregister(self.close)
        for name in ("lan", "wan", "mgmt"):
            if host := getattr(self, name, None):
                host.close()
        try:
            if hasattr(self, "_simulator"):
                self._call(self._stop())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._wires.destroy()
            for part in ("console", "debug", "events"):
                if hasattr(self, part):
                    getattr(self, part).close()
            os.close(self._lock)

    # power and buttons

    def power_on(self) -> None:
        """Start the machine; returns when its processors run. BoardError if it is already on or QEMU fails."""
        try:
            self._call(self._simulator.power_on(self.payload, self.accelerator))
        except Exception as error:
            raise BoardError(f"power on: {error}") from error

    def power_cut(self) -> Event:
        """Pull the plug (kill -9 of QEMU); returns the fault event, whose `mono_ns` is just before."""
        fault = self.fault("power cut")
        self._call(self._simulator.power_cut())
        return fault

    def power_button(self) -> None:
        self._call(self._simulator.power_button())

    def reset(self) -> Event:
        fault = self.fault("reset button")
        self._call(self._simulator.reset())
        return fault

    def nmi(self) -> Event:
        """Press the NMI button: the kernel panics, so use it inside `panic_ordered`."""
        fault = self.fault("nmi button")
        self._call(self._simulator.nmi())
        return fault

    def pause(self) -> None:
        self._call(self._simulator.pause())

    def resume(self) -> None:
        self._call(self._simulator.resume())

    def unplug(self, side: Side) -> Event:
        fault = self.fault(f"unplug {side}")
        self._loop_do(self._simulator.set_plugged, side, False)
        return fault

    def plug(self, side: Side) -> None:
        self._loop_do(self._simulator.set_plugged, side, True)

    # parts that break

    def break_part(self, name: str) -> Event:
        """Break a part (simulator.FAULTS); returns the fault event."""
        fault = self.fault(f"break {name}")
        self._loop_do(self._simulator.break_part, name)
        return fault

    def mend_part(self, name: str) -> None:
        self._loop_do(self._simulator.break_part, name, False)

    def tune(self, **changes: float) -> None:
        """Change delays of the parts: relay_ms, flap_ms, second_stage_s."""
        self._loop_do(partial(self._simulator.tune, **changes))

    def wire(self, wiring: str = "") -> None:
        """Build the relay in another way while the machine runs; what it finds in board.toml is the caller's."""
        self._loop_do(self._simulator.wire, wiring)

    def press(self, seconds: float = 0.3) -> Event:
        """Press the bypass button; returns at once."""
        fault = self.fault("bypass button")
        self._loop_do(self._simulator.press, seconds)
        return fault

    def brown_out(self, ms: float = BROWN_OUT_MS, reset: bool = True) -> Event:
        """Let the supply dip; see Simulator.brown_out."""
        fault = self.fault("brown-out")
        self._call(self._simulator.brown_out(ms, reset))
        return fault

    def nic(self, side: Side, order: NicOrder) -> Event:
        """Take the link from a port of the machine (`down`, `up`), or the whole device (`remove`, `return`)."""
        fault = self.fault(f"nic {side} {order}")
        if order in ("down", "up"):
            self._loop_do(self._simulator.nic, side, order == "up")
        else:
            self.sh(self._hot_plug(side, order))
            self._loop_do(self._simulator.hot_plugged, side, order == "return")
        return fault

    def fault(self, what: str) -> Event:
        """Log that a fault is about to be injected; the returned event's `n` serves as mark, `mono_ns` as time."""
        return self.events.add("fault", what=what)

    def qmp(self, command: str, **arguments: Any) -> Any:
        return self._call(self._simulator.qmp(command, arguments))

    @property
    def qemu_pid(self) -> int | None:
        machine = self._simulator.machine
        return machine.pid if machine else None

    # observing

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self._loop_do(self._simulator.status)
        return status

    @property
    def relay(self) -> str:
        return str(self.status()["relay"])

    @property
    def led(self) -> str:
        return str(self.status()["led"])

    def wait_event(
        self, predicate: Predicate | None = None, *, since: int = 0, timeout: float = 60.0, **fields: Any
    ) -> Event:
        """The first event from mark `since` on with these fields (`event="relay", state="inline"`), see EventLog."""
        return self.events.wait(predicate, since=since, timeout=timeout, **fields)

    def wait_relay(self, state: str, timeout: float = 60.0) -> Event:
        """Wait until the relay is in `state` (it may be already); returns the event of its last move."""
        while True:
            mark = self.events.mark()
            last = self.events.last(event="relay")
            if last and last["state"] == state:
                return last
            self.events.wait(event="relay", state=state, since=mark, timeout=timeout)

    def wait_inline(self, timeout: float = 90.0) -> Event:
        return self.wait_relay("inline", timeout)

    def wait_bypass(self, timeout: float = 60.0) -> Event:
        return self.wait_relay("bypass", timeout)

    def panic_ordered(self) -> AbstractContextManager[None]:
        """Panics in this block are intended and are no failure."""
        return self.events.panic_ordered()

    def sh(self, command: str, timeout: float = 60.0, check: bool = True) -> Result:
        """Run a command as root in the board, through the debug shell on its second serial port (DebugShell.run)."""
        result = self._shell.run(command, self.pace.wait(timeout), check)
        if self.pace.speed is None:
            self.measure()
        return result

    def measure(self) -> Pace:
        """Take the speed from the board's last boot; from then on, waits and traffic are scaled by it."""
        started, spoke = self.events.last(event="power", state="on"), self.debug.first_ns
        if started is not None and spoke is not None:
            self.pace = booted((spoke - started["mono_ns"]) / 1e9)
            self.events.add("pace", text=str(self.pace))
        return self.pace

    def pids(self, words: str) -> list[int]:
        """Processes in the board whose command line contains these words (`bypass-keeper`, `-m appliance`)."""
        # the first letter in brackets: grep must not find itself
        pattern = shlex.quote(f"[{words[0]}]{re.escape(words[1:])}".replace("\\ ", "."))
        found = self.sh(f"cd /proc && grep -l -a -- {pattern} [0-9]*/cmdline 2>/dev/null || true").output
        return [int(path.split("/")[0]) for path in found.split()]

    # inside

    def _hot_plug(self, side: Side, order: NicOrder) -> str:
        return hot_plug(self.payload.board.connectors[side].pci, order)

    async def _hot_plug_async(self, side: Side, order: NicOrder) -> None:
        """For a second terminal: without waiting for an answer of the board's shell."""
        self.debug.send(f"{self._hot_plug(side, order)}\n")
        self._simulator.hot_plugged(side, order == "return")

    def _claim(self) -> Wires:
        names = [self._wanted_prefix] if self._wanted_prefix else ["tw", *(f"tw{number}" for number in range(2, 100))]
        for name in names:
            wires = Wires(name)
            if wires.claim():
                return wires
        os.close(self._lock)
        raise BoardError(f"the names {names[0]}-* are used by another board simulator")

    async def _start(self, wires: Wires) -> None:
        simulator = Simulator(
            self.directory, self.payload.board, wires, self.events, self.console, self.debug, self._timing
        )
        simulator.on_start = self._shell.forget
        self._simulator = simulator
        self._control = ControlServer(
            self.directory, simulator, self.events, self._power_on_async, self._hot_plug_async
        )
        simulator.start()
        await self._control.start()

    def _wait(self, seconds: float) -> float:
        return self.pace.wait(seconds)

    async def _power_on_async(self) -> None:
        await self._simulator.power_on(self.payload, self.accelerator)

    async def _stop(self) -> None:
        await self._control.stop()
        await self._simulator.stop()

    def _check_debug(self) -> None:
        self.events.check()
        power = self.events.last(event="power")
        if power is None or power["state"] == "off":
            raise BoardError(f"no answer from the debug shell: the machine is off ({power and power['cause']})")

    def _console_panic(self, text: str) -> None:
        self.events.add("panic", source="console", text=text)

    def _shell_lost(self, text: str) -> None:
        self.events.add("shell lost", text=text)

    def _wake(self, event: Event) -> None:
        if event["event"] in ("panic", "power", "reset", "emulator failed"):
            self.console.wake()
            self.debug.wake()

    def _trouble(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.events.add("trouble", text=f"{context.get('message')}: {context.get('exception')!r}")

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S)

    def _loop_do(self, function: Any, *arguments: Any) -> Any:
        async def body() -> Any:
            return function(*arguments)

        return self._call(body())
