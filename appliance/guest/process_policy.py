# SPDX-License-Identifier: GPL-2.0-only
"""When a guest's QEMU process should run, and what follows when it ends. Times are passed in, nothing is
awaited.

The hop's policy (hop/hop.py) decides about traffic; this one decides about the process: orders, failed starts, the end
of the process, and (in restart.py) the next start. It lives as long as its guest's object.
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
    """How a QEMU process ended. `how`: its exit status or signal, as text; `said`: its last output, on one line."""

    how: str
    said: str
    answered: bool  # QEMU had started and answered
    since: int = 0  # when it was started (ns)
    in_order: bool = False  # the guest powered itself off
    panicked: bool = False  # QEMU had reported that the guest's kernel panicked

    @property
    def detail(self) -> str:
        """The end as text for display."""
        return f"{self.how}: {self.said}" if self.said else self.how


class ProcessPolicy:
    """See the module. `want` is called with whether the process should run, `died` when it ended unexpectedly."""

    def __init__(
        self, config: model.Guest, hop: Hop, want: Callable[[bool], None], died: Callable[[Fault, str], None]
    ) -> None:
        self.config, self._hop, self._want, self._died = config, hop, want, died
        self.restarts = restart.Restarts(config.restart)
        self._start_again = False  # once it has stopped

    # Orders: from an operator, the configuration, or the start of bypassd

    def autostart(self, *, running: bool) -> None:
        """Start it as the configuration and the last order say. One that is already `running` always stays."""
        if self._hop.begin(wanted=self.config.autostart or running):
            self._want(True)

    def reconfigure(self, config: model.Guest) -> None:
        """Use `config`. A failed guest is restarted, because the change of its configuration may be the fix."""
        fixed = self._hop.state is HopState.FAILED and config.autostart and config != self.config
        self.config, self.restarts.policy = config, config.restart
        if fixed:
            self.restarts.reset_backoff()
            self._hop.move(HopEvent.START, Cause.CONFIGURED, "its configuration was changed")
            self._want(True)

    def start(self) -> Answer:
        """Start it, or put it back into service after a drain."""
        answer = self._hop.start()
        if answer.changed:
            self.restarts.reset_backoff()
            if self._hop.state is HopState.STARTING:
                self._want(True)
        return answer

    def stop(self) -> Answer:
        """Take its traffic away. While the hop is `stopping`, its process should power down."""
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
        """It cannot be started: it stays failed until the cause is fixed and a start is ordered."""
        self._want(False)
        self._hop.refused(cause, why)

    def ended(self, now: int, end: ProcessEnd) -> int:
        """The process ended: it was stopped by order, has failed, or is restarted after the returned time.

        In ns; 0: no start is due.
        """
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
            # It drained itself in order to end, and is restarted like any other.
            hop.cancel_drain(Cause.GUEST_EXITED)
        if hop.state is HopState.DRAINING:
            in_order = ordered or end.in_order
            if not in_order:
                self._report_death(end)
            self._want(False)
            hop.drained(Cause.OPERATOR if in_order else Cause.GUEST_EXITED, end.detail)
            return 0
        if not end.answered and end.how.startswith("exited"):
            # QEMU exited before it answered: it would refuse the same arguments again.
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
            again = f"{end.detail}; restarting in {after.after / 1e9:.1f} s"
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
