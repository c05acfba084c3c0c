# SPDX-License-Identifier: GPL-2.0-only
"""One hop, either a guest or a remote: its state, lease, drain, falls, and the operator's order.

Policy between two protocols: the datapath's leases (`HopLeases`), and the owner (`HopOwner`), which alone knows what
the hop is made of, starts and stops it, and records its moves. Times are passed in, in nanoseconds of CLOCK_MONOTONIC.
A hop lives as long as bypassd; its lease and its run folder live longer. Falls and the operator's order, kept in that
folder, are all that it reads and writes itself.

On evidence against the hop, its lease is revoked before anything is recorded or decided: traffic first.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from appliance.causes import Cause
from appliance.errors import RefusedError
from appliance.health.bypass_latency import BypassLatency, Fault
from appliance.health.lease import Lease, Leases
from appliance.health.verdict import Available, Decision, Overloaded, Relieved, Unavailable, Verdict
from appliance.hop import lifecycle
from appliance.hop.fall_history import PersistentHistory
from appliance.hop.lifecycle import SERVING, HopEvent, HopState
from appliance.hop.operator_order import OperatorOrder

MINUTE_NS = 60_000_000_000
PROOF_NS = 2 * MINUTE_NS
"""A hop that has been running for this long without passing its checks needs somebody to look at it."""
_STILL_COMING = frozenset({Cause.PROVING, Cause.GUEST_RESET})  # other causes already say what is wrong


class HopLeases(Leases, Protocol):
    """The datapath's interface for hops (steering/kernel/leases.py)."""

    @property
    def end_with_processes(self) -> bool:
        """Whether the kernel ends leases by itself when a process dies."""
        ...

    def tie(self, hop: str, threads: Iterable[int]) -> object:
        """Have the kernel end the lease with the first of these threads to exit."""
        ...

    def untie(self, hop: str) -> object:
        """The process has ended: renewals count again from now on."""
        ...

    def ended(self, hop: str) -> int:
        """When the kernel saw the process end (ns); 0 = it did not."""
        ...

    def set_draining(self, hop: str, on: bool) -> object:
        """While on, new flows take another path; established ones stay."""
        ...

    def available(self, hop: str, now_ns: int) -> bool:
        """Whether it may have frames."""
        ...

    def first_skip(self, hop: str) -> int:
        """When the first frame bypassed the hop after it lost its lease (ns); 0 = none yet."""
        ...


class HopOwner(Protocol):
    """Who runs the hop. All calls come from the event loop and return at once."""

    def on_move(self, old: HopState) -> None:
        """The hop moved from state `old`; `state`, `cause` and `detail` are the new ones."""

    def on_failed(self, fault: Fault, why: str) -> None:
        """A check failed while the hop had traffic. Its lease has been revoked already."""

    def on_measured(self, fault: Fault, at_most: int | None) -> None:
        """The first frame bypassed the hop, `at_most` ns after it was last known to work (None: unknown)."""


class Answer(NamedTuple):
    """The effect of an order: a sentence for the operator, and whether anything changed."""

    said: str
    changed: bool = True


