# SPDX-License-Identifier: GPL-2.0-only
"""Makes an LED of the box blink for a while, so that a person finds it. Not kept: it ends with bypassd."""

from __future__ import annotations

import time

from appliance.api.rpc import Param, Params, Registry
from appliance.api.schema import methods
from appliance.api.schema.base import Done
from appliance.errors import RefusedError
from appliance.supervisor.system import System

DEFAULT_S, LONGEST_S = 300, 86400


class Locate:
    """The handler of `locate.set`."""

    def __init__(self, system: System) -> None:
        self._system = system

    def register(self, registry: Registry) -> None:
        """Offer the method."""
        seconds = Param("integer", f"for how long; 0: no longer; default: {DEFAULT_S}", required=False)
        doc = "make an LED of the box blink fast, so that a person finds it"
        registry.add(methods.LOCATE_SET, self.set, "operator", doc, {"time": seconds})

    async def set(self, params: Params) -> Done:
        """locate.set"""
        system, seconds = self._system, int(params.get("time", DEFAULT_S))
        if not 0 <= seconds <= LONGEST_S:
            raise RefusedError(f"the time must be 0 s to {LONGEST_S} s, not {seconds} s")
        if system.board is None or not any(led.name in ("status", "locate") for led in system.board.led):
            raise RefusedError("this board has no LED that could blink")
        if not system.keeper.present:
            raise RefusedError("the keeper, which drives the LED, is not running")
        system.locate_until = time.monotonic_ns() + seconds * 1_000_000_000 if seconds else 0
        return Done(f"the LED blinks for {seconds} s" if seconds else "the LED no longer blinks")
