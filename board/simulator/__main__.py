# SPDX-License-Identifier: GPL-2.0-only
"""`python -m simulator [--dir DIR] run`, and the words for a second terminal: status, log, power, unplug, break ..."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import boardspec
from boardspec import BoardSpec, SpecError

from simulator import accel, payload
from simulator.board import Board, BoardError
from simulator.control import NIC_ORDERS, ask, connect
from simulator.events import Event
from simulator.machine import Accelerator
from simulator.simulator import BROWN_OUT_MS, FAULTS, Timing
from simulator.terminal import Terminal

SHOWN = ("relay", "led", "watchdog", "reset", "panic", "power", "link", "broken", "repaired", "stuck", "button")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (BoardError, SpecError, FileNotFoundError, ConnectionError) as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulator", description="Simulator of a board around QEMU.")
    parser.add_argument("--board", default=boardspec.DEFAULT, help="a folder of board/ (default: %(default)s)")
    parser.add_argument("--dir", type=Path, help="the board's files and control socket (default: build/BOARD/run)")
    words = parser.add_subparsers(required=True, metavar="COMMAND")

    run = words.add_parser("run", help="power the board on, with its serial console in this terminal")
    _machine_options(run)
    run.add_argument("--events", action="store_true", help="show transitions on standard error")
    run.set_defaults(command=_run)

    panel = words.add_parser("panel", help="show the box live; starts it if none runs")
    _machine_options(panel)
    panel.set_defaults(command=_panel)

    for name, text in (("status", "show power, relay, LED and cables"), ("reset", "press the reset button"),
                       ("nmi", "press the NMI button"), ("pause", "freeze the whole machine"),
                       ("resume", "resume the machine")):  # fmt: skip
        words.add_parser(name, help=text).set_defaults(command=_order, do=name)
    power = words.add_parser("power", help="cut or restore the power, or press the power button")
    power.add_argument("how", choices=("cut", "on", "button"))
    power.set_defaults(command=_order, do="power")
    for name in ("unplug", "plug"):
        cable = words.add_parser(name, help=f"{name} the cable on one side")
        cable.add_argument("side", choices=("lan", "wan"))
        cable.set_defaults(command=_order, do=name)
    nic = words.add_parser("nic", help="take the link from a port of the machine, or the whole device")
    nic.add_argument("side", choices=("lan", "wan"))
    nic.add_argument("order", choices=NIC_ORDERS)
    nic.set_defaults(command=_order, do="nic")
    for name, text in (("break", "break a part of the board"), ("mend", "repair it")):
        part = words.add_parser(name, help=text, epilog="; ".join(f"{key}: {what}" for key, what in FAULTS.items()))
        part.add_argument("part", choices=tuple(FAULTS))
        part.set_defaults(command=_order, do=name)
    tune = words.add_parser("tune", help="change the delays of the board's parts")
    for each in fields(Timing):
        tune.add_argument(f"--{each.name.replace('_', '-')}", type=float)
    tune.set_defaults(command=_tune)
    press = words.add_parser("press", help="press the bypass button")
    press.add_argument("--seconds", type=float, default=0.3, help="for how long (default: %(default)s)")
    press.set_defaults(command=_order, do="press")
    brown = words.add_parser("brown-out", help="let the supply dip, after which the machine is reset")
    brown.add_argument("--ms", type=float, default=BROWN_OUT_MS, help="for how long (default: %(default)s)")
    brown.add_argument("--no-reset", dest="reset", action="store_false", help="only the relay's supply dips")
    brown.set_defaults(command=_order, do="brown-out")
    relay = words.add_parser("relay", help="show the relay's position; `relay log`: its transitions")
    relay.add_argument("what", nargs="?", choices=("log",))
    relay.set_defaults(command=_relay)
    log = words.add_parser("log", help="show all transitions")
    log.set_defaults(command=_log)
    attach = words.add_parser("attach", help="use a serial port in this terminal as well")
    attach.add_argument("port", choices=("console", "debug"))
    attach.set_defaults(command=_attach)
    return parser


def _machine_options(run: argparse.ArgumentParser) -> None:
    run.add_argument("--artefacts", type=Path, help="where the image is (default: build/BOARD)")
    run.add_argument("--image", type=Path, help="a disk image to boot by firmware, or a folder like build/BOARD")
    run.add_argument("--firmware", choices=("bios", "uefi"), default="bios", help="what boots the disk image")
    run.add_argument("--prefix", help="prefix of the namespaces' names (default: the first free of tw, tw2, ...)")
    run.add_argument("--wiring", default="", help="another way to build the relay: board/BOARD/relay/NAME.toml")
    run.add_argument("--relay-ms", type=float, default=5.0, help="switching time of the relay's contacts")
    run.add_argument("--flap-ms", type=float, default=0.0, help="how long links stay down after the relay has switched")
    run.add_argument("--second-stage-s", type=float, default=5.0, help="time from the watchdog's NMI to the hard reset")
    run.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    run.add_argument("--append", default="", help="additions to the kernel's command line")
    run.add_argument("--no-debug", action="store_true", help="no root shell on the second serial port")


# run


def _run(options: argparse.Namespace) -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ended_by_signal)
    made, found = _made(options)
    with made as board:
        print(_banner(board, found, options), file=sys.stderr, flush=True)
        terminal = Terminal(board.console.send)
        shown = _Events(terminal, options.events)
        terminal.on_events = shown.toggle
        board.console.sinks.append(terminal.show)
        board.events.listeners.append(shown)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, lambda *_: terminal.leave())
        board.power_on()
        terminal.run()
    print("\r\n[board off, wires taken down]", file=sys.stderr)
    return 0


def _panel(options: argparse.Namespace) -> int:
    from simulator.panel import show

    directory = _directory(options).resolve()
    try:
        ask(directory, {"do": "status"})
    except (FileNotFoundError, ConnectionError):
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _ended_by_signal)
        made, _ = _made(options)
        with made as board:
            print("powering the board on ...", file=sys.stderr, flush=True)
            board.power_on()
            return show(board.directory)
    return show(directory)


def _made(options: argparse.Namespace) -> tuple[Board, Accelerator]:
    """The board of the command line, not opened yet, and how it is emulated."""
    spec = boardspec.load(options.board)
    artefacts, directory = (options.artefacts or spec.build).resolve(), _directory(options).resolve()
    if options.image and not options.image.is_dir():
        if options.append or options.wiring:
            raise BoardError(
                "--append and --wiring are for a kernel that the emulator loads; a disk has its own command line"
            )
        load = payload.disk(options.image, directory, firmware=options.firmware, board=spec)
    else:
        folder = options.image or artefacts
        load = payload.image(
            folder,
            directory,
            debug=not options.no_debug,
            append=options.append,
            board=spec,
            wiring=options.wiring,
        )
    found = _accelerator(options.accel, spec, artefacts)
    timing = Timing(options.relay_ms, options.flap_ms, options.second_stage_s)
    made = Board(directory, load, prefix=options.prefix, timing=timing, accelerator=found)
    return made, found


def _ended_by_signal(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _directory(options: argparse.Namespace) -> Path:
    """The folder of the board's files, as a relative path if it is below the current one."""
    if options.dir:
        return Path(options.dir)
    default = boardspec.load(options.board).build / "run"
    return default.relative_to(Path.cwd()) if default.is_relative_to(Path.cwd()) else default


