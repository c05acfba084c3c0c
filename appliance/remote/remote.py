# SPDX-License-Identifier: GPL-2.0-only
"""One remote of the configuration: a hop and its two tunnels.

The hop's policy (hop/hop.py) says which traffic it may have, the watch (health/watch.py) whether frames come back
through it. This is the thin shell around both: it sets the tunnels up, carries out orders, and has the way to the far
end (way_watch.py) and the returned frames (returned.py) looked at. The object lives as long as bypassd; tunnels, lease
and run folder live longer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from appliance.causes import Cause
from appliance.config.schema import encapsulations, model
from appliance.errors import BypassError, GuestError, RefusedError, UnreachableError
from appliance.health.bypass_latency import Fault
from appliance.health.inband import make_nonce
from appliance.health.verdict import Decision, Verdict
from appliance.health.watch import Watch
from appliance.hop.hop import Hop
from appliance.hop.lifecycle import ALIVE, SERVING, HopEvent, HopState
from appliance.part import happens
from appliance.remote.proved import Proved
from appliance.remote.returned import Returned
from appliance.remote.tunnels import Datapath, Tunnels
from appliance.remote.way_watch import WayWatch
from appliance.system.namespace import Namespace
from appliance.telemetry.ledger import Ledger
from appliance.telemetry.subject import Change
from appliance.tunnel.underlay import Look, Way

log = logging.getLogger(__name__)

TICK_S = 1.0
"""How often the devices and the returned frames are looked at, and whether a look at the way is due."""
RETRY_FIRST_S, RETRY_LAST_S = 1.0, 30.0
"""Between two attempts to set the tunnels up."""
SETTLE_S = 1.0
"""Between the end of the lease and that of the tunnels, in which frames on their way come back."""
BLAMED_NS = 30_000_000_000
"""How long a remote that returned nothing is bypassed before it is tried again."""

BY_OPERATOR, BY_RETURNED, BY_LOOP = "operator", "returned traffic", "loop"  # vetoes

_CHANGES = {
    HopState.AVAILABLE: Change.REMOTE_AVAILABLE,
    HopState.SUSPECT: Change.REMOTE_SUSPECT,
    HopState.FAILED: Change.REMOTE_FAILED,
}


class _Checked(NamedTuple):
    """What the watch checks of a remote."""

    probes: Sequence[model.Probe]
    hold: int
    heartbeat: model.Heartbeat | None = None
    dry_run: bool = False


@dataclass(frozen=True)
class Place:
    """Where a remote belongs. `folder`: its run folder; `config`: that of the configuration, for capture files.

    `own_key`: the file with the appliance's WireGuard key. `guard`: has forged packets dropped on the way of each
    remote whose way is known. Never raises.
    """

    datapath: Datapath
    space: Namespace
    folder: Path
    config: Path
    clock: Callable[[], int]
    own_key: Path
    look: Look
    guard: Callable[[], Awaitable[None]]


class Remote:
    """See the module. `segment`: its name and configured MTU."""

    def __init__(self, config: model.Remote, segment: model.Segment, place: Place, ledger: Ledger) -> None:
        self.config, self._segment, self._place, self._ledger = config, segment, place, ledger
        self.name = config.name
        self.hop = Hop("remote", self.name, place.folder, leases=place.datapath.leases, owner=self, now=place.clock())
        self.tunnels = self._tunnels()
        self.watch: Watch | None = None
        self._way = WayWatch(self.hop)
        self._proved = Proved(place.folder)
        self.restarts = 0
        self._wanted, self._nudge = asyncio.Event(), asyncio.Event()
        self._rebuild = False
        self._running = False
        self._returned = Returned(int(config.return_timeout))
        self._looped, self._looped_until = "", 0  # why it was in a loop, until it is available again; ns

    def _tunnels(self) -> Tunnels:
        place = self._place
        return Tunnels(self.config, self._segment, place.datapath, space=place.space, own_key=place.own_key)

    @property
    def state(self) -> HopState:
        """The state of its hop."""
        return self.hop.state

    @property
    def segment(self) -> str:
        """The segment that it serves."""
        return self._segment.name

    @property
    def hop_number(self) -> int:
        """Its number in the datapath."""
        return self._place.datapath.hop_id(self.name)

    @property
    def way(self) -> Way:
        """The way of its packets, as it was found last."""
        return self._way.way

    @property
    def idle(self) -> bool:
        """It has no tunnels, and none are being set up or removed."""
        return not self._running and not self.hop.stopping

    @property
    def bypassed(self) -> bool:
        """Whether an operator ordered that it gets no frames."""
        return self.watch is not None and BY_OPERATOR in self.watch.verdict.vetoes

    # Orders. Answers are for display.

    def autostart(self) -> None:
        """bypassd starts: adopt the tunnels that are there, and go on as the configuration and the last order say."""
        if self.state is not HopState.DEFINED:
            return
        adopted = self.tunnels.adoptable
        if adopted and self._proved.has(self._mark):
            try:
                self.tunnels.attach()  # at once, because the lease still runs
            except BypassError as error:
                log.error("remote %s: its tunnels are not adopted: %s", self.name, error)
                self.hop.lease.revoke()
        else:
            self.hop.lease.revoke()
        wanted = self.config.autostart or adopted or self.hop.order.read() == "bypassed"
        if not self.hop.begin(wanted=wanted):
            self.hop.lease.revoke()
            return
        self._want(True)

    def start(self) -> str:
        """Start it, or put it back into service after a drain or a bypass."""
        if self.bypassed and self.watch is not None:
            self.hop.order.write("")
            self.watch.veto(BY_OPERATOR, "")
            self.hop.explain(Cause.PROVING, "the bypass is over")
            return f"{self.hop} gets traffic again once it passes its checks"
        answer = self.hop.start()
        if answer.changed and self.state is HopState.STARTING:
            self._want(True)
        return answer.said

    def drain(self) -> str:
        """Send it no new flows; established ones stay."""
        return self.hop.drain(Cause.OPERATOR).said

    def bypass(self) -> str:
        """Send it no frames at all; its tunnels and checks go on. RefusedError unless it is running."""
        if self.watch is None or self.state not in ALIVE:
            raise RefusedError(f"{self.hop} is {self.state.value}: only a running remote can be bypassed")
        if self.bypassed:
            return f"{self.hop} is already bypassed"
        self.hop.order.write("bypassed")
        why = "bypassed by an operator: `start` ends it"
        self.watch.veto(BY_OPERATOR, why, Cause.OPERATOR)
        self.hop.explain(Cause.OPERATOR, why)
        return f"{self.hop} is bypassed: it gets no frames until `start`"

    def looped(self, where: str) -> None:
        """A heartbeat that was sent into it came in `where` frames of others do: break the loop here."""
        if self.watch is None:
            return
        self._looped = f"what is sent to it comes in again {where}: a loop"
        self._looped_until = self._place.clock() + BLAMED_NS
        self.watch.veto(BY_LOOP, self._looped, Cause.LOOP, BLAMED_NS)
        self.hop.explain(Cause.LOOP, self._looped)
        if not self.tunnels.parted:
            self._nudge.set()

    def stop(self) -> str:
        """Take its traffic away, then remove its tunnels."""
        answer = self.hop.stop()
        if answer.changed:
            self._want(False)
        return answer.said

    def _want(self, running: bool) -> None:
        if running:
            self._wanted.set()
        else:
            self._wanted.clear()
        self._nudge.set()

    def reconfigure(self, config: model.Remote, segment: model.Segment) -> None:
        """Use `config` from now on: another tunnel or segment replaces the tunnels, which bypasses it meanwhile."""
        old, self.config = self.config, config
        self._segment = segment
        self._returned = Returned(int(config.return_timeout))
        wanted = self._tunnels()
        self._rebuild = not self.tunnels.alike(wanted)
        if not self._running:
            self.tunnels, self._rebuild = wanted, False
        elif not self._rebuild:
            self.tunnels.config = config
            if old.tags != config.tags and self.tunnels.there:
                self.tunnels.attach()
            if self.watch is not None and (old.probes, old.hold) != (config.probes, config.hold):
                self._check_anew()
        self._nudge.set()

    def _check_anew(self) -> None:
        """Other checks: earlier proof counts, and the lease stays valid until they have answered or expired."""
        was, fresh = self.watch, self._new_watch()
        assert was is not None
        fresh.verdict.vetoes.update(was.verdict.vetoes)
        if self.state in SERVING:
            fresh.shorten_proof()
        fresh.start()
        was.stop()
        self.watch = fresh
        self.hop.prove_again("its checks have changed")

    # Its life

    async def run(self) -> None:
        """Set the tunnels up and look after them until cancelled, which leaves them working."""
        wait = RETRY_FIRST_S
        try:
            while True:
                if not self._wanted.is_set():
                    await self.tunnels.take_down()  # an earlier bypassd may have left some
                    await self._sleep(None)
                    continue
                try:
                    if await self._begin():
                        wait = RETRY_FIRST_S
                        await self._live()
                        await self._end()
                except BypassError as error:
                    self._not_now(error)
                    await self._sleep(wait)
                    wait = min(wait * 2, RETRY_LAST_S)
        finally:
            if self.watch is not None:
                self.watch.stop()

    async def _sleep(self, seconds: float | None) -> None:
        """Until something has changed, or for so long."""
        await happens(self._nudge, seconds)
        self._nudge.clear()

    def _not_now(self, error: BypassError) -> None:
        """The tunnels cannot be set up: try again later, and say why."""
        if self.watch is not None:
            self.watch.stop()
        cause = Cause.TUNNEL_DOWN if isinstance(error, UnreachableError) else Cause.TUNNEL_FAILED
        if self.state in ALIVE:
            self._gone(cause, str(error))
            self.watch = None
        elif self.hop.can(HopEvent.WAIT) and (cause, str(error)) != (self.hop.cause, self.hop.detail):
            self.hop.move(HopEvent.WAIT, cause, str(error))

    async def _begin(self) -> bool:
        """Set the tunnels up, or adopt them; False: it is not wanted any more. BypassError: not possible now."""
        self._rebuild, adopted = False, self.tunnels.adoptable
        self._running = True
        try:
            self._way.begin(self._place.clock(), await self.tunnels.find_way(self._place.look))
            await self._place.guard()  # before a packet could come out of the tunnels
            await self.tunnels.set_up(self.way, self._place.folder)
        except BypassError:
            self._running = False
            raise
        if not self._wanted.is_set():
            await self.tunnels.take_down()
            self._running = False
            return False
        self.watch = watch = self._new_watch()
        if adopted and self._proved.has(self._mark):
            watch.shorten_proof()
        self.hop.running("adopted" if adopted else "")
        if self.hop.order.read() == "bypassed":
            watch.veto(BY_OPERATOR, "bypassed by an operator: `start` ends it", Cause.OPERATOR)
        watch.start()
        return True

    def _new_watch(self) -> Watch:
        place = self._place
        return Watch(
            _Checked(encapsulations.probes(self.config), int(self.config.hold)),
            self.hop_number,
            (self.tunnels.pair,),
            make_nonce(place.datapath.heartbeat_key(self.name)),
            history=self.hop.history,
            subject=self,
            folder=place.config,
            space=place.space,
            clock=place.clock,
            loads=self.tunnels.loads(),
        )

    async def _live(self) -> None:
        """Look after the tunnels until they are to be replaced or removed, or are gone."""
        while self._wanted.is_set() and not self._rebuild and self.tunnels.there:
            await self._sleep(TICK_S)
            now = self._place.clock()
            if self._way.due(now):
                await self._look(now)
            self._judge_returned(now)
            await self._break_loop(now)

    async def _break_loop(self, now: int) -> None:
        """Take its frames out of the datapath for as long as its heartbeats go round, and some time beyond.

        Without a lease it gets no frames, but what comes out of its tunnels would still go on, and round again.
        """
        if not self._looped:
            return
        if self.hop.cause is Cause.HEARTBEAT_LOST:
            self.hop.explain(Cause.LOOP, self._looped)  # it is broken, so no heartbeat comes back any more
        looping = now < self._looped_until
        if looping is not self.tunnels.parted:
            await self.tunnels.part(looping)

    async def _look(self, now: int) -> None:
        """Look at the way: it explains a failure, and limits the frames."""
        way = await self.tunnels.look(self._place.look)
        self._way.judge(now, way)
        if self.tunnels.there:
            await self.tunnels.fit(way)

    def _judge_returned(self, now: int) -> None:
        if self.watch is None or self.state not in SERVING:
            self._returned.forget()
            return
        why = self._returned.step(now, *self._place.datapath.exchanged(self.name))
        if why:
            self._returned.forget()
            self.watch.veto(BY_RETURNED, why, Cause.NOTHING_RETURNED, BLAMED_NS)

    async def _end(self) -> None:
        """Remove the tunnels: by order, to be replaced, or because they are gone."""
        self.hop.lease.revoke()
        there, ordered = self.tunnels.there, not self._wanted.is_set()
        if there:
            await asyncio.sleep(SETTLE_S)
        if ordered and not self._wanted.is_set():
            await self._put_away()
            self.hop.gone(self._place.clock(), Cause.OPERATOR, None)
            self.hop.stopping = False
            if self.state is HopState.DRAINING:
                self.hop.drained(Cause.OPERATOR, "")
            return
        why = "its tunnels are replaced" if there else "its tunnels were removed by another program"
        self._gone(Cause.CONFIGURED if there else Cause.TUNNEL_FAILED, why)
        await self._put_away()
        self.restarts += 1

    def _gone(self, cause: Cause, why: str) -> None:
        verdict: Verdict | None = self.watch.verdict if self.watch is not None else None
        self.hop.gone(self._place.clock(), cause, verdict)
        if self.hop.can(HopEvent.ENDED):
            self.hop.move(HopEvent.ENDED, cause, why)
        if self.state is HopState.STOPPED:
            self._want(False)  # it was being drained: somebody is working on it

    async def _put_away(self) -> None:
        if self.watch is not None:
            self.watch.stop()
            self.watch = None
        await self.tunnels.take_down()
        self.tunnels = self._tunnels()  # as it is configured now
        self._running = False

    @property
    def _mark(self) -> str:
        return f"{self._segment.name} {self.config.tunnel}"

    # For the watch and the hop

    def on_decision(self, decision: Decision) -> None:
        """The checks say that it may, or may not, have traffic."""
        self.hop.on_decision(self._place.clock(), decision)

    def process_alive(self) -> bool:
        """Whether its tunnels are there."""
        return self.tunnels.there

    def threads(self) -> tuple[int, Sequence[int]]:
        """It has no process here, and so no check of one."""
        raise GuestError(f"{self.hop} has no processors here")

    async def ask_agent(self, word: str) -> str:
        """It has no agent here."""
        return "a remote has no agent"

    def on_move(self, old: HopState) -> None:
        """The hop changed its state: keep that for the next bypassd, record it, look for the reason."""
        hop = self.hop
        if SERVING & {old, hop.state}:
            self._proved.note(self._mark if hop.state in SERVING else "")
        if hop.state is HopState.AVAILABLE:
            self._looped = ""
        change = _CHANGES.get(hop.state, Change.REMOTE_OTHER)
        self._ledger.record(change, self.name, old.value, hop.state.value, hop.cause, detail=hop.detail)
        if hop.state is HopState.SUSPECT or self.way.trouble:
            self._nudge.set()  # why it failed, or that what was known against the way has passed

    def on_failed(self, fault: Fault, why: str) -> None:
        """A check failed while it had traffic: the lease is gone, and the look at the way is due."""

    def on_measured(self, fault: Fault, at_most: int | None) -> None:
        """The first frame bypassed it; `show remote` has the times."""
