# SPDX-License-Identifier: GPL-2.0-only
"""Incidents: when a guest exits unexpectedly or fails, keeps the last frames it received and its last console output.

A flow that was present at several such failures may be quarantined. A failure is reported after the guest's lease was
revoked; everything slow happens in one worker task and in threads, so neither the bypass nor the supervisor waits.
Failures that occur faster than they can be kept are counted. Owns the store; lives as long as the part "guests".
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import appliance
from appliance.api.schema import guests
from appliance.causes import DESCRIPTION, Cause
from appliance.config.schema.model import Config
from appliance.counted import counted
from appliance.errors import BypassError, NotFoundError
from appliance.frames import pcapng_writer
from appliance.incident import flows
from appliance.incident.store import CONSOLE_BYTES, Incident, Store
from appliance.steering import overlay
from appliance.steering.kernel.recorder import Recorded
from appliance.steering.overlay import Quarantined
from appliance.steering.overlay_editor import GuestPolicy
from appliance.telemetry.ledger import Ledger
from appliance.telemetry.subject import Change

log = logging.getLogger(__name__)

ALIKE_S = 3600.0
"""Failures of a guest that are alike are one incident while they are not further apart."""

WAITING = 16
"""How many failures may wait to be kept."""


class Recorders(Protocol):
    """Source of the recorded frames (steering/datapath.py)."""

    def recorded(self, hop: str, after: int = 0) -> list[Recorded]:
        """The recorded frames of the hop after number `after`, oldest first."""
        ...


@dataclass(frozen=True)
class Fall:
    """A guest failed at `at`; `proof`: when it was last known to work. Both in ns of CLOCK_MONOTONIC."""

    guest: str
    kind: str
    cause: Cause
    detail: str
    at: int
    proof: int | None
    console: bytes


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def words(console: bytes) -> str:
    """The end of a guest's console output, as text that is safe on a terminal."""
    text = console[-CONSOLE_BYTES:].decode(errors="replace").replace("\r", "")
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


