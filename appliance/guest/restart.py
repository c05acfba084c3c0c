# SPDX-License-Identifier: GPL-2.0-only
"""Whether and when a guest is restarted after its process ended: restart policy, back-off, crash loop. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from appliance.config.schema import model


@dataclass(frozen=True)
class Again:
    """Restart it, `after` nanoseconds from now."""

    after: int


@dataclass(frozen=True)
class Rest:
    """Leave it stopped: it powered itself off, and the policy allows that."""


@dataclass(frozen=True)
class GiveUp:
    """Leave it failed. `loop`: because it ended too often; otherwise because of the policy."""

    loop: bool


@dataclass
class Restarts:
    """When to restart a guest after it ended. Times in nanoseconds of CLOCK_MONOTONIC."""

    policy: model.Restart = field(default_factory=model.Restart)
    count: int = 0
    _short_runs: deque[int] = field(default_factory=deque)

    def ended(self, now: int, ran_since: int, *, in_order: bool = False) -> Again | Rest | GiveUp:
        """What follows when a guest ends. `in_order`: it powered itself off. Each wait is twice the previous one."""
        if self.policy.policy == "on-failure" and in_order:
            return Rest()
        if self.policy.policy == "never":
            return Rest() if in_order else GiveUp(loop=False)
        if now - ran_since >= self.policy.steady:
            self._short_runs.clear()
        self._short_runs.append(now)
        if len(self._short_runs) >= self.policy.attempts:
            return GiveUp(loop=True)
        self.count += 1
        return Again(min(self.policy.first << min(len(self._short_runs) - 1, 40), self.policy.longest))

    def reset_backoff(self) -> None:
        """Forget earlier ends, because an operator started the guest."""
        self._short_runs.clear()
