# SPDX-License-Identifier: GPL-2.0-only
"""What follows when a guest fails: an incident, a measured bypass latency, quarantine; and what a new run resets.

Connects the guests with the policy (steering/overlay_editor.py), the incidents (incident/) and the file that keeps
bypass latencies for the next bypassd. Owns none of the guests. Lives as long as the part "guests".
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from appliance.api.rpc import Param, Params, Registry
from appliance.api.schema import guests as answer
from appliance.api.schema import methods
from appliance.api.schema.base import Done
from appliance.causes import Cause
from appliance.config.schema.model import Config
from appliance.counted import counted
from appliance.errors import RefusedError
from appliance.guest.agent.requests import AgentRequests
from appliance.guest.agent.shunting import AgentShunts
from appliance.health.bypass_latency import Fault
from appliance.incident.incidents import Fall, Incidents, Recorders, quarantine_row
from appliance.incident.store import Store
from appliance.paths import Paths
from appliance.steering import overlay
from appliance.steering.overlay_editor import GuestPolicy, Steered
from appliance.system import files
from appliance.system.threads import to_the_end
from appliance.telemetry.ledger import Ledger
from appliance.telemetry.subject import Change

if TYPE_CHECKING:
    from appliance.guest.guest import Guest

log = logging.getLogger(__name__)

EXPIRE_S = 5.0  # how often flows whose time in quarantine is over are released


class FailureHandler:
    """See the module."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        recorders: Recorders,
        steered: Steered,
        ledger: Ledger,
        *,
        hops: Callable[[], dict[str, int]],
        retag: Callable[[str, bool], Coroutine[Any, Any, None]],
        shunts: Callable[[], AgentShunts],
    ) -> None:
        """`shunts` makes what carries out the shunts of one guest's agent."""
        self._config, self._steered, self._ledger = config, steered, ledger
        self._hops, self._retag, self._shunts = hops, retag, shunts
        self.policy = GuestPolicy(steered)
        self.incidents = Incidents(config, recorders, self.policy, Store(paths.incidents), ledger=ledger)
        self._file = paths.state / "reactions.json"
        self._tasks: set[asyncio.Task[Any]] = set()
        self._changed = False

    def reconfigure(self, config: Config) -> None:
        """Use another configuration, which says which flows may be blamed and which rules lead to which guest."""
        self._config = self.incidents.config = config

    # What guests report

    def agent_host(self, guest: Guest) -> AgentRequests:
        """What carries out the requests of the guest's agent."""
        return AgentRequests(guest, self.policy, self._hops, self._retag, self._shunts())

    def fell(self, guest: Guest, kind: str, fault: Fault, detail: str) -> None:
        """A guest died, or a check of it failed ("died", "failed")."""
        self.incidents.fell(
            Fall(guest.name, kind, fault.cause, detail, fault.detected, fault.proof, guest.console.tail())
        )

    def measured(self, guest: Guest, fault: Fault, at_most: int | None) -> None:
        """The first frame bypassed a failed guest, at most `at_most` ns after it was last known to work."""
        self._changed = True
        if at_most is not None:
            self.incidents.measured(guest.name, fault.detected, at_most)

    def fresh_run(self, guest: Guest) -> None:
        """A guest starts over: what its agent registered no longer holds."""
        if guest.name in self.policy.overlay.accepts or guest.name in self.policy.overlay.no_tags:
            self._soon(self.policy.forget(guest.name))
            self._soon(self._retag(guest.name, guest.config.tags))

    def _soon(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Life

    def load(self, guests: Iterable[Guest]) -> None:
        """Read what earlier runs left: incidents and bypass latencies. Blocks while it reads a few small files."""
        self.incidents.store.load()
        try:
            kept = json.loads(self._file.read_bytes())
            for guest in guests:
                guest.hop.bypass_latency.restore((str(c), a, int(d)) for c, a, d in kept.get(guest.name, []))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("bypass latencies from before this start cannot be read: %s", error)

    async def run(self, guests: Callable[[], Iterable[Guest]]) -> None:
        """Store incidents and measurements, and end quarantines that are over; until cancelled."""
        keeping = asyncio.get_running_loop().create_task(self.incidents.run(), name="incidents")
        try:
            while not keeping.done():
                await asyncio.wait({keeping}, timeout=EXPIRE_S)
                await self.incidents.expire()
                if self._changed:
                    self._changed = False
                    rows = {guest.name: guest.hop.bypass_latency.dump() for guest in guests()}
                    await asyncio.to_thread(self._write, rows)
            keeping.result()
        finally:
            keeping.cancel()
            for task in (*self._tasks,):
                task.cancel()

    def _write(self, rows: Mapping[str, object]) -> None:
        try:
            files.replace(self._file, json.dumps(rows), synced=False)
        except OSError as error:
            log.warning("%s: %s", self._file, error.strerror)

    # What the console asks

    def register(self, registry: Registry) -> None:
        """Add the methods incidents.show, incident.* and quarantine.*."""
        which = {"number": Param("integer", "the incident's number")}
        name = {"name": Param("string", "the flow's name in `show quarantine`")}

        async def rows(params: Params) -> list[answer.Incident]:
            return self.incidents.rows(cleared=bool(params.get("all")))

        async def clear(_: Params) -> Done:
            try:
                left_out = await to_the_end(self.incidents.store.clear)
            except OSError as error:
                raise RefusedError(f"incidents: {error.strerror}") from error
            said = f"{counted(left_out, 'incident')} cleared"
            return Done(f"{said}; `show incidents all` has them, until newer ones need their room")

        async def show(params: Params) -> answer.IncidentDetails:
            return self.incidents.details(int(params["number"]))

        async def export(params: Params) -> answer.IncidentFrames:
            number = int(params["number"])
            data = await asyncio.to_thread(self.incidents.capture, number)
            return answer.IncidentFrames(number=number, pcapng=base64.b64encode(data).decode("ascii"))

        async def quarantined(_: Params) -> list[answer.Quarantined]:
            effective, now = overlay.apply(self._config, self.policy.overlay), time.time()
            return [quarantine_row(flow, now, effective) for flow in self.policy.overlay.quarantined]

        async def release(params: Params) -> Done:
            flow = await self.policy.release(str(params["name"]))
            change, states = Change.FLOW_RELEASED, ("quarantined", "inspected")
            self._ledger.record(change, flow.name, *states, Cause.OPERATOR, detail=f"{flow.flow} is released")
            return Done(f"{flow.flow} goes to {', '.join(flow.guests)} again")

        add = registry.add
        everything = {"all": Param("boolean", "also those that were cleared", required=False)}
        add(
            methods.INCIDENTS_SHOW,
            rows,
            doc="Guests that died or failed: when, why, and what was kept.",
            params=everything,
        )
        add(methods.INCIDENTS_CLEAR, clear, "operator", "Leave the present ones out of the list; they are kept.")
        doc = "One incident, with the guest's console output before the failure."
        add(methods.INCIDENT_SHOW, show, doc=doc, params=which)
        doc = "The last frames that the guest received, as pcapng in base64."
        add(methods.INCIDENT_EXPORT, export, "operator", doc, which)
        add(methods.QUARANTINE_SHOW, quarantined, doc="Flows that bypass a guest they crashed, and why.")
        add(methods.QUARANTINE_RELEASE, release, "operator", "Send a quarantined flow to its guest again.", name)
