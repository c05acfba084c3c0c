# SPDX-License-Identifier: GPL-2.0-only
"""Why the machine was reset, from what the last run and the hardware left. Pure.

The strongest evidence decides: the kernel's own record of a panic; then the mark of an orderly stop, which says by
whose order; then the watchdog device, if it keeps a flag over its reset (most do not); then whether memory kept its
content, which a power cut would have cleared. If there is none of that, it was most likely a power cut.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_PANIC = re.compile(r"Kernel panic - not syncing: ([^\n]*)")
_STAMP = re.compile(r"\[ *(\d+)\.\d+\]")
_HARDWARE = ("NMI: Not continuing",)
_EXPIRED = ("watchdog pretimeout event", "Software Watchdog Timer expired")  # its pre-timeout, or softdog

ORDERS: Final = ("orderly", "reboot", "poweroff")
"""How a run may say that it ends on purpose; orderly: init or a person ended bypassd, which does not know why."""

HARMLESS: Final = frozenset(("first", *ORDERS, "update", "drill", "power"))
"""Kinds that say nothing against the machine: it may go inline as soon as all is well."""


class Reset(NamedTuple):
    """Why the machine started. `kind`: first (of this data partition) | none (only bypassd was restarted) | orderly |
    reboot | poweroff | update | drill | panic | watchdog | power | unknown."""

    kind: str
    text: str


class Evidence(NamedTuple):
    """What is left of the run before."""

    same_boot: bool = False  # this boot wrote the mark
    mark: bool = False  # there was a run before
    order: str = ""  # one of ORDERS: it was ended on purpose
    by: str = ""  # who ordered that
    records: tuple[str, ...] = ()  # kernel logs of crashes, the newest first
    watchdog: str = ""  # the watchdog that says that it reset the machine
    warm: bool = False  # memory kept what was written to it
    version: str = ""  # of the run before
    now: str = ""  # the present version


def judge(text: str) -> Reset | None:
    """What a kernel log says about the reset; None: it contains no panic."""
    found = _PANIC.search(text)
    if not found:
        return None
    reason = found[1].strip().rstrip("]").strip()
    by_nmi = any(word in reason for word in _HARDWARE) or ("NMI" in reason and "unknown reason" in text)
    if by_nmi or any(word in reason for word in _EXPIRED):
        return Reset("watchdog", f"hardware watchdog: the keeper or the kernel hung ({reason})")
    return Reset("panic", f"kernel panic: {reason}")


def ran_s(text: str) -> int | None:
    """For how many seconds the machine had run at the last line of a kernel log; None: no line has a time."""
    stamps = _STAMP.findall(text)
    return int(stamps[-1]) if stamps else None


def decide(evidence: Evidence) -> Reset:
    """The cause of the last reset."""
    if evidence.same_boot:
        return Reset("none", "bypassd was restarted, the machine was not")
    for text in evidence.records:
        if found := judge(text):
            return found
    if not evidence.mark:
        return Reset("first", "first start of this data partition")
    if evidence.order:
        return _ordered(evidence)
    if evidence.watchdog:
        return Reset("watchdog", f"hardware watchdog: {evidence.watchdog} reset the machine; there is no kernel record")
    if evidence.warm:
        said = "memory kept its content, so the power was not cut, but there is neither an order nor a crash record"
        return Reset("unknown", f"{said}: reset button, firmware, or a hang that left no trace")
    return Reset("power", "the power was cut, or the board was reset externally: there is no crash record")


def _ordered(evidence: Evidence) -> Reset:
    by = f" by order of {evidence.by}" if evidence.by else ""
    if evidence.version and evidence.now and evidence.version != evidence.now:
        return Reset("update", f"started as version {evidence.now} after {evidence.version}: orderly stop{by}")
    if evidence.order == "orderly":
        return Reset("orderly", f"orderly stop or reboot{by}")
    return Reset(evidence.order, f"{evidence.order}{by}")
