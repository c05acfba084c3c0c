# SPDX-License-Identifier: GPL-2.0-only
"""`explain` on the running datapath, through the control socket.

A handler only; it reads the datapath that the part "steering" owns, and changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from appliance.api.schema import methods
from appliance.api.schema.state import Explained
from appliance.api.server import Param, Params, Registry
from appliance.counted import counted
from appliance.errors import RefusedError, UnreachableError
from appliance.frames.builder import MAX_FRAMES

if TYPE_CHECKING:
    from appliance.steering.datapath import Datapath

MAX_FRAME_BYTES = 16_384


class SteeringApi:
    """The handlers. `datapath`: the present one, or None while it is not up."""

    def __init__(self, datapath: Callable[[], Datapath | None]) -> None:
        self._datapath = datapath

    def register(self, registry: Registry) -> None:
        """Register the methods."""
        registry.add(
            methods.FRAMES_EXPLAIN,
            self.explain,
            doc="what the running datapath does with frames, and why; nothing is sent or counted",
            params={
                "frames": Param("array", f"whole Ethernet frames in hexadecimal, at most {MAX_FRAMES}"),
                "in": Param("string", "the port they come in by", choices=("lan", "wan")),
                "segment": Param("string", "its segment; may be left out when there is one", required=False),
            },
        )

    async def explain(self, params: Params) -> list[Explained]:
        """frames.explain"""
        from appliance.steering.explain.explain import explain_live
        from appliance.steering.kernel.layout import Side

        frames = [_frame(text) for text in params["frames"]]
        if not 0 < len(frames) <= MAX_FRAMES:
            raise RefusedError(f"{counted(len(frames), 'frame')}; one request takes 1 to {MAX_FRAMES}")
        rows: list[Explained] = []
        for number, frame in enumerate(frames, 1):
            side = Side[params["in"].upper()]
            rows.append(explain_live(self._up(), frame, side, params.get("segment", ""), number))
            await asyncio.sleep(0)  # let others run first: a lease must not wait for an explanation
        return rows

    def _up(self) -> Datapath:
        datapath = self._datapath()
        if datapath is None:
            raise UnreachableError("the datapath is not up: `bypass show status` says why")
        return datapath


def _frame(text: str) -> bytes:
    try:
        frame = bytes.fromhex(text)
    except ValueError as error:
        raise RefusedError(f"a frame is not hexadecimal: {error}") from error
    if len(frame) > MAX_FRAME_BYTES:
        raise RefusedError(f"a frame of {len(frame)} bytes; the most is {MAX_FRAME_BYTES}")
    return frame
