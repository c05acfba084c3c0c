# SPDX-License-Identifier: GPL-2.0-only
"""Commands that work without the daemon: check, explain, help, exit.

Each function imports what it needs itself: one-shot commands must start quickly.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from appliance.counted import counted
from appliance.errors import ConfigError, RefusedError
from console.line.outcome import GOOD, REFUSED, Outcome
from console.line.parse import Parsed, UsageError
from console.line.pipes import pipe
from console.session import Context
from console.tty import style_of
from console.views.common import caret

if TYPE_CHECKING:
    from appliance.config.schema.model import Config

STDIN = "-"
_SILENT = frozenset({"defined", "stopped", "failed"})  # states of a guest that prints nothing


def readable(file: str) -> Path | IO[bytes]:
    """The file to read; - is standard input, as everywhere. RefusedError: that is a terminal."""
    if file != STDIN:
        return Path(file)
    if sys.stdin.isatty():
        raise RefusedError("standard input is a terminal; redirect it: < FILE, also over SSH")
    return sys.stdin.buffer  # open already: over SSH a user may not open /dev/stdin, which is root's


def check(parsed: Parsed, context: Context) -> Outcome:
    """`check FILE`: every error as FILE: where: what, with exit code 1; else a summary and the effect on traffic.

    The effect on traffic is reported as by `commit check`, and does not change the exit code.
    """
    from appliance.config.check import load
    from appliance.config.check.finding import facts

    file = parsed.args["FILE"]
    config = None
    try:
        config, errors = load.parse(load.read_text(readable(file)), file)
    except ConfigError as error:
        errors = [error]
    if _wants_json(parsed):
        found = [facts(error) for error in errors]
        meaning = _meaning(config) if config is not None else []
        data = {"file": file, "valid": not errors, "errors": found, "lint": meaning}
        return Outcome(data, code=REFUSED if errors else GOOD)
    if config is None:
        return Outcome([line for error in errors for line in _lines(error, context)], "lines", REFUSED)
    counts = ((len(getattr(config, kind)), kind) for kind in ("segment", "guest", "group", "rule"))
    text = ", ".join(counted(count, kind) for count, kind in counts)
    said = f"{file}: valid: {text}"
    return Outcome({"message": said, "lint": _meaning(config)}, "config-found")


def _meaning(config: Config) -> list[dict[str, object]]:
    """The effect on traffic, and the kernel's verdict if it can be asked."""
    from appliance.config.check import lint, trial_load

    return [finding._asdict() for finding in (*lint.lint(config), *trial_load.slow_rules(config))]


def _lines(error: ConfigError, context: Context) -> list[str]:
    """One line per error; on a terminal also the filter with a caret below it."""
    return [str(error), *caret(error.pointer, context.style if context.style.width else style_of(context.out))]


def explain(parsed: Parsed, context: Context) -> Outcome:
    """`explain`: run frames of a pcap file through the datapath or its model."""
    as_json = _wants_json(parsed)
    import msgspec

    from appliance.config.check.load import loads, read_text

    file, frames_file = parsed.options["--config"][0], parsed.options["--pcap"][0]
    if file == frames_file == STDIN:
        raise UsageError("--config and --pcap cannot both be standard input")
    config = loads(read_text(readable(file)), file)
    names = [guest.name for guest in config.guest] + [remote.name for remote in config.remote]
    for down in parsed.options.get("--down", []):
        if down not in names:
            raise RefusedError(f'--down: no guest is named "{down}"; guests: {", ".join(names) or "none"}')
    try:
        from appliance.steering.explain import explain as engine
    except ImportError as error:
        raise RefusedError(f"this build does not include explain: {error}") from error
    frames = engine.explain(
        config,
        readable(frames_file),
        "lan" if parsed.options["--in"][0] == "lan" else "wan",
        segment=_segment(parsed, config),
        backend=parsed.options.get("--backend", [""])[0],
        down=parsed.options.get("--down", []),
        words=not as_json,
        warn=lambda text: context.say(f"warning: {text}"),
    )
    rows = (msgspec.structs.asdict(frame) for frame in frames)
    return _as_they_come(_short(rows) if as_json else rows, parsed, context)


