# SPDX-License-Identifier: GPL-2.0-only
"""`guest NAME console`: this terminal as the guest's serial line, until the escape key.

The terminal is raw, so that every key reaches the guest, Ctrl-C too; only Ctrl-] (as in telnet) is ours, and leaves.
Whatever happens, the terminal is given back as it was. What the guest prints goes to the terminal as it is: that is
what a console is for; the guest's log shows it without control characters.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import termios
import tty
from typing import TextIO

from appliance.errors import RefusedError

ESCAPE = b"\x1d"
ESCAPE_NAME = "Ctrl-]"
RESET = b"\x1b[0m\x1b[?25h"  # colours and cursor back, whatever the guest left


def attach(link: socket.socket, rest: bytes, out: TextIO, err: TextIO, note: str = "") -> str:
    """Join the terminal and the connection; why it ended, for the person. RefusedError without a terminal.

    `note`: what the person should know besides how to leave.
    """
    if not (sys.stdin.isatty() and out.isatty()):
        raise RefusedError("a console needs a terminal; `guest NAME log` shows what the guest printed")
    print(f"attached; {ESCAPE_NAME} leaves", *[note] * bool(note), sep="\n", file=err, flush=True)
    keys, screen = sys.stdin.fileno(), out.fileno()
    before = termios.tcgetattr(keys)
    try:
        tty.setraw(keys)
        os.write(screen, rest)
        return join(link, keys, screen)
    finally:
        termios.tcsetattr(keys, termios.TCSAFLUSH, before)
        if os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown"):
            os.write(screen, RESET)
        print(file=err, flush=True)


def join(link: socket.socket, keys: int, screen: int) -> str:
    """Carry bytes both ways until the escape key, the end of the keys, or the end of the connection."""
    while True:
        ready, _, _ = select.select([link.fileno(), keys], [], [])
        if link.fileno() in ready:
            data = link.recv(1 << 16)
            if not data:
                return "bypassd ended the connection"
            os.write(screen, data)
        if keys in ready:
            typed = os.read(keys, 4096)
            before, escape, _ = typed.partition(ESCAPE)
            if before:
                link.sendall(before)
            if escape or not typed:
                return "detached; the guest goes on"