class Incidents:
    """See the module."""

    def __init__(
        self,
        config: Config,
        recorders: Recorders,
        policy: GuestPolicy,
        store: Store,
        *,
        ledger: Ledger,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.config, self._recorders, self._policy, self._ledger, self._wall = config, recorders, policy, ledger, wall
        self.store = store
        self.lost = 0
        self._falls: asyncio.Queue[Fall] = asyncio.Queue(WAITING)
        self._seen: dict[str, int] = {}  # by guest: number of the last frame in its last incident
        self._writing: set[asyncio.Task[None]] = set()
        self._numbers: dict[tuple[str, int], int] = {}  # incident number by guest and time of its last failure
        self._early: dict[tuple[str, int], float] = {}  # measured before the incident was kept (ms)

    def fell(self, fall: Fall) -> None:
        """A guest failed. Returns at once."""
        try:
            self._falls.put_nowait(fall)
        except asyncio.QueueFull:
            self.lost += 1
            log.error("guest %s: no incident is kept of this failure: %d are already waiting", fall.guest, WAITING)

    async def run(self) -> None:
        """Keep each reported failure, until cancelled."""
        while True:
            await self.keep(await self._falls.get())

    async def keep(self, fall: Fall) -> Incident:
        """Keep one failure as an incident, and quarantine the flow to blame; a repeated one only counts."""
        offset = int(self._wall() * 1e9) - time.monotonic_ns()
        if (again := await asyncio.to_thread(self._again, fall, offset)) is not None:
            self._early.pop((fall.guest, fall.at), None)
            return again
        incident, newest = await asyncio.to_thread(self._collect, fall, offset)
        self._seen[fall.guest] = max(newest, self._seen.get(fall.guest, 0))
        self._numbers = {key: number for key, number in self._numbers.items() if key[0] != fall.guest}
        self._numbers[fall.guest, fall.at] = incident.number
        early = self._early.pop((fall.guest, fall.at), None)
        if early is not None:
            await asyncio.to_thread(self.store.amend, incident.number, bypass_at_most_ms=early)
        log.warning("incident %d: guest %s %s: %s", incident.number, fall.guest, fall.kind, fall.detail)
        verdict, names = await self._blame(fall.guest)
        if verdict:
            await asyncio.to_thread(self.store.amend, incident.number, verdict=verdict, quarantined=names)
        return self.store.get(incident.number) or incident

    def _again(self, fall: Fall, offset: int) -> Incident | None:
        """The guest's last incident with one failure more, where that is all there is to say of this one.

        A guest that flaps would push out every other incident with ones that have no frames. A flow is not blamed by
        failures without frames either.
        """
        before = next((one for one in reversed(self.store.all()) if one.guest == fall.guest), None)
        at = (fall.at + offset) / 1e9
        if before is None or (before.kind, before.cause) != (fall.kind, str(fall.cause)):
            return None
        if not 0 <= at - (before.last or before.at) <= ALIKE_S or self._recorders.recorded(
            fall.guest, self._seen.get(fall.guest, 0)
        ):
            return None
        self.store.amend(before.number, times=before.times + 1, last=at)
        return self.store.get(before.number)

    def _collect(self, fall: Fall, offset: int) -> tuple[Incident, int]:
        frames = self._recorders.recorded(fall.guest, self._seen.get(fall.guest, 0))
        at = (fall.at + offset) / 1e9
        incident = Incident(
            number=self.store.next_number,
            at=at,
            when=_stamp(at),
            guest=fall.guest,
            kind=fall.kind,
            cause=str(fall.cause),
            detail=fall.detail,
            frames=len(frames),
            flows=tuple(flows.flows_of(frame.data for frame in frames)),
            console=words(fall.console),
            last_proof_ms=None if fall.proof is None else round((fall.at - fall.proof) / 1e6, 3),
        )
        capture = self._capture(fall, incident, frames, offset)
        return self.store.save(incident, capture), frames[-1].number if frames else 0

    @staticmethod
    def _capture(fall: Fall, incident: Incident, frames: Sequence[Recorded], offset: int) -> bytes:
        taps = sorted({(frame.segment, frame.side) for frame in frames})
        about = (
            f"Throughwire incident {incident.number}: guest {fall.guest} {fall.kind} at {incident.when}\n"
            f"cause: {fall.cause} ({DESCRIPTION[fall.cause]})\n{fall.detail}\n"
            f"the last {counted(len(frames), 'frame')} sent to the guest"
        )
        if incident.console:
            about += f"\n\nthe end of the guest's console output:\n{incident.console}"
        out = io.BytesIO()
        writer = pcapng_writer.Writer(out, f"Throughwire {appliance.__version__}", comment=about)
        names = {(segment, side): f"{fall.guest} {side.name.lower()} (segment {segment})" for segment, side in taps}
        interfaces = {tap: writer.interface(name) for tap, name in names.items()}
        for frame in frames:
            tap = interfaces[frame.segment, frame.side]
            writer.packet(tap, frame.at + offset, frame.data, frame.length, outbound=True)
        return out.getvalue()

    # Quarantine

    def _mates(self, guest: str) -> tuple[str, ...]:
        """The guest and those that would take over its flows: a flow that crashes one would crash the next."""
        found = {guest}
        for group in self.config.group:
            if guest in group.members:
                found.update(group.members)
        return tuple(sorted(found))

    async def _blame(self, guest: str) -> tuple[str, tuple[str, ...]]:
        """The finding about the flows, and the names of those that were quarantined."""
        config = next((one for one in self.config.guest if one.name == guest), None)
        if config is None or config.quarantine is None:
            return "", ()
        mates = self._mates(guest)
        deaths = [one for one in self.store.all() if one.guest in mates and (one.deadly or config.quarantine.failures)]
        judgement = flows.judge(deaths, config.quarantine)
        if not judgement.blamed:
            return judgement.why, ()
        now = self._wall()
        until = now + config.quarantine.time.seconds
        wanted = [
            Quarantined(
                name, mates, flow.text, flow.match, now, until, judgement.incidents, f"{flow.text} {judgement.why}"
            )
            for name, flow in zip(self._policy.fresh_names(len(judgement.blamed)), judgement.blamed, strict=True)
        ]
        try:
            await self._policy.quarantine(wanted)
        except BypassError as error:
            log.error("quarantine: %s", error)
            return f"{judgement.why}; quarantine failed: {error}", ()
        closed = sorted({rule for one in wanted for rule in overlay.kept_closed(self.config, one)})
        for one in wanted:
            change, states = Change.FLOW_QUARANTINED, ("inspected", "quarantined")
            self._ledger.record(change, one.name, *states, Cause.FLOW_BLAMED, detail=one.why)
        note = f"; rule {', '.join(closed)} blocks instead of bypassing and is not changed" if closed else ""
        return judgement.why + note, tuple(one.name for one in wanted)

    def measured(self, guest: str, at: int, at_most: int) -> None:
        """After the failure at `at`, the first frame bypassed the guest `at_most` ns after it was last known to work.

        May be called before the incident is kept, or after.
        """
        took_ms = round(at_most / 1e6, 3)
        number = self._numbers.get((guest, at))
        if number is None:
            self._early[guest, at] = took_ms
            while len(self._early) > WAITING:
                del self._early[next(iter(self._early))]
        else:
            self._later(number, took_ms)

    def _later(self, number: int, took_ms: float) -> None:
        work = asyncio.to_thread(self.store.amend, number, bypass_at_most_ms=took_ms)
        task = asyncio.get_running_loop().create_task(work, name=f"incident {number}")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)

    # For the console

    def rows(self, *, cleared: bool = False) -> list[guests.Incident]:
        """`show incidents`, newest last; with those that were `cleared`, or without."""
        return [
            guests.Incident(
                number=one.number,
                when=one.when,
                guest=one.guest,
                kind=one.kind,
                cause=one.cause,
                frames=one.frames,
                flows=len(one.flows),
                bypass_at_most_ms=one.bypass_at_most_ms,
                quarantined=list(one.quarantined),
                detail=one.trouble or one.detail,
                times=one.times,
                last=_stamp(one.last) if one.last else one.when,
            )
            for one in self.store.all()
            if cleared or one.number > self.store.cleared
        ]

    def details(self, number: int) -> guests.IncidentDetails:
        """`incident N show`."""
        one = self._get(number)
        return guests.IncidentDetails(
            number=one.number,
            at=one.at,
            when=one.when,
            guest=one.guest,
            kind=one.kind,
            cause=one.cause,
            detail=one.detail,
            frames=one.frames,
            flows=[flow.text for flow in one.flows],
            console=one.console,
            last_proof_ms=one.last_proof_ms,
            bypass_at_most_ms=one.bypass_at_most_ms,
            verdict=one.verdict,
            quarantined=list(one.quarantined),
            trouble=one.trouble,
            times=one.times,
            last=_stamp(one.last) if one.last else one.when,
        )

    def capture(self, number: int) -> bytes:
        """The frames of an incident as pcapng."""
        self._get(number)
        try:
            return self.store.capture(number)
        except OSError as error:
            raise NotFoundError(f"incident {number}: its frames cannot be read: {error.strerror}") from error

    def _get(self, number: int) -> Incident:
        found = self.store.get(number)
        if found is None:
            raise NotFoundError(f"there is no incident {number}: `show incidents` lists them")
        return found

    async def expire(self) -> None:
        """Release the flows whose quarantine has expired."""
        try:
            for flow in await self._policy.expire():
                over = f"{flow.flow}: its quarantine has expired"
                self._ledger.record(
                    Change.FLOW_RELEASED, flow.name, "quarantined", "inspected", Cause.NONE, detail=over
                )
        except BypassError as error:
            log.error("quarantine: %s", error)


def quarantine_row(flow: Quarantined, now: float, policy: Config) -> guests.Quarantined:
    """A flow in quarantine, as the API shows it. `now` in seconds since 1970."""
    return guests.Quarantined(
        name=flow.name,
        guests=list(flow.guests),
        flow=flow.flow,
        left_s=round(max(flow.until - now, 0)),
        rules=len([rule for rule in policy.rule if rule.name.rpartition("-")[0] == flow.name]),
        why=flow.why,
    )