def _as_they_come(rows: Iterator[dict[str, Any]], parsed: Parsed, context: Context) -> Outcome:
    """Write each row as soon as it exists; if a pager or a pipe needs all rows, those from before an error are shown
    before it."""
    from appliance.frames.capture_reader import CaptureError

    shown = Outcome([], "explain", json_lines=True)
    if not parsed.pipes and not context.style.width:
        as_json = _wants_json(parsed)
        nothing = True
        for row in rows:
            nothing = False
            context.out.write(pipe(shown._replace(data=[row]), (), as_json, context.style) + "\n")
            context.out.flush()
        return shown._replace(view="explain" if nothing else "lines")
    made: list[dict[str, Any]] = []
    try:
        made.extend(rows)  # keeps the rows from before an error
    except CaptureError:
        if made:
            context.page(pipe(shown._replace(data=made), parsed.pipes, _wants_json(parsed), context.style))
        raise
    return shown._replace(data=made)


def explain_live(parsed: Parsed, context: Context) -> Outcome:
    """`explain --live`: frames of a given flow, or of a pcap file, through the running datapath."""
    from appliance.frames import capture_reader
    from appliance.frames.builder import MAX_FRAMES, frame_of

    if "--pcap" in parsed.options:
        frames = [frame.whole for frame in capture_reader.read(readable(parsed.options["--pcap"][0]))]
    else:
        frames = [frame_of(*(parsed.args[name] for name in ("PROTOCOL", "SOURCE", "DESTINATION")))]
    params: dict[str, object] = {"in": parsed.options.get("--in", ["lan"])[0]}
    if "--segment" in parsed.options:
        params["segment"] = parsed.options["--segment"][0]
    rows: list[dict[str, object]] = []
    for first in range(0, len(frames), MAX_FRAMES):
        some = [frame.hex() for frame in frames[first : first + MAX_FRAMES]]
        found = context.client.call("frames.explain", {**params, "frames": some}, 30.0)
        rows += [{**row, "frame": first + row["frame"]} for row in found]
    if _wants_json(parsed):
        rows = list(_short(rows))
    return Outcome(rows, "explain", json_lines=True)


def _short(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows for scripts, without the reasons, which are sentences for display."""
    return ({key: row[key] for key in ("frame", "rule", "hops", "verdict")} for row in rows)


def _wants_json(parsed: Parsed) -> bool:
    return "--json" in parsed.options or any(pipe.command.words[0] == "json" for pipe in parsed.pipes)


def _segment(parsed: Parsed, config: Config) -> str:
    """The segment on which the frames arrive: the named one, or the only one."""
    names = [segment.name for segment in config.segment]
    asked: str = parsed.options.get("--segment", [""])[0]
    if asked and asked not in names:
        raise RefusedError(f'--segment: no segment is named "{asked}"; segments: {", ".join(names) or "none"}')
    if not asked and len(names) > 1:
        raise UsageError(f"missing option --segment: the configuration has several: {', '.join(names)}")
    return asked or (names[0] if names else "")


def console(parsed: Parsed, context: Context) -> Outcome:
    """`guest NAME console`: the guest's serial line, until the escape key."""
    from console.commands.guest_console import attach

    name = parsed.args["NAME"]
    told, link, rest = context.client.take_over("guest.console", {"name": name})
    state = told["state"]
    note = f"guest {name} is {state}: its output appears once it runs" if state in _SILENT else ""
    with link:
        return Outcome([attach(link, rest, context.out, context.err, note)], "lines")


def import_(parsed: Parsed, context: Context) -> Outcome:
    """`guest import FILE --name N`: copy an image to the appliance; `-` is standard input."""
    from console.commands.image_import import import_image

    options: dict[str, object] = {"replace": True} if "--replace" in parsed.options else {}
    options |= {key: parsed.options[f"--{key}"][0] for key in ("sha256", "kind") if f"--{key}" in parsed.options}
    name = parsed.options["--name"][0]
    job = import_image(context, parsed.args["FILE"], name, options)
    if "--json" in parsed.options:
        return Outcome(job)
    checked = "SHA-256 as given" if job.get("verified") else f"SHA-256 {job.get('sha256')}"
    text = f"image {name} imported: {job.get('format')}, {int(job.get('size', 0)) / (1 << 20):.1f} MiB, {checked}"
    return Outcome({"message": text}, "done")


def help(parsed: Parsed, context: Context) -> Outcome:
    """`help [WORDS]`: commands and their meaning."""
    from console.line import manual

    words, columns = parsed.args.get("WORDS", ""), 0 if parsed.pipes else context.style.width
    lines = manual.commands(words, columns)
    if not lines:
        raise UsageError(f'no command starts with "{words}"')
    return Outcome(lines if words else [*lines, "", *manual.around(columns)], "lines")


def exit(_: Parsed, context: Context) -> Outcome:
    """`exit`: end the session; the appliance is not affected."""
    context.ended = True
    return Outcome([], "lines")
