# SPDX-License-Identifier: GPL-2.0-only
"""What the keeper's rules share: the time of the step, what it orders, and what is due when."""

from __future__ import annotations

from appliance.keeper.messages import Action


class Agenda:
    """One per core. The rules get it with each call and keep no reference to it."""

    __slots__ = ("actions", "due", "now", "stopping")

    def __init__(self) -> None:
        self.now = 0  # the time of this step
        self.actions: list[Action] = []  # that this step orders, in this order
        self.due: dict[str, int] = {}  # what is due when: spawn, watchdog, feed, verify, and of a relay: see Relays.due
        self.stopping = False  # an orderly stop: nothing is restarted or retried

    def do(self, action: Action) -> None:
        """Order an action."""
        self.actions.append(action)
