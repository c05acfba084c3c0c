# SPDX-License-Identifier: GPL-2.0-only
"""The part "steering": loads or adopts the datapath, attaches the segments' ports to it, renews its dead-man lease.

Owns the `Datapath` object from `start` to the end of bypassd; the pinned programs and maps outlive both. A segment
whose ports are missing is attached when they appear, one that the kernel refuses is retried with back-off, and once a
second the kernel is asked whether everything is still attached (attachment_watch.py). The overlay of guests and
incidents (steering/overlay.py) is part of the policy and kept on the data partition. A refusal by the kernel is a fault
of that segment (or, from `start`, of all), and a reason for bypass.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.causes import Cause
from appliance.config.check.lint import Finding
from appliance.config.schema.model import Config, Segment
from appliance.config.schema.served import with_mirrors, with_remotes
from appliance.errors import BypassError, DatapathError, UnreachableError
from appliance.hardware.links import Links
from appliance.part import PATIENCE_NS, Alive, in_thread
from appliance.steering import overlay as laid
from appliance.steering.attachment_watch import AttachmentWatch, Fault, look
from appliance.steering.handover import SETTLE_S, between
from appliance.steering.kernel.attach_mode import needs_tc
from appliance.steering.overlay import Overlay
from appliance.steering.unavailable import lacking

if TYPE_CHECKING:
    from appliance.steering.datapath import Datapath, Prepared

log = logging.getLogger(__name__)

LOOK_NS = 900_000_000
"""The kernel is asked about the attachments this long after its last answer."""
RETRY_FIRST_NS, RETRY_LAST_NS = 500_000_000, 30_000_000_000
PATIENT_TRIES = 3
"""How often the best mode is tried if the kernel is busy or short of memory, before the next one is used."""


@dataclass
class Retry:
    """The next attempt to attach a segment to these ports."""

    indexes: tuple[int, int]
    tries: int = 0
    due: int = 0

    def failed(self, now: int) -> None:
        """Double the wait."""
        self.due = now + min(RETRY_FIRST_NS << min(self.tries, 10), RETRY_LAST_NS)
        self.tries += 1


def _needs_tc(config: Config, segment: str) -> str:
    """Why its hops need tc; "" if they do not."""
    return needs_tc(with_remotes(config, "kernel").get(segment, ()), with_mirrors(config).get(segment, ()))


def _port_keys(segment: Segment, config: Config) -> tuple[object, ...]:
    """What its ports are attached by."""
    return segment.lan, segment.wan, segment.attach, segment.mtu, _needs_tc(config, segment.name)


class Steering:
    """See the module."""

    name = "steering"
    patience = PATIENCE_NS

    def __init__(
        self,
        config: Config,
        links: Links,
        bpf_object: Path,
        pins: Path,
        names: Path,
        *,
        repaired: Callable[[str, Cause, str], None] = lambda port, cause, how: None,
        hold: Callable[[str], str] = lambda segment: "",
    ) -> None:
        """`repaired(port, cause, how)` is called when a port that another program detached was attached again.
        `hold(segment)`: why no program may come or go at its ports now; empty: it may."""
        self._config, self._links = config, links
        self._files = (bpf_object, pins, names)
        self.datapath: Datapath | None = None
        self.ready = asyncio.Event()
        self._faults: dict[str, Fault] = {}  # by segment: why it could not be attached
        self._retries: dict[str, Retry] = {}  # by segment
        self._hold = hold
        self._watch = AttachmentWatch(repaired, hold)
        self._looked = 0
        self.overlay = Overlay()
        self._overlay_file = names.with_name("overlay.json")
        self._seen: set[str] = set()  # segments that this bypassd has attached
        self._attached: dict[str, tuple[int, int]] = {}  # the port indexes that a segment is attached with
        self._changed = asyncio.Event()
        self._prepared: Prepared | None = None
        self._changing = asyncio.Lock()  # one policy after the other

    @property
    def adopted(self) -> bool:
        """Whether frames were flowing through this datapath before this bypassd started."""
        return self.datapath is not None and self.datapath.adopted

    @property
    def effective(self) -> Config:
        """The configuration with its overlay, as used by the datapath."""
        return laid.apply(self._config, self.overlay)

    def fault(self, segment: str) -> Fault | None:
        """Why the kernel's part of a segment does not work."""
        return self._faults.get(segment) or self._watch.faults.get(segment)

    def lacking(self, segment: str) -> str:
        """What a rule of the segment with `on_unavailable = "link-down"` lacks now; empty: nothing, or not known."""
        if self.datapath is None:
            return ""
        leases, now = self.datapath.leases, time.monotonic_ns()
        return lacking(self._config, segment, lambda hop: leases.available(hop, now))

    def forgive(self) -> None:
        """An operator says "try now": attach at once what waits for its next attempt, and clear contests."""
        self._watch.forgive()
        self._retries.clear()
        self._changed.set()

    async def start(self) -> None:
        """Load or adopt, set the policy, attach the present ports. BypassError: the kernel or a file prevents it."""
        async with self._changing:  # a commit meanwhile comes after it, and finds the datapath there
            self._attached.clear()
            # in a thread: import, load and policy take a second on a slow board, and the other parts have to check in
            self.datapath = await asyncio.to_thread(self._open)
            self._attach()
            self.ready.set()

    # -- another configuration

    async def prepare(self, config: Config) -> None:
        """Compile and load what `config` needs, beside what is running. FilterError, ConfigError, DatapathError."""
        self.forget()
        if self.datapath is not None:
            self._prepared = await asyncio.to_thread(self.datapath.prepare_policy, laid.apply(config, self.overlay))

    def remarks(self) -> list[Finding]:
        """Remarks on what was prepared."""
        if self._prepared is None:
            return []
        names = {number: name for name, number in self._prepared.policy.segments.items()}
        return self._prepared.generated.remarks(names)

    def forget(self) -> None:
        """Drop what was prepared but not used."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            prepared.close()

    async def apply(self, config: Config) -> None:
        """Switch to `config` in one step; then attach and detach its ports."""
        async with self._changing:
            await self._switch(config)

    async def _switch(self, config: Config) -> None:
        datapath = self.datapath
        old, self._config = self._config, config
        if datapath is None:
            return  # `start` will take it
        try:
            for step in between(old, config):
                await asyncio.to_thread(datapath.set_policy, laid.apply(step.config, self.overlay), step.silent)
                await asyncio.sleep(SETTLE_S)
        except BypassError:
            self._config = old
            raise
        if self._prepared is None or self._prepared.generation != datapath.generation + 1:
            await self.prepare(config)
        prepared, self._prepared = self._prepared, None
        assert prepared is not None
        try:
            await asyncio.to_thread(datapath.switch_policy, prepared)
        except BypassError:
            self._config = old
            raise
        now = {segment.name: segment for segment in config.segment}
        for segment in old.segment:
            new = now.get(segment.name)
            if new is None or (new.lan, new.wan) != (segment.lan, segment.wan):
                datapath.detach_segment(segment.name)
                self._faults.pop(segment.name, None)
            if new is None or _port_keys(new, config) != _port_keys(segment, old):
                self._attached.pop(segment.name, None)
                self._retries.pop(segment.name, None)
        self._attach()

    async def run(self, alive: Alive) -> None:
        """Reattach what changed or failed, and check every second that it stays attached."""
        while True:
            alive()
            try:
                async with asyncio.timeout(self.patience / 4e9):
                    await self._changed.wait()
            except TimeoutError:
                pass
            now = time.monotonic_ns()
            if self._changed.is_set() or any(now >= retry.due for retry in self._retries.values()):
                self._changed.clear()
                self._attach()
            if now - self._looked >= LOOK_NS:
                await in_thread(self._look(), alive, self.patience)

    async def _look(self) -> None:
        """Ask the kernel, in a thread, and repair attachments that changed. Not during a switch of the policy."""
        if self.datapath is None or self._changing.locked():
            return
        devices = self.datapath.devices
        try:
            seen = await asyncio.to_thread(look(devices))
        except OSError as error:
            log.error("what is attached cannot be looked at: %s", error.strerror or error)
            return
        finally:
            self._looked = time.monotonic_ns()
        if self.datapath is None or self._changing.locked():
            return
        self._watch.judge(devices, seen, self._looked)
        for segment in self._watch.cleared:
            self._attached.pop(segment, None)
        if self._watch.cleared:
            self._watch.cleared.clear()
            self._attach()
        if sweep := self.datapath.sweeper():
            await asyncio.to_thread(sweep)  # in a thread: a table may be long

    async def stop(self) -> None:
        """Close the pinned datapath, which continues."""
        self.forget()
        self.ready.clear()
        datapath, self.datapath = self.datapath, None
        if datapath is not None:
            datapath.close()

    def ports_changed(self) -> None:
        """Ports appeared or disappeared."""
        self._changed.set()

    async def lay_over(self, overlay: Overlay) -> None:
        """Switch to another overlay; no frame is lost.

        BypassError if a filter or the kernel refuses: the present one stays. UnreachableError: the datapath is down.
        """
        async with self._changing:
            if self.datapath is None:
                raise UnreachableError("the datapath is not up")
            # in a thread: thousands of rules take a second, and the other parts have to check in
            await asyncio.to_thread(self.datapath.set_policy, laid.apply(self._config, overlay))
            self.overlay = overlay
            try:
                await asyncio.to_thread(laid.save, self._overlay_file, overlay)
            except OSError as error:
                log.error("what guests registered is not kept for a restart: %s", error)

    def renew(self, until: int) -> None:
        """Renew the dead-man lease: without it every guest is skipped. Only the supervisor's pulse calls this."""
        if self.datapath is not None:
            self.datapath.leases.renew_supervisor(until)

    def _open(self) -> Datapath:
        from appliance.steering.datapath import Datapath

        datapath = Datapath.open(*self._files)
        datapath.devices.hold(self._hold)
        try:
            self._first_policy(datapath)
        except BypassError:
            datapath.close()
            raise
        return datapath

    def _first_policy(self, datapath: Datapath) -> None:
        """Set the policy with the overlay of an earlier bypassd, or without it if it does not fit any more."""
        self.overlay = laid.load(self._overlay_file)
        try:
            datapath.set_policy(self.effective)
        except BypassError as error:
            if self.overlay == Overlay():
                raise
            log.error(
                "what guests registered and what is in quarantine does not fit any more, and is dropped: %s", error
            )
            self.overlay = Overlay()
            datapath.set_policy(self._config)

    def _attach(self) -> None:
        """Attach segments that are not attached, have other ports now, or failed and are due for a retry."""
        now = time.monotonic_ns()
        for segment in self._config.segment:
            lan, wan = self._links.ports.get(segment.lan), self._links.ports.get(segment.wan)
            if lan is None or wan is None:
                self._attached.pop(segment.name, None)
                self._retries.pop(segment.name, None)
                continue
            indexes = (lan.ifindex, wan.ifindex)
            retry = self._retries.get(segment.name)
            if retry is None or retry.indexes != indexes:
                retry = Retry(indexes)
            if self._attached.get(segment.name) == indexes or now < retry.due:
                continue
            held = self._hold(segment.name)
            if held and not self._taken_over(segment):
                self._failed(segment.name, DatapathError(f"segment {segment.name}: {held}"), retry, now)
            else:
                self._attach_segment(segment, (lan.ifname, wan.ifname), retry, now)

    def _taken_over(self, segment: Segment) -> bool:
        """Whether its ports have the programs of an earlier bypassd: attaching them again changes nothing there."""
        return self.adopted and segment.name not in self._seen

    def _attach_segment(self, segment: Segment, ports: tuple[str, str], retry: Retry, now: int) -> None:
        """Attach; a failure is retried, in the same mode while it may be transient."""
        assert self.datapath is not None
        name = segment.name
        try:
            patient = retry.tries < PATIENT_TRIES
            why = _needs_tc(self._config, name)
            modes = self.datapath.attach_segment(
                name, *ports, segment.attach, mtu=segment.mtu, patient=patient, needs_tc=why
            )
        except BypassError as error:
            self._failed(name, error, retry, now)
            return
        self._seen.add(name)
        self._faults.pop(name, None)
        self._retries.pop(name, None)
        self._attached[name] = retry.indexes
        log.info("segment %s attached: %s (%s)", name, modes[0].mode, modes[0].reason)

    def _failed(self, name: str, error: BypassError, retry: Retry, now: int) -> None:
        fault = Fault(Cause.DATAPATH_FAULT, str(error))
        if self._faults.get(name) != fault:
            log.error("%s", error)
        self._faults[name] = fault
        retry.failed(now)
        self._retries[name] = retry
