# SPDX-License-Identifier: GPL-2.0-only
"""State of the appliance: status and banner, segments, transitions. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from console.render import BOLD, GREEN, PLAIN, YELLOW, Row, Style, cell, duration, fold, generic, paint
from console.views import guests, machine, relays, remotes
from console.views.common import about, alarm, by_cause, clock, columns_of, hang, rows_of


def relay_word(relay: Any) -> str:
    """The position of a relay; any position but inline is in capitals so that it cannot be overlooked."""
    word = cell(relay)
    return word if word == "inline" or not word.strip("-") else word.upper()


def _with_relay(row: Row) -> Row:
    return {**row, "relay": relay_word(row.get("relay"))}


def _when(row: Row) -> Row:
    """A transition with its time in the common format."""
    return {**row, "when": clock(row.get("when"))}


def _with_check_in(row: Row) -> Row:
    milliseconds = row.get("checked_in_ms")
    return {**row, "checked_in": None if milliseconds is None else f"{cell(milliseconds)} ms ago"}


_segment_table = columns_of("segments", "no segments are configured", [
    ("name", "SEGMENT"), ("relay", "RELAY"), ("mode", "MODE"), ("want", "TARGET"), ("lan", "LAN"), ("lan_link", "LINK"),
    ("wan", "WAN"), ("wan_link", "LINK"), ("attach", "ATTACH"), ("cause", "CAUSE"),
], _with_relay)  # fmt: skip
transitions = columns_of("transitions", "no transitions yet", [
    ("when", "WHEN"), ("what", "WHAT"), ("from", "FROM"), ("to", "TO"), ("cause", "CAUSE"), ("detail", "DETAIL"),
], _when)  # fmt: skip
_parts = columns_of("parts", "", [
    ("name", "PART"), ("state", "STATE"), ("checked_in", "LAST CHECK-IN"), ("detail", "DETAIL"),
], _with_check_in)  # fmt: skip


def segments(data: Any, style: Style = PLAIN) -> str:
    """The table, and below it how each segment handles frames and why, what its ports do not send, and why a segment is
    not inline, or inline but not healthy."""
    away = [row for row in rows_of(data, "segments") if cell(row.get("relay")) != "inline" or _is_impaired(row)]
    blocks = [_segment_table(data, style)]
    lines = [line for row in rows_of(data, "segments") for line in _frames(row)]
    if lines:
        blocks.append("\n".join(part for line in lines for part in fold(line, style.width)))
    if away:
        blocks.append("\n".join(line for row in away for why in _reasons(row) for line in fold(why, style.width)))
    return "\n\n".join(blocks)


def _is_impaired(row: Row) -> bool:
    """Whether it is inline while something outside keeps all or some frames from crossing."""
    return cell(row.get("cause")) in ("link_down", "links_down", "not_sent", "partly_sent")


def _has_news_of_frames(row: Row) -> bool:
    """Whether a port does not send frames, or that is unknown, and the cause does not already say so."""
    return bool(row.get("sent_detail")) and row.get("sent_detail") != row.get("detail")


def _frames(row: Row) -> Iterator[str]:
    """How a segment handles frames and why, which pass, and which its ports lost."""
    name = cell(row.get("name"))
    if row.get("attach_why"):
        yield f"{name}: attached by {cell(row['attach'])}: {cell(row['attach_why'])}"
    if row.get("link_local") == "rules":
        yield f"{name}: link-local control frames follow the rules"
    if row.get("dry_run"):
        yield f"{name}: dry run: its rules are counted only, and every frame goes straight to the other port"
    if row.get("longest_bytes"):
        yield f"{name}: frames of up to {cell(row['longest_bytes'])} bytes pass"
    if row.get("attach_why") and _has_news_of_frames(row):
        yield f"{name}: {cell(row['sent_detail'])}"
    if row.get("unsent"):
        yield f"{name}: frames that its ports did not send: {by_cause(row['unsent'])}"


def _reasons(row: Row) -> list[str]:
    """Everything that keeps a segment from being inline: the cause, and any further reasons."""
    also = row.get("also")
    more = [cell(text) for text in also] if isinstance(also, list) else []
    return [f"{cell(row.get('name'))}: {text}" for text in (reason(row), *more)]


def _astray(row: Row) -> list[str]:
    """A relay that is inline although it should not be: it has not moved yet, or does not follow."""
    first, *more = _reasons(row)
    return [f"{first}: its relay should be in {cell(row.get('want'))}", *more]


def banner(status: Row, style: Style = PLAIN) -> str:
    """Name, version and, impossible to miss, whether traffic is inspected."""
    rows = rows_of(status.get("segments"))
    about = [f"Throughwire {cell(status.get('version'))}"]
    if "uptime_s" in status:
        about.append(f"up {duration(status['uptime_s'])}")
    lines = [f"{paint(cell(status.get('hostname')), BOLD, style)}  {'  '.join(about)}"]
    if not rows:
        lines.append(alarm(["no segment is in service: relays are closed, traffic is not inspected"], style))
    bypassed = [row for row in rows if cell(row.get("relay")) != "inline"]
    if bypassed:
        lines.append(alarm([f"segment {why}" for row in bypassed for why in _reasons(row)], style))
    stuck = [row for row in rows if row not in bypassed and row.get("want") in ("bypass", "disconnect")]
    if stuck:
        lines.append(alarm([f"segment {why}" for row in stuck for why in _astray(row)], style, "STILL INLINE"))
    if status.get("snmp_failure"):
        lines.append(alarm([cell(status["snmp_failure"])], style, "SNMP"))
    partition = status.get("data_partition")
    if isinstance(partition, dict) and partition.get("alarm"):
        lines.append(alarm([cell(partition["alarm"])], style, "DATA PARTITION"))
    crashes = status.get("crashes")
    if isinstance(crashes, dict) and crashes.get("alarm"):
        word = "SAFE MODE" if crashes.get("mode") == "safe" else "CRASHES"
        lines.append(alarm([cell(crashes["alarm"])], style, word))
    if due := machine.due(status.get("power")):
        lines.append(alarm([f"{due}; `show reboot` says more"], style, "GOING DOWN"))
    inline = ", ".join(cell(row.get("name")) for row in rows if row not in bypassed)
    if inline:
        lines.append(f"{paint('inline', GREEN, style)}: {inline}")
    return "\n".join(lines)


def reason(row: Row) -> str:
    """A cause: its name and its description."""
    from appliance.causes import DESCRIPTION, Cause

    cause, detail = cell(row.get("cause")), cell(row.get("detail"))
    try:
        text = DESCRIPTION.get(Cause(cause), "")
    except ValueError:
        text = ""
    if detail != "-":
        text = detail
    return f"{cause} ({text})" if text else cause


def status(data: Any, style: Style = PLAIN) -> str:
    if not isinstance(data, dict):
        return generic(data, style)
    blocks = [banner(data, style)]
    shown = {
        "hostname",
        "version",
        "uptime_s",
        "idle_timeout_s",
        "state",
        "segments",
        "guests",
        "remotes",
        "serves",
        "parts",
        "config",
        "power",
        "relays",
    }
    config = data.get("config")
    if isinstance(config, dict) and config.get("errors"):
        said = [cell(error) for error in config["errors"]]
        blocks.append(alarm(said, style, "CONFIGURATION INVALID"))
    if isinstance(config, dict):
        blocks += _commits(config, style)
    for key, view in (
        ("segments", _segment_table),
        ("guests", guests.table_of_all),
        ("remotes", remotes.table_of_all),
        ("serves", remotes.table_of_served),
        ("parts", _parts),
    ):
        if rows_of(data.get(key)):
            blocks.append(view(data[key], style))
    if rows_of(data.get("relays")):
        blocks.append(relays.when_nobody_drives(data["relays"], style))
    dogs = data.get("watchdog")
    if isinstance(dogs, dict) and rows_of(dogs.get("devices")):
        blocks.append("\n".join(line for row in rows_of(dogs["devices"]) for line in fold(_watchdog(row), style.width)))
    text = "\n".join(blocks)
    rest = {key: _without_what_was_said(value, text) for key, value in data.items() if key not in shown}
    if isinstance(rest.get("supervisor"), dict):
        rest["supervisor"].pop("longest_stall", None)  # names code: for the log and --json
    if rest:
        blocks.append("\n".join(about(key, value, style) for key, value in rest.items()))
    return "\n\n".join(blocks)


def _watchdog(row: Row) -> str:
    """One watchdog device as it really is."""
    said = f"watchdog {cell(row.get('name'))} ({cell(row.get('identity'))}): {cell(row.get('timeout_ms'))} ms"
    if row.get("pretimeout_ms"):
        said += f", the kernel panics {cell(row['pretimeout_ms'])} ms before"
    if row.get("nowayout"):
        said += ", cannot be stopped"
    return f"{said}; {cell(row['note'])}" if row.get("note") else said


def _commits(config: Row, style: Style) -> list[str]:
    """A commit that awaits confirmation, or that was rolled back."""
    lines: list[str] = []
    if config.get("confirm_s") is not None:
        left = duration(config["confirm_s"])
        lines.append(f"configuration: the last commit is rolled back in {left} unless `configuration confirm`")
    if config.get("rolled_back"):
        lines.append(f"configuration: {cell(config['rolled_back'])}")
    return [paint("\n".join(hang(line, style)), YELLOW, style) for line in lines]


def _without_what_was_said(value: Any, text: str) -> Any:
    """`value` without its detail or alarm if `text` already contains it: the part or the banner shows the same."""
    if not isinstance(value, dict):
        return value
    said = [key for key in ("detail", "alarm") if len(cell(value.get(key))) > 1 and cell(value[key]) in text]
    return {key: item for key, item in value.items() if key not in said}
