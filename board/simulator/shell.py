# SPDX-License-Identifier: GPL-2.0-only
"""Runs commands in the board's debug shell (root on the second serial port, only with `bypass.debug=PORT`).

A command is sent as base64 in lines shorter than any line editor's limit; its output comes back as base64 between
markers that the echo of the input cannot contain. So quotes, newlines, binary output and prompts do not matter.
"""

from __future__ import annotations

import base64
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from simulator.events import WaitTimeout
from simulator.serial import SerialPort

LINE = 480
RETRY_S = 2.0  # greet again after this long: a shell that had not started yet did not see the first greeting
REPEATS = 3
PROMPT = r"(?:^|[\r\n])[^\s:]*# "
"""The prompt of a shell that has just started; in the shell that we use it is switched off (`_find`)."""


@dataclass(frozen=True)
class Result:
    status: int
    output: str

    def __str__(self) -> str:
        return self.output


class CommandFailed(AssertionError):
    """A command in the board exited with a status other than 0."""


class ShellLost(AssertionError):
    """The board's shell ended, and init started another; `begun`: the command was already running."""

    def __init__(self, text: str, begun: bool) -> None:
        super().__init__(text)
        self.begun = begun


class DebugShell:
    """Lives as long as the Board; finds the shell again after each start of the machine (`forget`).

    The board's shell may end unexpectedly (the kernel kills it, or an emulated processor fails): `on_lost` is then
    called with the kernel's last lines, and a command that had not begun is run in the next shell.
    """

    def __init__(self, port: SerialPort, on_lost: Callable[[str], None] = lambda _: None) -> None:
        self._port = port
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._found = False

    def forget(self) -> None:
        self._found = False

    def run(self, command: str, timeout: float = 60.0, check: bool = True) -> Result:
        """Run `command` with the board's sh; the output is standard output and standard error together.

        Raises CommandFailed on a status other than 0 unless `check` is false, WaitTimeout after `timeout` seconds,
        ShellLost if the shell ended while the command ran. Background processes of the command must not expect a
        terminal.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            for repeats_left in reversed(range(REPEATS)):
                if not self._found:
                    self._find(deadline)
                try:
                    result = self._once(command, deadline, timeout)
                    break
                except ShellLost as error:
                    self._found = False
                    self._on_lost(f"{error}; the kernel's last lines:\n{self._kernel_log(deadline, timeout)}")
                    if error.begun or not repeats_left:
                        raise
        if check and result.status != 0:
            raise CommandFailed(f"{command!r} ended with status {result.status}:\n{result.output}")
        return result

    def _once(self, command: str, deadline: float, timeout: float) -> Result:
        """Run one command in the shell that was found."""
        tag = secrets.token_hex(8)
        encoded = base64.b64encode(command.encode()).decode()
        parts = [encoded[at : at + LINE] for at in range(0, len(encoded), LINE)] or [""]
        try:
            for number, part in enumerate(parts):
                variable = part if number == 0 else f"${{BS}}{part}"
                self._port.send(f"BS={variable}; printf '%s%s\\n' {tag} :{number}\n")
                self._answer(f"{tag}:{number}\\b", deadline, command, begun=False)
            self._port.send(
                f'BF=/tmp/.sh$$; echo "$BS" | base64 -d >$BF; printf "%s%s\\n" {tag} :begin; '
                f"sh $BF >$BF.out 2>&1 </dev/null; BS=$?; base64 $BF.out; rm -f $BF $BF.out; "
                f'printf "%s%s%s:\\n" {tag} :end: $BS\n'
            )
            self._answer(f"{tag}:begin", deadline, command, begun=False)
            end = self._answer(rf"{tag}:end:(\d+):", deadline, command, begun=True)
        except WaitTimeout as error:
            self._port.send("\x03")
            self._found = False
            raise WaitTimeout(f"command still running after {timeout:g} s: {command!r}\n{error}") from error
        # cut out by position: a pattern that spans long output would be tried at every position in it, for seconds
        begin = f"{tag}:begin"
        text = end.string[end.string.rindex(begin, 0, end.start()) + len(begin) : end.start()]
        output = base64.b64decode(re.sub(r"\s", "", text)).decode(errors="replace")
        return Result(int(end.group(1)), output)

    def _answer(self, pattern: str, deadline: float, command: str, *, begun: bool) -> re.Match[str]:
        """Wait for a marker. ShellLost if a new shell's prompt appears instead."""
        found = self._port.expect(f"{pattern}|(?P<prompt>{PROMPT})", deadline - time.monotonic())
        if found["prompt"] is not None:
            raise ShellLost(f"the board's shell ended {'in' if begun else 'before'} {command!r}", begun)
        return found

    def _kernel_log(self, deadline: float, timeout: float) -> str:
        """The kernel's last lines, for the report; or the error, if the next shell ends as well."""
        try:
            self._find(deadline)
            return self._once("dmesg | tail -n 40", deadline, timeout).output
        except (ShellLost, WaitTimeout) as error:
            self._found = False
            return str(error)

    def _find(self, deadline: float) -> None:
        while True:
            tag = secrets.token_hex(8)
            # A starting shell may lose some of the input. So Ctrl-C ends a partial line, and there are no quotes,
            # because if one of a pair were lost, the shell would wait for it for ever. The backslash makes the echo
            # differ from the answer.
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
