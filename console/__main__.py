# SPDX-License-Identifier: GPL-2.0-only
"""`bypass`: the shell without arguments, one command with arguments. Also the login shell of the appliance.

SSH passes a command as `bypass -c "show status"`. Its output has no colour and is not folded, unless `--pretty` comes
first. If standard input is not a terminal, it is a script: its commands run
one by one.
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import TextIO

from appliance.paths import Paths
from console.client import Client
from console.execute import help_text, quiet_broken_pipe, run_line, run_tokens
from console.line.outcome import GOOD, INTERNAL, USAGE
from console.line.parse import Token
from console.render import PLAIN
from console.session import Context
from console.tty import style_of

PRETTY = "--pretty"
INTERRUPTED = 130  # a shell's exit code after Ctrl-C


def main(argv: list[str] | None = None) -> int:
    """The console script; returns the exit code (console/README.md lists them)."""
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except BrokenPipeError:
        quiet_broken_pipe()
        return GOOD
    except KeyboardInterrupt:
        return INTERRUPTED


def _main(args: list[str]) -> int:
    path, pretty = "", False
    while args and args[0].startswith("-"):
        option, *args = args
        if option == "--socket" and args:
            path, *args = args
        elif option == "-c" and len(args) == 1:
            line = args[0].strip()
            bare = line.removeprefix(PRETTY).strip()
            return run_line(bare, _context(path, pretty=pretty or bare != line))
        elif option == PRETTY:
            pretty = True
        elif option in ("-h", "--help"):
            args = ["help"]
        elif option == "--version":
            from appliance import __version__

            print(f"bypass {__version__}")
            return GOOD
        elif option in ("-l", "--login"):
            continue
        else:
            print(f"usage: unknown option {option}; `bypass help` lists the commands", file=sys.stderr)
            return USAGE
    if args:
        return _one_shot(args, _context(path, pretty=pretty))
    if not sys.stdin.isatty():
        return run_script(sys.stdin, _context(path, pretty=pretty))
    return _session(_context(path, pretty=True))


def _session(context: Context) -> int:
    """The shell. Until it takes over, Ctrl-C is ignored: it never ends a session, nor do Ctrl-\\ and Ctrl-Z."""
    import signal

    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_IGN)
    if os.environ.get("BYPASS_SERIAL"):
        from console.terminal.login import serve

        serve(context)
        offered = Paths().setup_offered
        if not offered.exists():
            from console.commands.setup import offer

            offer(context, offered)
    elif not os.environ.get("BYPASS_GREETED"):
        from console.terminal.banner import greet

        greet(context)
    from console.terminal.shell import Shell  # slow to import: after the greeting

    return Shell(context).run()


def _context(path: str, *, pretty: bool) -> Context:
    """`pretty`: colour and folded lines as the terminal has them; one-shot output is for programs on a terminal too."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name that the terminal cannot display must not cause a failure
    return Context(Client(path), sys.stdout, sys.stderr, style_of(sys.stdout) if pretty else PLAIN)


def _one_shot(args: list[str], context: Context) -> int:
    if args[-1] == "?":
        print(help_text("".join(f"{arg} " for arg in args[:-1]), context))
        return GOOD
    # the calling shell has split and unquoted the line already; each of its arguments is one word here
    return run_tokens([Token(arg) for arg in args], context)


def run_script(lines: TextIO, context: Context) -> int:
    """Run all commands, one per line; the exit code of the last one that failed, else 0."""
    code = GOOD
    for line in lines:
        try:
            code = run_line(line, context) or code
        except UnicodeDecodeError:
            code = INTERNAL
        if context.ended:
            break
    return code


if __name__ == "__main__":
    sys.exit(main())
