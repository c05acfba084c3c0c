# SPDX-License-Identifier: GPL-2.0-only
"""Whether check-ins of bypassd prove that it works: each comes after all steps, in order, and not too soon. Pure.

A process that is alive may still do nothing: a loop that skips its steps, or that only checks in. So a check-in carries
its number, when it was made, and the steps that were carried out since the one before. One that is wrong counts as
none, and bypassd is killed for several in a row, because nothing that it asks for can be relied upon.

It is on the keeper's side of the link, and bypassd takes the names of the steps from here.
"""

from __future__ import annotations

from typing import NamedTuple

from appliance.keeper.limits import MS

STEPS = ("parts", "frames", "segments", "lease")
"""What one beat of the pulse does, in this order (supervisor/pulse.py): no part is late, frames have been counted, the
segments have been decided, the datapath's lease has been renewed."""

SPACING = 2 * MS  # bypassd checks in no sooner than this after the check-in before
EARLIEST = MS  # what comes sooner is wrong; half of it, because a clock is read before the packet is sent
MOST_WRONG = 3  # in a row


class Proof(NamedTuple):
    """What a check-in says about itself. `number`: from 1; `at`: CLOCK_MONOTONIC when its steps began."""

    number: int
    at: int
    steps: tuple[str, ...]


class Sequence:
    """The check-ins of one bypassd."""

    def __init__(self) -> None:
        self._last: Proof | None = None
        self.wrong = 0  # in a row

    def judge(self, now: int, proof: Proof | None) -> str:
        """Why a check-in proves nothing, or an empty string."""
        said = self._fault(now, proof)
        self.wrong = self.wrong + 1 if said else 0
        if proof is not None:
            self._last = proof
        return said

    def _fault(self, now: int, proof: Proof | None) -> str:
        last = self._last
        if proof is None:  # a bypassd that has never sent one is judged by its silence alone
            return "" if last is None else "it carries no sequence any more"
        if proof.steps != STEPS:
            return f"its steps were {', '.join(proof.steps) or 'none'}, not {', '.join(STEPS)}"
        if proof.at > now:
            return f"it was made {(proof.at - now) // MS} ms in the future"
        if last is None:
            return ""
        if proof.number != last.number + 1:
            return f"it is number {proof.number}, after {last.number}"
        if proof.at - last.at < EARLIEST:
            return f"it came {(proof.at - last.at) / MS:.1f} ms after the last one: too early"
        return ""
