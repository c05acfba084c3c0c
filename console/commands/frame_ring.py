# SPDX-License-Identifier: GPL-2.0-only
"""Frames copied out of the running datapath as they pass; shared by `capture` and `show packets`.

bypassd lends a ring buffer that the datapath fills (appliance/steering/capture_api.py); this process reads it, so
bypassd never waits for it. Lives as long as the `with` block; the capture ends with its connection.
"""

from __future__ import annotations

import os
import select
import struct
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from appliance.errors import UnreachableError
from console.client import Client
from console.line.parse import Parsed, UsageError

_HEAD = struct.Struct("<QIIHHI")  # struct copied in appliance/bpf/steer.h; both ends are the same machine


class Waitable(Protocol):
    """Something that poll accepts."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


class Frame(NamedTuple):
    """One copied frame. `when` in ns since 1970; `out`: it was sent to the place, not received from it."""

    when: int
    place: int
    out: bool
    length: int
    data: bytes


class Place(NamedTuple):
    """A point at which frames are captured."""

    name: str
    about: str


class FrameRing:
    """A running capture. `places` by number; `lost`: frames lost, as last reported by `count`."""

    def __init__(self, client: Client, params: dict[str, object], shift: int | None = None) -> None:
        """Start it. Errors are those of the client: an unknown name, an invalid filter, no datapath.

        `shift`: from the kernel's clock to that of the frames, in ns; the same for rings whose times are compared.
        """
        from appliance.system.libbpf import Ring

        self._client = client
        result, self._fd, self._link = client.borrow("capture.start", params)
        self._ring = Ring(self._fd)
        self._number = int(result["capture"])
        self.size = int(result["bytes"])
        self.places: dict[int, Place] = {
            int(point["slot"]): Place(str(point["name"]), str(point["description"])) for point in result["points"]
        }
        self.copied = self.lost = 0
        self._shift = shift if shift is not None else time.time_ns() - time.monotonic_ns()  # stamps: CLOCK_MONOTONIC

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ring.close()
        os.close(self._fd)
        self._link.close()

    def frames(self, stop: Waitable, out: Waitable | None = None) -> Iterator[list[Frame]]:
        """Frames as they pass, in order, until `stop` is readable or the reader of `out` has gone.

        UnreachableError when bypassd exits, which ends the capture.
        """
        poll = select.poll()
        poll.register(self._ring.fileno(), select.POLLIN)
        poll.register(self._link, select.POLLIN)
        poll.register(stop.fileno(), select.POLLIN)
        if out is not None:
            poll.register(out.fileno(), 0)  # errors only: the reader has gone
        while True:
            ready = {fd for fd, _ in poll.poll()}
            self._shift = time.time_ns() - time.monotonic_ns()
            if records := self._ring.read():
                yield [self._frame(record) for record in records]
            if stop.fileno() in ready or (out is not None and out.fileno() in ready):
                return
            if self._link.fileno() in ready:
                raise UnreachableError("bypassd exited, which ended the capture: start it again")

    def waiting(self) -> list[Frame]:
        """The frames that have passed, as far as the ring has kept them."""
        return [self._frame(record) for record in self._ring.read()]

    def _frame(self, record: bytes) -> Frame:
        when, length, captured, slot, way, _ = _HEAD.unpack_from(record)
        return Frame(when + self._shift, slot, bool(way), length, record[_HEAD.size : _HEAD.size + captured])

    def count(self) -> None:
        """Ask bypassd how many frames were copied and lost so far."""
        counts: dict[str, Any] = self._client.call("capture.counts", {"capture": self._number})
        self.copied, self.lost = int(counts["copied"]), int(counts["lost"])


def capture_params(parsed: Parsed) -> dict[str, object]:
    """The parameters of capture.start for a command."""
    words = [word for word in parsed.command.words if isinstance(word, str)]
    kind = next(word for word in words if word in ("port", "guest", "remote", "segment"))
    params: dict[str, object] = {"kind": kind, "name": parsed.args["NAME"]}
    if "SIDE" in parsed.args:
        params["side"] = parsed.args["SIDE"]
    if "direction" in parsed.options:
        params["way"] = parsed.options["direction"][0]
    if "bytes" in parsed.options:
        params["bytes"] = int(parsed.options["bytes"][0])
        if not params["bytes"]:
            raise UsageError("bytes must be 1 or more")
    if parsed.args.get("FILTER"):
        params["filter"] = parsed.args["FILTER"]
    return params


def count_of(parsed: Parsed, otherwise: int = 0) -> int:
    """The number of frames after which to stop; 0: no limit."""
    given = parsed.options.get("count")
    if given and int(given[0]) == 0:
        raise UsageError("count must be 1 or more")
    return int(given[0]) if given else otherwise
