# SPDX-License-Identifier: GPL-2.0-only
"""The control socket's methods guests.show and guest.*, with those of images, incidents and quarantine.

Nothing is kept here; every method asks the part "guests" (manager.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from appliance.api.connection import take_over
from appliance.api.rpc import Param, Params, Registry
from appliance.api.schema import guests as answer
from appliance.api.schema import methods
from appliance.api.schema.base import Done
from appliance.errors import GuestError
from appliance.guest.image import api as image_api
from appliance.guest.manager import GuestManager


def register(registry: Registry, manager: GuestManager, clock: Callable[[], int] = time.monotonic_ns) -> None:
    """Add the methods to `registry`."""
    manager.images.tidy()
    image_api.register(registry, manager.images)
    manager.failures.register(registry)
    _register_views(registry, manager, clock)
    _register_orders(registry, manager)


_NAME = {"name": Param("string", "the guest's name")}


def _register_views(registry: Registry, manager: GuestManager, clock: Callable[[], int]) -> None:
    async def show_all(_: Params) -> list[answer.Guest]:
        return manager.summary()

    async def show(params: Params) -> answer.GuestDetails:
        return manager.details(params["name"])

    async def console(params: Params) -> answer.Console:
        guest = manager.guest(params["name"])
        guest.console.check_room()
        take_over(guest.console.attach)
        return answer.Console(state=guest.state.value)

    async def log(params: Params) -> answer.Log:
        guest = manager.guest(params["name"])
        text = guest.console.tail(max(1, params.get("lines", 40))).decode(errors="replace")
        lines = [line.rstrip("\r") for line in text.split("\n")]
        return answer.Log(file=str(guest.console.log_file), lines=lines)

    count = {"lines": Param("integer", "how many of the last lines; 40 by default", required=False)}
    registry.add(methods.GUEST_LOG, log, doc="What a guest printed on its serial line.", params={**_NAME, **count})
    registry.add(methods.GUEST_CONSOLE, console, "operator", "The connection becomes the guest's serial line.", _NAME)
    registry.add(methods.GUESTS_SHOW, show_all, doc="Every guest: state, cause, lease, process.")
    registry.add(methods.GUEST_SHOW, show, doc="One guest, with the evidence of its checks.", params=_NAME)


def _register_orders(registry: Registry, manager: GuestManager) -> None:
    async def start(params: Params) -> Done:
        return Done(manager.guest(params["name"]).start())

    async def stop(params: Params) -> Done:
        return Done(manager.guest(params["name"]).stop())

    async def restart(params: Params) -> Done:
        return Done(manager.guest(params["name"]).restart())

    async def drain(params: Params) -> Done:
        return Done(manager.guest(params["name"]).drain())

    async def pause(params: Params) -> Done:
        return Done(await manager.guest(params["name"]).pause(True))

    async def resume(params: Params) -> Done:
        return Done(await manager.guest(params["name"]).pause(False))

    async def command(params: Params) -> Done:
        value = params.get("value", 0)
        if not isinstance(value, int):
            raise GuestError("value must be a whole number")
        return Done(manager.guest(params["name"]).command(str(params["word"]), value))

    registry.add(methods.GUEST_START, start, "operator", "Start a guest, or put it back into service.", _NAME)
    registry.add(methods.GUEST_STOP, stop, "operator", "Take a guest's traffic away, then power it down.", _NAME)
    doc = "Stop a guest and start it again; one that does not run is started."
    registry.add(methods.GUEST_RESTART, restart, "operator", doc, _NAME)
    registry.add(methods.GUEST_PAUSE, pause, "operator", "Take a guest's traffic away and pause its vCPUs.", _NAME)
    registry.add(
        methods.GUEST_RESUME, resume, "operator", "Resume a paused guest; it must pass its checks again.", _NAME
    )
    registry.add(methods.GUEST_DRAIN, drain, "operator", "Send a guest no new flows.", _NAME)
    registry.add(
        methods.GUEST_COMMAND,
        command,
        "operator",
        "Send a command to the guest's agent (demo guest: hang, freeze, drop, slow, resume, exit).",
        {
            **_NAME,
            "word": Param("string", "the command"),
            "value": Param("integer", "its argument, if it takes one", required=False),
        },
    )