def _accelerator(wanted: str, board: BoardSpec, artefacts: Path) -> Accelerator:
    if wanted != "auto":
        return Accelerator(wanted, "as requested", accel.program(board.arch, artefacts))
    return accel.choose(board, artefacts)


class _Events:
    """Shows transitions on request, and ends the session when the appliance powers itself off."""

    def __init__(self, terminal: Terminal, shown: bool) -> None:
        self._terminal = terminal
        self._shown = shown

    def toggle(self) -> None:
        self._shown = not self._shown
        print(f"\r\n[transitions {'shown' if self._shown else 'not shown'}]\r", file=sys.stderr, flush=True)

    def __call__(self, event: Event) -> None:
        if event["event"] == "power" and event["state"] == "off":
            if event["cause"] == "guest shut down":
                self._terminal.leave()
            elif event["cause"] != "simulator stopped":
                self._terminal.show(f"\r\n[power off: {event['cause']}]\r\n".encode())
        if self._shown and event["event"] in SHOWN:
            self._terminal.show(f"\r\n[{line(event)}]\r\n".encode())


def _banner(board: Board, found: Accelerator, options: argparse.Namespace) -> str:
    """The banner, at most 80 columns wide; its commands work in the folder where `make run` was started."""
    prefix, place = board.prefix, _directory(options)
    there = "" if options.board == boardspec.DEFAULT else f" --board {options.board}"
    there += f" --dir {place}" if options.dir else ""
    return f"""
   {prefix}-lan  10.77.0.1                                   {prefix}-wan  10.77.0.2
   fd77::1  ==== [lan] -- relay: bypass until driven -- [wan] ====  fd77::2
                   |                                      |
                 lan0 ========= the appliance ========= wan0
                                      |
                                    mgmt0 ==== {prefix}-mgmt  10.88.0.1

   accelerator      {found.name}
                    {found.why}
   across the link  ip netns exec {prefix}-lan ping 10.77.0.2
   second terminal  export PYTHONPATH=board; then
                    build/venv/bin/python -m simulator{there} COMMAND
                    (status, relay log, power cut, power on, reset, unplug lan)
   transitions      {place}/events.jsonl
   console log      {place}/console.log
   keys here        Ctrl-A x: end   Ctrl-A e: transitions   Ctrl-A h: help
"""


