# SPDX-License-Identifier: GPL-2.0-only
"""The parts of an appliance, what each one needs, and the roles that select from them.

The control socket comes first, because the console must work whatever else is missing. Links and steering come before
the segments, which decide on the relay; users, SSH and metrics wait until that is done, and so do the guests, because
the datapath skips a missing guest. Modules that are slow to import are imported here, in a thread, when needed.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from appliance.hardware.reset_cause import HARMLESS
from appliance.part import Part
from appliance.supervisor.parts import Entry, pick
from appliance.supervisor.system import System

log = logging.getLogger(__name__)

MS: Final = 1_000_000


@dataclass(frozen=True)
class Given:
    """What the parts are made from. `keeper_settled` waits until the keeper has reported where the relays are."""

    system: System
    keeper_settled: Callable[[], Awaitable[None]]
    wake: Callable[[], None]


async def _control(given: Given) -> Part:
    return given.system.control


async def _links(given: Given) -> Part:
    return given.system.links


async def _steering(given: Given) -> Part:
    return given.system.steering


async def _segments(given: Given) -> None:
    """Leave `starting`: from here on the pulse updates the segments."""
    system = given.system
    await given.keeper_settled()
    now = time.monotonic_ns()
    first = system.crash_log.reset.kind in HARMLESS
    intact = system.steering.adopted
    system.segments.begin(now, system.keeper_state, system.faults, intact=intact, first=first)
    given.wake()
    log.info("segments begin %d ms after start", (now - system.began) // MS)
    restore_priority()


async def _access(given: Given) -> Part:
    await asyncio.to_thread(importlib.import_module, "appliance.supervisor.management")
    from appliance.supervisor.management import compose

    given.system.access = compose(given.system)
    return given.system.access


async def _guests(given: Given) -> Part:
    system = given.system
    await system.steering.ready.wait()
    await asyncio.to_thread(importlib.import_module, "appliance.guest.api")
    from appliance.guest import api
    from appliance.guest.manager import GuestManager

    assert system.steering.datapath is not None
    assert system.config is not None
    system.guests = GuestManager(
        system.config,
        system.paths,
        system.steering.datapath,
        system.transitions,
        steered=system.steering,
        lan=system.lan,
        clock=time.monotonic_ns,
    )
    api.register(system.registry, system.guests)
    return system.guests


async def _remotes(given: Given) -> Part:
    system = given.system
    await system.steering.ready.wait()
    await asyncio.to_thread(importlib.import_module, "appliance.remote.api")
    from appliance.remote import api
    from appliance.remote.manager import RemoteManager

    assert system.steering.datapath is not None
    assert system.config is not None
    ports = system.links.ports
    system.remotes = RemoteManager(
        system.config,
        system.paths,
        system.steering.datapath,
        system.transitions,
        space=system.lan.space,
        clock=time.monotonic_ns,
        port=lambda name: ports[name].ifname if name in ports else "",
    )
    api.register(system.registry, system.remotes)
    return system.remotes


async def _unclaimed(given: Given) -> None:
    """Detach devices that no guest or remote has adopted: they belong to some that are no longer configured."""
    datapath = given.system.steering.datapath
    if datapath is not None:
        datapath.drop_unclaimed()


PARTS: Final[tuple[Entry[Given], ...]] = (
    Entry("control", _control),
    Entry("links", _links, after=("control",)),
    Entry("steering", _steering, needs=("links",), configured=True),
    Entry("segments", _segments, needs=("links", "steering")),
    Entry("access", _access, needs=("control",), after=("segments",)),
    Entry("guests", _guests, needs=("steering",), after=("segments",), configured=True),
    Entry("remotes", _remotes, needs=("steering",), after=("segments",), configured=True),
    Entry("unclaimed", _unclaimed, needs=("steering",), after=("guests", "remotes"), configured=True),
)

ROLES: Final[dict[str, tuple[str, ...]]] = {
    "appliance": tuple(entry.name for entry in PARTS),
}
"""A machine's role, as the names of its parts. One that only processes frames for others has no segments."""


def parts_of(role: str) -> tuple[Entry[Given], ...]:
    """The parts of a role. KeyError: there is no such role."""
    return pick(PARTS, ROLES[role])


def restore_priority() -> None:
    """Drop the priority that `main` took for the start: guests are child processes and must not inherit it."""
    for task in os.listdir("/proc/self/task"):
        try:
            os.setpriority(os.PRIO_PROCESS, int(task), 0)
        except OSError:
            continue  # a thread that ended meanwhile
