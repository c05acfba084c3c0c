# SPDX-License-Identifier: GPL-2.0-only
"""What the links of a segment's two ports mean over time. Pure: the time is passed in.

While the relay is inline, a missing link may be caused by the cable, the neighbour, or our own port. The first two are
outside the appliance and may last; the third cuts a link that would work without us. They cannot be told apart from
here, so one link missing for longer than the configured time (or both links missing) leads to bypass, and another
attempt follows.

In bypass a port's link says nothing about the neighbours: a board may join its own two ports or leave them open. Only a
link that comes up long after the relay moved is a hint.

A link takes time to come up after the relay moved or we set the port up, and what a port reports just then is its
earlier state. So a port that has not had a link since then is given more time than one that has lost it.

When one link was lost and the loss is propagated, an attempt holds the other port down until the lost link is back;
otherwise that port's neighbour would see a path that leads nowhere for the time of each attempt.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from appliance.causes import Cause

MS = 1_000_000
SETTLE_NS = 4000 * MS
"""For this long after a move of the relay or port, a port reports its earlier state, or a link under negotiation."""
APPEAR_NS = 10_000 * MS
"""A link has this long to come up again: 1000BASE-T needs 2 to 4 s, 10GBASE-T up to 7 s."""
LOSS_NS = 200 * MS
"""A link counts as lost when it has been missing this long: long enough to see whether both are."""
BOTH_NS = 1000 * MS
"""With both links lost no frame can cross, and waiting informs no neighbour."""

Policy = Literal["propagate", "bypass", "ignore"]
Side = Literal["lan", "wan"]
SIDES: tuple[Side, Side] = ("lan", "wan")


@dataclass(frozen=True)
class Ports:
    """The two ports at one moment. `down`: the sides that we hold administratively down."""

    lan: bool
    wan: bool
    down: frozenset[Side] = frozenset()
    lan_name: str = "lan"
    wan_name: str = "wan"

    def link(self, side: Side) -> bool:
        return self.lan if side == "lan" else self.wan

    def name(self, side: Side) -> str:
        return self.lan_name if side == "lan" else self.wan_name


@dataclass(frozen=True)
class Meaning:
    """What follows from the links. `down`: the sides to hold down; `cause` and `detail`: what to report; `bypass`: go
    to bypass for it; `returned`: in bypass, a link came up by itself."""

    down: frozenset[Side] = frozenset()
    cause: Cause = Cause.HEALTHY
    detail: str = ""
    bypass: bool = False
    returned: bool = False


class Carrier:
    """The links of one segment, as long as bypassd has it."""

    def __init__(self) -> None:
        self._fresh: dict[Side, int] = {"lan": 0, "wan": 0}  # when the relay or the port was moved
        self._seen: set[Side] = set()  # sides whose link has been up since
        self._missing: dict[Side, int] = {}  # since when
        self._up: dict[Side, bool] = {"lan": True, "wan": True}
        self._suspect: Side | None = None  # the one link whose loss led to bypass
        self.deadline: int | None = None  # when time alone may change the meaning

    def moved(self, now: int, *sides: Side) -> None:
        """The relay moved, or these ports were set up."""
        for side in sides or SIDES:
            self._fresh[side] = now
            self._seen.discard(side)
            self._missing.pop(side, None)

    def look(self, now: int, ports: Ports, *, inline: bool, policy: Policy, limit: int, attempt: bool) -> Meaning:
        """Evaluate the links now.

        `limit`: one missing link leads to bypass after this time (ns); 0: never. `attempt`: the relay is inline only to
        find out whether the lost links are back; a missing link is reported from the start of the attempt.
        """
        returned = False
        for side in SIDES:
            up = ports.link(side)
            if up and now >= self._fresh[side] + SETTLE_NS:
                self._seen.add(side)
                returned |= not self._up[side]
            if up or side in ports.down:
                self._missing.pop(side, None)
            else:
                self._missing.setdefault(side, now)
            self._up[side] = up
        if not inline:
            self.deadline = None
            return Meaning(returned=returned)
        self._plan(now, limit)
        meaning = self._weigh(now, ports, policy, limit, attempt)
        if meaning.bypass:
            self._suspect = next(iter(self._missing)) if len(self._missing) == 1 else None
        elif attempt and policy == "propagate" and self._suspect and self._suspect not in self._seen:
            return replace(meaning, down=frozenset({_other(self._suspect)}))
        return meaning

    def _weigh(self, now: int, ports: Ports, policy: Policy, limit: int, attempt: bool) -> Meaning:
        lost = {side for side in self._missing if self._is_lost(now, side)}
        named = [side for side in SIDES if side in self._missing and (attempt or self._is_named(now, side))]
        if not named:
            return Meaning()
        names = " and ".join(ports.name(side) for side in named)
        if len(named) == len(SIDES):
            since = max(self._missing.values())
            over = len(lost) == len(SIDES) and now >= since + BOTH_NS
            over |= any(self._is_over(now, side, policy, limit, attempt) for side in lost)
            return Meaning(cause=Cause.LINKS_DOWN, detail=f"{names} have no link", bypass=over)
        (side,) = named
        detail = f"{names} has no link"
        if side in lost and self._is_over(now, side, policy, limit, attempt):
            return Meaning(cause=Cause.LINK_DOWN, detail=detail, bypass=True)
        alone = _other(side) not in self._missing  # or it may be that both are lost
        passed_on = policy == "propagate" and side in lost and alone
        return Meaning(frozenset({_other(side)}) if passed_on else frozenset(), Cause.LINK_DOWN, detail)

    def _is_named(self, now: int, side: Side) -> bool:
        return now >= max(self._missing[side] + LOSS_NS, self._fresh[side] + SETTLE_NS)

    def _is_lost(self, now: int, side: Side) -> bool:
        """Whether it had a link since the relay moved, or had enough time to get one."""
        return self._is_named(now, side) and (side in self._seen or now >= self._fresh[side] + APPEAR_NS)

    def _is_over(self, now: int, side: Side, policy: Policy, limit: int, attempt: bool) -> bool:
        if policy == "bypass":
            return True
        tried = attempt and side not in self._seen
        return bool(limit) and (tried or now >= self._missing[side] + limit)

    def _plan(self, now: int, limit: int) -> None:
        times = []
        for side, since in self._missing.items():
            fresh = self._fresh[side]
            times += [since + LOSS_NS, since + BOTH_NS, fresh + SETTLE_NS, fresh + APPEAR_NS]
            times += [since + limit] if limit else []
        self.deadline = min((when for when in times if when > now), default=None)


def _other(side: Side) -> Side:
    return "wan" if side == "lan" else "lan"
