# SPDX-License-Identifier: GPL-2.0-only
"""The console's code on a booted board, without a start of Python for each command.

A process on the board imports the console once and forks for each command; the child is what `bypass` is after its
imports. An emulated board needs more than a second for these, and tests ask hundreds of times. What tests say of the
program itself, they run as `bypass` in the board's shell.
"""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Sequence

from simulator import Board
from simulator.shell import CommandFailed, Result

FOLDER = "/run/asked"
"""On the board, in memory: gone with a reset, as the process is."""
ABSENT = 97
"""Exit status of a call: the process does not run yet."""

SERVER = f"""
import json, os, pkgutil, signal, sys, importlib, traceback
import console.commands, console.views
from console.__main__ import main
for part in (console.commands, console.views):
    for module in pkgutil.iter_modules(part.__path__, part.__name__ + "."):
        importlib.import_module(module.name)

def answer(id, argv=(), code=""):
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{FOLDER}/{{id}}.{{name}}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    status = 1
    try:
        status = main(list(argv)) if argv else (exec(code, {{}}) or 0)
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    with open(f"{FOLDER}/{{id}}", "w") as asks:
        print(status, file=asks)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
with open("{FOLDER}/pid", "w") as file:
    print(os.getpid(), file=file)
while True:
    with open("{FOLDER}/in") as requests:
        for line in requests:
            if not os.fork():
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                answer(**json.loads(line))
                os._exit(0)
"""

START = f"""
rm -rf {FOLDER}; mkdir -m 700 {FOLDER}; mkfifo {FOLDER}/in
setsid python3 -I -c {shlex.quote(SERVER)} </dev/null >{FOLDER}/log 2>&1 &
server=$!
while [ ! -s {FOLDER}/pid ]; do kill -0 $server || {{ cat {FOLDER}/log; exit 1; }}; sleep 0.1; done
"""


def command(board: Board, argv: Sequence[str], timeout: float = 60.0) -> Result:
    """Run a command of the console, as `bypass` with these arguments; what it prints as errors only if it fails."""
    return _call(board, {"argv": list(argv)}, timeout)


def code(board: Board, text: str, timeout: float = 60.0, check: bool = True) -> Result:
    """Run Python that has the console at hand; what it prints as errors only if it fails. CommandFailed: it did."""
    result = _call(board, {"code": text}, timeout)
    if check and result.status:
        raise CommandFailed(f"{text!r} ended with status {result.status}:\n{result.output}")
    return result


def _call(board: Board, request: dict[str, object], timeout: float) -> Result:
    name = secrets.token_hex(4)
    line, base = shlex.quote(json.dumps({"id": name, **request})), f"{FOLDER}/{name}"
    script = (
        f'kill -0 "$(cat {FOLDER}/pid)" || exit {ABSENT}; mkfifo {base}; echo {line} >{FOLDER}/in; '
        f"read -r status <{base}; cat {base}.out; [ $status = 0 ] || cat {base}.err; rm {base}*; exit $status"
    )
    result = board.sh(script, timeout, check=False)
    if result.status == ABSENT:
        board.sh(START)
        result = board.sh(script, timeout, check=False)
    return result
