# SPDX-License-Identifier: GPL-2.0-only
"""Simulator of the reference board: connectors, relay, LED, button, watchdog's second stage and power around QEMU."""

from simulator.board import Board, BoardError
from simulator.events import BoardPanic, EmulatorFailed, Event, WaitTimeout
from simulator.host import Host
from simulator.machine import Accelerator, Drive, Payload
from simulator.shell import CommandFailed, Result, ShellLost
from simulator.simulator import Timing

__all__ = [
    "Accelerator",
    "Board",
    "BoardError",
    "BoardPanic",
    "CommandFailed",
    "Drive",
    "EmulatorFailed",
    "Event",
    "Host",
    "Payload",
    "Result",
    "ShellLost",
    "Timing",
    "WaitTimeout",
]