# second terminal


def _reply(options: argparse.Namespace, request: dict[str, Any]) -> Any:
    try:
        reply = ask(_directory(options), request)
    except (FileNotFoundError, ConnectionError) as error:
        raise BoardError(f"no board runs in {_directory(options)}: start one with `make run`") from error
    if "error" in reply:
        raise BoardError(reply["error"])
    return reply["ok"]


def _order(options: argparse.Namespace) -> int:
    request = {"do": f"power {options.how}" if options.do == "power" else options.do}
    words = ("side", "order", "part", "seconds", "ms", "reset")
    request.update((name, getattr(options, name)) for name in words if name in options)
    return _show_status(_reply(options, request))


def _tune(options: argparse.Namespace) -> int:
    timing = {each.name: getattr(options, each.name) for each in fields(Timing)}
    given = {name: value for name, value in timing.items() if value is not None}
    return _show_status(_reply(options, {"do": "tune", "timing": given}))


def _show_status(status: dict[str, Any]) -> int:
    for key, value in status.items():
        if isinstance(value, dict):
            text = ", ".join(f"{name} {state}" for name, state in value.items())
        else:
            text = ", ".join(value) or "nothing" if isinstance(value, list) else value
        print(f"{key:10} {text}")
    return 0


def line(event: Event) -> str:
    """One transition, for display."""
    known = ("n", "mono_ns", "wall", "event")
    rest = "  ".join(f"{key}={value}" for key, value in event.items() if key not in known)
    return f"{event['wall'][11:23]}  {event['mono_ns'] / 1e9:14.6f}  {event['event']:10} {rest}"


def _relay(options: argparse.Namespace) -> int:
    if options.what == "log":
        return _log(options, "relay")
    print(_reply(options, {"do": "status"})["relay"])
    return 0


def _log(options: argparse.Namespace, only: str = "") -> int:
    for event in _reply(options, {"do": "log"}):
        if not only or event["event"] == only:
            print(line(event))
    return 0


def _attach(options: argparse.Namespace) -> int:
    try:
        client = connect(_directory(options))
    except (FileNotFoundError, ConnectionError) as error:
        raise BoardError(f"no board runs in {_directory(options)}: start one with `make run`") from error
    with client:
        client.sendall(json.dumps({"do": "attach", "port": options.port}).encode() + b"\n")
        terminal = Terminal(client.sendall)
        print("[Ctrl-A x leaves]", file=sys.stderr)
        _copy(client.fileno(), terminal)
    return 0


def _copy(source: int, terminal: Terminal) -> None:
    def pump() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(source, 4096):
                terminal.show(data)
        terminal.leave()

    threading.Thread(target=pump, daemon=True).start()
    terminal.run()


if __name__ == "__main__":
    sys.exit(main())
