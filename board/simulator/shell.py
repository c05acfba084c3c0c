# SPDX-License-Identifier: GPL-2.0-only
"""Commands in the board's debug shell (root on the second serial port, only with `bypass.debug=PORT`).

A command travels as base64 in lines shorter than any line editor's limit, its output comes back as base64 between
markers that the echo of what was typed cannot contain. So quotes, newlines, binary output and prompts do not matter.
"""

from __future__ import annotations

import base64
import re
import secrets
import threading
import time
from dataclasses import dataclass

from simulator.events import WaitTimeout
from simulator.serial import SerialPort

LINE = 480
RETRY_S = 2.0  # a shell that was not there yet never saw the greeting


@dataclass(frozen=True)
class Result:
    status: int
    output: str

    def __str__(self) -> str:
        return self.output


class CommandFailed(AssertionError):
    """A command in the board exited with a status other than 0."""


class DebugShell:
    """Lives as long as the Board; finds the shell again after each start of the machine (`forget`)."""

    def __init__(self, port: SerialPort) -> None:
        self._port = port
        self._lock = threading.Lock()
        self._found = False

    def forget(self) -> None:
        self._found = False

    def run(self, command: str, timeout: float = 60.0, check: bool = True) -> Result:
        """Run `command` with the board's sh; output is standard output and error together.

        Raises CommandFailed on a status other than 0 unless `check` is false, WaitTimeout after `timeout` seconds.
        What the command leaves running in the background must not expect a terminal.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            if not self._found:
                self._find(deadline)
            tag = secrets.token_hex(8)
            encoded = base64.b64encode(command.encode()).decode()
            parts = [encoded[at : at + LINE] for at in range(0, len(encoded), LINE)] or [""]
            for number, part in enumerate(parts):
                variable = part if number == 0 else f"${{BS}}{part}"
                self._port.send(f"BS={variable}; printf '%s%s\\n' {tag} :{number}\n")
                self._port.expect(f"{tag}:{number}\\b", deadline - time.monotonic())
            self._port.send(
                f'BF=/tmp/.sh$$; echo "$BS" | base64 -d >$BF; printf "%s%s\\n" {tag} :begin; '
                f"sh $BF >$BF.out 2>&1 </dev/null; BS=$?; base64 $BF.out; rm -f $BF $BF.out; "
                f'printf "%s%s%s:\\n" {tag} :end: $BS\n'
            )
            try:
                self._port.expect(f"{tag}:begin", deadline - time.monotonic())
                end = self._port.expect(rf"{tag}:end:(\d+):", deadline - time.monotonic())
            except WaitTimeout as error:
                self._port.send("\x03")
                self._found = False
                raise WaitTimeout(f"command still running after {timeout:g} s: {command!r}\n{error}") from error
        # cut out by place: a pattern that spans long output is tried from every place in it, for seconds
        begin = f"{tag}:begin"
        text = end.string[end.string.rindex(begin, 0, end.start()) + len(begin) : end.start()]
        output = base64.b64decode(re.sub(r"\s", "", text)).decode(errors="replace")
        result = Result(int(end.group(1)), output)
        if check and result.status != 0:
            raise CommandFailed(f"{command!r} ended with status {result.status}:\n{output}")
        return result

    def _find(self, deadline: float) -> None:
        while True:
            tag = secrets.token_hex(8)
            # A starting shell may lose characters of what is typed meanwhile. So: Ctrl-C out of whatever half a line
            # has begun, and no quotes, half of which would have the shell wait for the other half for ever. The
            # backslash keeps the echo from looking like the answer.
            self._port.send(f"\x03\nstty -echo 2>/dev/null; PS1=; echo {tag}\\:here\n")
            left = deadline - time.monotonic()
            try:
                self._port.expect(f"{tag}:here", min(RETRY_S, max(left, 0.01)))
            except WaitTimeout:
                if left <= RETRY_S:
                    raise
                continue
            self._found = True
            return
