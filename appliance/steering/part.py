# SPDX-License-Identifier: GPL-2.0-only
"""The part "steering": loads or adopts the datapath, attaches the segments' ports to it, renews its dead-man lease.

Owns the `Datapath` object from `start` to the end of bypassd; the pinned programs and maps outlive both. A segment
whose ports are missing is attached when they appear. What guests and incidents lay over the configuration
(steering/overlay.py) is part of the policy and kept on the data partition. What the kernel refuses is a fault of that
segment (or, from `start`, of all), and a reason to bypass.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.config.schema.model import Config, Segment
from appliance.errors import BypassError, UnreachableError
from appliance.hardware.links import Links
from appliance.part import PATIENCE_NS, Alive
from appliance.steering import overlay as laid
from appliance.steering.overlay import Overlay

if TYPE_CHECKING:
    from appliance.steering.datapath import Datapath, Prepared

log = logging.getLogger(__name__)


def _port_keys(segment: Segment) -> tuple[object, ...]:
    """What its ports are attached by."""
    return segment.lan, segment.wan, segment.attach, segment.mtu


class Steering:
    """See the module."""

    name = "steering"
    patience = PATIENCE_NS

    def __init__(self, config: Config, links: Links, bpf_object: Path, pins: Path, names: Path) -> None:
        self._config, self._links = config, links
        self._files = (bpf_object, pins, names)
        self.datapath: Datapath | None = None
        self.ready = asyncio.Event()
        self.faults: dict[str, str] = {}  # by segment
        self.overlay = Overlay()
        self._overlay_file = names.with_name("overlay.json")
        self._attached: dict[str, tuple[int, int]] = {}  # the port indexes that a segment is attached with
        self._changed = asyncio.Event()
        self._prepared: Prepared | None = None
        self._changing = asyncio.Lock()  # one policy after the other

    @property
    def adopted(self) -> bool:
        """Whether frames were flowing through this datapath before this bypassd began."""
        return self.datapath is not None and self.datapath.adopted

    @property
    def effective(self) -> Config:
        """The configuration with what is laid over it: what the datapath follows."""
        return laid.apply(self._config, self.overlay)

    async def start(self) -> None:
        """Load or adopt, set the policy, attach what is there. BypassError: the kernel or a file refuses."""
        async with self._changing:  # a commit meanwhile comes after it, and finds the datapath there
            self._attached.clear()
            # in a thread: import, load and policy take a second on a slow board, and the other parts have to check in
            self.datapath = await asyncio.to_thread(self._open)
            self._attach()
            self.ready.set()

    # -- another configuration

    async def prepare(self, config: Config) -> None:
        """Compile and load what `config` needs, beside what runs. FilterError, ConfigError, DatapathError."""
        self.forget()
        if self.datapath is not None:
            self._prepared = await asyncio.to_thread(self.datapath.prepare_policy, laid.apply(config, self.overlay))

    def forget(self) -> None:
        """Drop what was prepared and not used."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            prepared.close()

    async def apply(self, config: Config) -> None:
        """Switch to `config` in one step; then attach and detach ports as it says."""
        async with self._changing:
            await self._switch(config)

    async def _switch(self, config: Config) -> None:
        datapath = self.datapath
        old, self._config = self._config, config
        if datapath is None:
            return  # `start` will take it
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
                self.faults.pop(segment.name, None)
            if new is None or _port_keys(new) != _port_keys(segment):
                self._attached.pop(segment.name, None)
        self._attach()

    async def run(self, alive: Alive) -> None:
        """Attach again what changed."""
        while True:
            alive()
            try:
                async with asyncio.timeout(self.patience / 4e9):
                    await self._changed.wait()
            except TimeoutError:
                continue
            self._changed.clear()
            self._attach()

    async def stop(self) -> None:
        """Let go of the pinned datapath, which goes on."""
        self.forget()
        self.ready.clear()
        datapath, self.datapath = self.datapath, None
        if datapath is not None:
            datapath.close()

    def ports_changed(self) -> None:
        """Ports came or went."""
        self._changed.set()

    async def lay_over(self, overlay: Overlay) -> None:
        """Steer by another overlay from now on; no frame is lost.

        BypassError when a filter or the kernel refuses: what holds stays. UnreachableError: the datapath is not up.
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
        try:
            self._first_policy(datapath)
        except BypassError:
            datapath.close()
            raise
        return datapath

    def _first_policy(self, datapath: Datapath) -> None:
        """With what an earlier bypassd laid over; without it when it does not fit any more."""
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
        assert self.datapath is not None
        for segment in self._config.segment:
            lan, wan = self._links.ports.get(segment.lan), self._links.ports.get(segment.wan)
            if lan is None or wan is None:
                self._attached.pop(segment.name, None)
                continue
            indexes = (lan.ifindex, wan.ifindex)
            if self._attached.get(segment.name) == indexes:
                continue
            try:
                modes = self.datapath.attach_segment(
                    segment.name, lan.ifname, wan.ifname, segment.attach, mtu=segment.mtu
                )
            except BypassError as error:
                if self.faults.get(segment.name) != str(error):
                    log.error("%s", error)
                self.faults[segment.name] = str(error)
                continue
            self.faults.pop(segment.name, None)
            self._attached[segment.name] = indexes
            log.info("segment %s attached: %s (%s)", segment.name, modes[0].mode, modes[0].reason)
