# SPDX-License-Identifier: GPL-2.0-only
"""What the reset after a drill proves. Pure.

A watchdog drill is over when the machine was reset by its watchdog: the kernel's record has the keeper's line from the
moment of the last feed and the panic, so the time between is measured without a disk. A machine that panicked for
another reason has failed the drill, and its crash counts.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from appliance.drill.record import Pending, Result
from appliance.hardware.reset_cause import Reset
from appliance.keeper.feeding import UNFED

_UNFED = re.compile(r"\[ *(\d+\.\d+)\][^\n]*" + re.escape(UNFED))
_PANIC = re.compile(r"\[ *(\d+\.\d+)\][^\n]*Kernel panic - not syncing")
_NO_RECORD = ("unknown", "power")  # some boards reset without a word


class Found(NamedTuple):
    """`reset`: what the reset counts as; `result`: of the drill, if it is over; `ask`: a person knows the rest."""

    reset: Reset
    result: Result | None = None
    ask: bool = False


def judge(pending: Pending | None, last_boot: str, reset: Reset, text: str, now: float) -> Found:
    """`text`: the kernel log of the boot before, if it crashed; `now`: seconds since 1970."""
    if pending is None or pending.state != "ordered" or reset.kind == "none":
        return Found(reset)
    if pending.boot != last_boot:
        return Found(reset, _result(pending, now, False, "the machine was started again before it was over"))
    if pending.kind == "power":
        if reset.kind in _NO_RECORD:
            return Found(Reset("drill", f"power-off drill by order of {pending.by}"), ask=True)
        return Found(reset, _result(pending, now, False, f"the power was not cut: {reset.text}"))
    took = time_to_panic(text)
    if reset.kind == "watchdog":
        within = "" if took is None else f", {took:.0f} ms after its last feed"
        said = f"the watchdog reset the machine{within}"
    elif reset.kind in _NO_RECORD:
        said = "the machine was reset without a record: by its watchdog, as far as can be told"
    else:
        return Found(reset, _result(pending, now, False, f"the machine was reset by something else: {reset.text}"))
    cause = Reset("drill", f"watchdog drill by order of {pending.by}: {reset.text}")
    return Found(cause, _result(pending, now, True, said, took))


def time_to_panic(text: str) -> float | None:
    """Milliseconds from the last feed to the panic; None: the kernel log does not have both."""
    unfed, panic = _UNFED.findall(text), _PANIC.search(text)
    return None if not unfed or panic is None else (float(panic[1]) - float(unfed[-1])) * 1e3


def _result(pending: Pending, now: float, passed: bool, said: str, reset_ms: float | None = None) -> Result:
    return Result(pending.kind, "", now, pending.by, passed, said, reset_ms=reset_ms)