class Hop:
    """See the module. `kind` is "guest" or "remote"; `folder` is the hop's run folder, which need not exist."""

    def __init__(self, kind: str, name: str, folder: Path, *, leases: HopLeases, owner: HopOwner, now: int) -> None:
        self.kind, self.name = kind, name
        self._leases, self._owner = leases, owner
        self.state, self.cause, self.detail = HopState.DEFINED, Cause.NONE, ""
        self.lease = Lease(leases, name)
        self.history = PersistentHistory.load(folder, now)
        self.bypass_latency = BypassLatency()
        self.order = OperatorOrder(folder)
        self.drained_by = Cause.OPERATOR  # while it drains: who requested it
        self.stopping = False  # it was told to stop and has not ended yet
        self.ended_at = 0  # when it last ended (ns)
        self.last_verdict: Verdict | None = None  # of its last run
        self.last_proof: int | None = None  # ... and when that run was last known to work (ns)
        self._ill = False  # a check has failed since the drain began
        self._proving: int | None = None  # since when `look` has found it proving (ns)
        self._complained = False  # that this takes too long

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def move(self, event: HopEvent, cause: Cause, detail: str = "") -> None:
        """Take a move of the table; IllegalMoveError if there is none."""
        old, self.state = self.state, lifecycle.move(self.state, event)
        self.cause, self.detail = cause, detail
        self._owner.on_move(old)

    def can(self, event: HopEvent) -> bool:
        """Whether the table allows this move now."""
        return lifecycle.allowed(self.state, event)

    @property
    def serves(self) -> bool:
        """Whether it has traffic to lose: all of it, or the established flows of a drain."""
        return self.state in SERVING or (self._keeps_flows and not self._ill)

    @property
    def _keeps_flows(self) -> bool:
        return self.state is HopState.DRAINING and not self.stopping

    # Orders: of an operator, of the hop itself, or of the start of bypassd

    def begin(self, *, wanted: bool) -> bool:
        """bypassd starts: returns whether to start the hop. `wanted` counts where no order says otherwise."""
        ordered = self.order.read()
        if ordered == "stopped":
            self.move(HopEvent.STOP, Cause.OPERATOR)
            return False
        if wanted or ordered == "draining":
            self.move(HopEvent.START, Cause.STARTING)
            return True
        return False

    def start(self) -> Answer:
        """Start it, or cancel its drain. RefusedError while it is being stopped."""
        if self.stopping:
            raise RefusedError(f"{self} is being stopped: start it again when it has stopped")
        if not self.can(HopEvent.START):
            return Answer(f"{self} is already {self.state.value}", False)
        self.order.write("")
        if self.state is HopState.DRAINING:
            self.cancel_drain(Cause.OPERATOR)
            return Answer(f"{self} is taken back into service")
        self.move(HopEvent.START, Cause.OPERATOR)
        return Answer(f"{self} is being started")

    def drain(self, by: Cause) -> Answer:
        """Send it no new flows; established ones stay. RefusedError unless it is running."""
        if self.state is HopState.DRAINING:
            return Answer(f"{self} is already draining", False)
        if not self.can(HopEvent.DRAIN):
            raise RefusedError(f"{self} is {self.state.value}: only a running {self.kind} can be drained")
        self._drain(by)
        if by is Cause.OPERATOR:
            self.order.write("draining")
        self.move(HopEvent.DRAIN, by)
        return Answer(f"{self} is draining: established flows stay, new ones take another path")

    def _drain(self, by: Cause) -> None:
        self._leases.set_draining(self.name, True)
        self.drained_by, self._ill = by, False

    def cancel_drain(self, cause: Cause) -> None:
        """Send it new flows again, once it has passed its checks."""
        self._leases.set_draining(self.name, False)
        self.move(HopEvent.START, cause)

    def stop(self) -> Answer:
        """Take it out of service; while it then drains, its owner stops it."""
        if self.state is HopState.STOPPED:
            return Answer(f"{self} is already stopped", False)
        if self.stopping:
            return Answer(f"{self} is already being stopped", False)
        self.order.write("stopped")
        self.lease.revoke()
        self.move(HopEvent.STOP, Cause.OPERATOR)
        self.stopping = self.state is HopState.DRAINING
        return Answer(f"{self} is being stopped" if self.stopping else f"{self} is stopped")

    # Events

    def refused(self, cause: Cause, why: str) -> None:
        """It cannot be started: it stays failed until a new order, unless it was stopped meanwhile."""
        self.lease.revoke()
        if self.can(HopEvent.REFUSED):
            self.move(HopEvent.REFUSED, cause, why)

    def running(self, notes: str) -> None:
        """It runs and answers: now it must pass its checks. A drain that an operator ordered continues."""
        self.move(HopEvent.RUNNING, Cause.PROVING, notes)
        if self.order.read() == "draining":
            self._drain(Cause.OPERATOR)
            self.move(HopEvent.DRAIN, Cause.OPERATOR)

    def gone(self, now: int, cause: Cause, verdict: Verdict | None) -> None:
        """Its process or tunnel, which `verdict` judged, is gone: revoke the lease before anything else.

        The time of the end is the kernel's, if the kernel saw it and has ended the lease by itself.
        """
        self.lease.revoke()
        seen = self._leases.ended(self.name)
        self._leases.untie(self.name)
        if verdict is None:
            return
        self.ended_at = seen or now
        self.last_verdict, self.last_proof = verdict, verdict.proof
        if self.serves:
            self.bypass_latency.fell(Fault(cause, self.last_proof, self.ended_at))

    def drained(self, cause: Cause, detail: str) -> None:
        """It ended while it was draining: it stays stopped."""
        self._leases.set_draining(self.name, False)
        self.order.write("stopped")
        self.move(HopEvent.ENDED, cause, detail)

    def restarted(self, cause: Cause, detail: str) -> None:
        """It restarted by itself: it must pass its checks again. A drain that it requested itself is over."""
        self.lease.revoke()
        self._ill = False
        if self.state is HopState.DRAINING and self.drained_by is Cause.GUEST_ASKED:
            self.cancel_drain(cause)
        else:
            self.move(HopEvent.RESET, cause, detail)

    def explain(self, cause: Cause, detail: str) -> None:
        """Why it has no traffic is known better now than when it fell. Only while it must pass its checks."""
        if self.state in (HopState.PROVING, HopState.SUSPECT) and (cause, detail) != (self.cause, self.detail):
            self.cause, self.detail = cause, detail
            self._owner.on_move(self.state)

    def look(self, now: int) -> None:
        """Often, while it runs: measure its bypass, and say once when it takes too long to pass its checks."""
        self.measure()
        if self.state is not HopState.PROVING:
            self._proving, self._complained = None, False
        elif self._proving is None:
            self._proving = now
        elif now - self._proving >= PROOF_NS and not self._complained and self.cause in _STILL_COMING:
            self._complained = True
            self.explain(Cause.NOT_PROVED, f"for {PROOF_NS // MINUTE_NS} min, last: {self.cause}")

    def prove_again(self, why: str) -> None:
        """Its checks changed. The lease continues; the first good answers to the new checks renew it."""
        if self.state in SERVING:
            self.move(HopEvent.FELL, Cause.PROVING, why)

    def on_decision(self, now: int, decision: Decision) -> None:
        """Act on a decision of its checks. Only evidence renews the lease, in the states that have one."""
        match decision:
            case Available(until):
                if self.state in (HopState.PROVING, HopState.SUSPECT):
                    self._back(Cause.HEALTHY)
                elif self._ill and self._keeps_flows:
                    self._ill = False
                    self._back(self.drained_by, "it works again, and is still draining")
                if self.state in SERVING or self._keeps_flows:
                    self.lease.renew(now, until)
            case Unavailable(why=why, cause=cause, proof=proof):
                self.lease.revoke()
                if self.serves:
                    self._ill = self.state is HopState.DRAINING
                    self.move(HopEvent.FELL, cause, why)
                    if cause not in (Cause.GUEST_ASKED, Cause.GUEST_EXITED):  # an end is reported when it has ended
                        fault = Fault(cause, proof, now)
                        self.bypass_latency.fell(fault)
                        self._owner.on_failed(fault, why)
            case Overloaded(why=why):
                if self.state is HopState.AVAILABLE:
                    self.move(HopEvent.OVERLOAD, Cause.OVERLOADED, why)
            case Relieved():
                if self.state is HopState.OVERLOADED:
                    self.move(HopEvent.RELIEF, Cause.HEALTHY)
        self.history.save()  # after the lease is gone

    def _back(self, cause: Cause, detail: str = "") -> None:
        self.measure()  # the renewal overwrites what the datapath recorded
        self.bypass_latency.back()
        self.move(HopEvent.PROVED, cause, detail)

    def measure(self) -> None:
        """Check whether a frame has bypassed the hop since it fell."""
        fault = self.bypass_latency.pending
        if fault is not None:
            found = self.bypass_latency.first_frame(self._leases.first_skip(self.name))
            if found is not None:
                self._owner.on_measured(fault, found.at_most)
