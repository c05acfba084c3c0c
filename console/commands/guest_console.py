# SPDX-License-Identifier: GPL-2.0-only
"""`guest NAME console`: connect this terminal to the guest's serial console, until the escape key.

The terminal is in raw mode, so that every key reaches the guest, including Ctrl-C; only Ctrl-] (as in telnet) is
handled here, and detaches. The terminal's settings are restored in any case. The guest's output is passed on
unchanged, as a console should; the guest's log shows it without control characters.
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
RESET = b"\x1b[0m\x1b[?25h"  # restore colours and cursor


def attach(link: socket.socket, rest: bytes, out: TextIO, err: TextIO, note: str = "") -> str:
    """Connect the terminal and the connection; returns why it ended. RefusedError without a terminal.

    `note`: a message for the user, printed below the one on how to detach.
    """
    if not (sys.stdin.isatty() and out.isatty()):
        raise RefusedError("the guest console requires a terminal; `guest NAME log` shows its output")
    print(f"attached; {ESCAPE_NAME} detaches", *[note] * bool(note), sep="\n", file=err, flush=True)
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
                return "bypassd closed the connection"
            os.write(screen, data)
        if keys in ready:
            typed = os.read(keys, 4096)
            before, escape, _ = typed.partition(ESCAPE)
            if before:
                link.sendall(before)
            if escape or not typed:
                return "detached; the guest keeps running"
