# SPDX-License-Identifier: GPL-2.0-only
"""Simulator of the reference board: connectors, relay, LED, watchdog's second stage and power around a QEMU machine."""

from boardsim.board import Board, BoardError
from boardsim.events import BoardPanic, Event, WaitTimeout
from boardsim.host import Host
from boardsim.machine import Accelerator, Drive, Payload
from boardsim.shell import CommandFailed, Result
from boardsim.simulator import Timing

__all__ = [
    "Accelerator",
    "Board",
    "BoardError",
    "BoardPanic",
    "CommandFailed",
    "Drive",
    "Event",
    "Host",
    "Payload",
    "Result",
    "Timing",
    "WaitTimeout",
]
