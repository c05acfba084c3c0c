# SPDX-License-Identifier: GPL-2.0-only
"""When a guest's QEMU process is wanted, and what follows when it ends. Pure: times are passed in, nothing is awaited.

Beside the hop's policy (hop/hop.py), which decides about traffic, this one decides about the process: orders, starts
that fail, ends, and through restart.py the next start. It lives as long as its guest's object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.guest import restart
from appliance.health.bypass_latency import Fault
from appliance.hop.hop import Answer, Hop
from appliance.hop.lifecycle import ALIVE, HopEvent, HopState


@dataclass(frozen=True)
class ProcessEnd:
    """How a QEMU process ended. `how` = its exit status or signal, in words; `said` = its last output, one line."""

    how: str
    said: str
    answered: bool  # QEMU had started well
    since: int = 0  # when it was started (ns)
    in_order: bool = False  # the guest powered itself off
    panicked: bool = False  # QEMU had reported that the guest's kernel panicked

    @property
    def detail(self) -> str:
        """For a person."""
        return f"{self.how}: {self.said}" if self.said else self.how


class ProcessPolicy:
    """See the module. `want` is called with whether the process is wanted, `died` when it ended unexpectedly."""

    def __init__(
        self, config: model.Guest, hop: Hop, want: Callable[[bool], None], died: Callable[[Fault, str], None]
    ) -> None:
        self.config, self._hop, self._want, self._died = config, hop, want, died
        self.restarts = restart.Restarts(config.restart)
        self._start_again = False  # once it has stopped

    # Orders: of an operator, of the configuration, or of the start of bypassd

    def autostart(self, *, running: bool) -> None:
        """Start it as the configuration and the last order say. One that is `running` already is always wanted."""
        if self._hop.begin(wanted=self.config.autostart or running):
            self._want(True)

    def reconfigure(self, config: model.Guest) -> None:
        """A failed guest is started again, because a change of its configuration is how a failure is fixed."""
        fixed = self._hop.state is HopState.FAILED and config.autostart and config != self.config
        self.config, self.restarts.policy = config, config.restart
        if fixed:
            self.restarts.reset_backoff()
            self._hop.move(HopEvent.START, Cause.CONFIGURED, "its configuration was changed")
            self._want(True)

    def start(self) -> Answer:
        """Start it, or take it back into service after a drain."""
        answer = self._hop.start()
        if answer.changed:
            self.restarts.reset_backoff()
            if self._hop.state is HopState.STARTING:
                self._want(True)
        return answer

    def stop(self) -> Answer:
        """Take the traffic from it. While the hop is `stopping`, its process is to power down."""
        answer = self._hop.stop()
        if answer.changed:
            self._want(False)
        elif self._start_again:
            self._hop.order.write("stopped")
        self._start_again = False
        return answer

    def restart(self) -> Answer:
        """Stop it, and start it when it has stopped, also if that is the next bypassd. One that is down is started."""
        if self._hop.state not in ALIVE:
            return self.start()
        answer = self.stop()
        self._start_again = True
        self._hop.order.write("")
        return Answer(f"{self._hop} is being restarted", answer.changed)

    # What happens to the process

    def cannot_start(self, cause: Cause, why: str) -> None:
        """It stays failed until the cause is fixed and a start is ordered."""
        self._want(False)
        self._hop.refused(cause, why)

    def ended(self, now: int, end: ProcessEnd) -> int:
        """Stopped as ordered, failed, or started again after the time (ns) that is returned; 0: no start is due."""
        wait = self._ended(now, end)
        if self._start_again and self._hop.state is HopState.STOPPED:
            self.start()
        self._start_again = False
        return wait

    def _ended(self, now: int, end: ProcessEnd) -> int:
        hop, ordered = self._hop, self._hop.stopping
        hop.stopping = False
        if hop.state is HopState.STOPPED:
            return 0
        if hop.state is HopState.DRAINING and hop.drained_by is Cause.GUEST_ASKED and not ordered:
            # It drained itself in order to end, and is started again like any other.
            hop.cancel_drain(Cause.GUEST_EXITED)
        if hop.state is HopState.DRAINING:
            in_order = ordered or end.in_order
            if not in_order:
                self._report_death(end)
            self._want(False)
            hop.drained(Cause.OPERATOR if in_order else Cause.GUEST_EXITED, end.detail)
            return 0
        if not end.answered and end.how.startswith("exited"):
            # QEMU itself gave up before it answered: the same arguments would be refused again.
            self._want(False)
            hop.move(HopEvent.REFUSED, Cause.QEMU_REFUSED, end.detail)
            return 0
        self._report_death(end)
        return self._next_start(now, end)

    def _report_death(self, end: ProcessEnd) -> None:
        # A panic became an incident when QEMU reported it; a guest that powered itself off did not die.
        if end.answered and not end.in_order and not end.panicked:
            self._died(Fault(Cause.GUEST_EXITED, self._hop.last_proof, self._hop.ended_at), end.detail)

    def _next_start(self, now: int, end: ProcessEnd) -> int:
        hop, after = self._hop, self.restarts.ended(now, end.since, in_order=end.in_order)
        policy = f"restart.policy = {self.config.restart.policy}"
        if isinstance(after, restart.Again):
            again = f"{end.detail}; started again in {after.after / 1e9:.1f} s"
            hop.move(HopEvent.ENDED, Cause.GUEST_EXITED, again)
            return after.after
        self._want(False)
        if hop.state is not HopState.STARTING:
            hop.move(HopEvent.ENDED, Cause.GUEST_EXITED, end.detail)
        if isinstance(after, restart.Rest):
            hop.move(HopEvent.REST, Cause.GUEST_EXITED, f"it powered itself off, and {policy}")
        else:
            cause = Cause.CRASH_LOOP if after.loop else Cause.GUEST_EXITED
            hop.move(HopEvent.GIVE_UP, cause, end.detail if after.loop else f"{end.detail}; {policy}")
        return 0
