# SPDX-License-Identifier: GPL-2.0-only
"""Attaches devices in the best mode that their drivers accept, native XDP or tc, and ports with the best MTU.

attach_mode.py says what to try, and why; it is tried here, because only an attempt shows what a driver accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from appliance.errors import DatapathError
from appliance.steering.kernel import attach_mode
from appliance.steering.kernel.links import Links
from appliance.steering.kernel.slots import Attachment, Slots
from appliance.system import netdev_facts as devices
from appliance.system import offloads


class _UnfitError(DatapathError):
    """The driver has native XDP, but it cannot do what is needed."""


class Attacher:
    """The attacher of one datapath. Keeps what was requested for each segment, and what each port's hardware does."""

    def __init__(self, slots: Slots, links: Links) -> None:
        self._slots, self._links = slots, links
        self._may_change: dict[str, bool] = {}  # by segment: the configuration leaves the choice of its mode to us
        self._asked: dict[str, tuple[str, int]] = {}  # by segment: the configured mode and MTU
        self.hold: Callable[[str], str] = lambda segment: ""  # why its ports cannot leave XDP now
        self._altering: dict[str, tuple[str, ...]] = {}  # by port: what its hardware does to frames, as text

    def attach_ports(
        self,
        segment: str,
        there: dict[int, devices.Device],
        mode: str,
        mtu: int,
        *,
        whole: bool,
        patient: bool,
        needs_tc: str = "",
    ) -> None:
        """Attach a segment's ports (by slot). Arguments and errors as in `Attachments.attach_segment`."""
        self._altering |= {port.name: offloads.switch_off(port.name) for port in there.values()}
        asked = (mode, mtu)
        attempt, reason = self._try_ports(segment, there, asked, whole=whole, patient=patient, needs_tc=needs_tc)
        for place in there:
            self._slots[place].mode, self._slots[place].reason = attempt, reason
        self._may_change[segment], self._asked[segment] = mode == "auto", asked

    def attach_tap(self, placed: Attachment, mode: str) -> None:
        """Attach a hop's tap. `mode` and errors as in `Attachments.attach_hop`."""
        segment, hop = placed.segment, placed.hop
        ports = self._slots.ports(segment)
        by_xdp, out = any(port.mode == "xdp" for port in ports), placed.sent_by
        if by_xdp and not out.sends():
            self._leave_xdp(segment, f"XDP cannot send to {out.name} ({out.driver}) of hop {hop}")
        elif by_xdp and not out.sends_several():
            self._mind_long_frames(segment, ports, hop)
        tried = ("tc",) if any(port.mode == "tc" for port in ports) else ("xdp", "tc")
        placed.mode, placed.reason = self._try_tap(placed, tried if mode == "auto" else (mode,))
        if mode != "auto":
            placed.reason = "requested"

    def _try_ports(
        self,
        segment: str,
        there: dict[int, devices.Device],
        asked: tuple[str, int],
        *,
        whole: bool,
        patient: bool,
        needs_tc: str,
    ) -> tuple[str, str]:
        """Attach a segment's ports in the best mode, with the largest MTU for it; returns the mode, and why."""
        mode, mtu = asked
        who = f"segment {segment}"
        hops = [one.hop for one in self._slots.of(segment) if one.hop and not one.sent_by.sends_several()]
        problem = attach_mode.refusal(mode, self._facts(there.values()))
        if problem:
            raise DatapathError(f"{who}: {problem}")
        why = "" if mode == "auto" else "requested by `attach`"
        accepted: int | None = None
        for size in self._sizes(segment, there, (mode, mtu)):
            if not self._resize(there, size, demanded=mtu != 0, may_change=mode == "auto"):
                continue
            accepted = size if accepted is None else accepted
            choice = attach_mode.choose(mode, self._facts(there.values()), hops, needs_tc)
            if choice.tried[0] != "xdp":
                why = why or choice.reason
                break
            several = attach_mode.in_several_buffers(self._facts(there.values()))
            try:
                self._attach(there, "xdp", who, whole=whole, several=bool(several))
            except _UnfitError as error:
                why = str(error)
                break
            except DatapathError as error:
                if patient and error.passing:
                    raise
                why = str(error)
                if all(one.has_xdp() for one in there.values()):
                    continue  # perhaps with shorter frames
                break
            if several and hops:
                why = f"{why}; {several}, which skip {', '.join(dict.fromkeys(hops))}"
            return "xdp", why or "both ports have native XDP"
        if mode == "xdp":
            raise DatapathError(why)
        self._resize(there, accepted or 0)
        self._attach(there, "tc", who, whole=whole)
        return "tc", why.removeprefix(f"{who}: ")

    def _sizes(self, segment: str, there: dict[int, devices.Device], asked: tuple[str, int]) -> tuple[int, ...]:
        """The MTUs to try, in order; 0: unchanged. Ports in line keep theirs: a change may interrupt their link."""
        _, mtu = asked
        if mtu:
            return (mtu,)
        in_line = all(self._links.mode(place, port.ifindex) is not None for place, port in there.items())
        if in_line and self._asked.get(segment, asked) == asked:
            return (0,)
        return (*attach_mode.auto_mtus(self._facts(there.values())), 0)

    def _resize(
        self, there: dict[int, devices.Device], size: int, *, demanded: bool = False, may_change: bool = False
    ) -> bool:
        """Give these ports an MTU (0: unchanged); False: one of them refuses it, and all are as before.

        `demanded`: the MTU is configured, so a refusal is an error. `may_change`: if a driver refuses it because of
        XDP, leave XDP first.
        """
        before = dict(there)
        for place, port in before.items():
            try:
                there[place] = port.resized(size or port.mtu)
            except OSError as error:
                if may_change and demanded and self._links.mode(place, port.ifindex) == "xdp":
                    for one, other in before.items():
                        self._links.attach(one, other.ifindex, "tc")
                    there.update(before)
                    return self._resize(there, size, demanded=demanded)
                for one, other in before.items():
                    with suppress(OSError):
                        there[one] = other.resized(other.mtu)
                if demanded:
                    what = f"{port.name} ({port.driver}): an MTU of {size} is refused: {error.strerror}"
                    raise DatapathError(f"{what}; it has {port.mtu}") from error
                return False
        for place, port in there.items():
            self._slots[place].device = port
        return True

    def _facts(self, ports: Iterable[devices.Device]) -> list[attach_mode.PortFacts]:
        return [
            attach_mode.PortFacts(
                port.name, port.driver, port.mtu, port.delivers_several(), self._altering.get(port.name, ())
            )
            for port in ports
        ]

    def delivers_several(self, port: devices.Device) -> bool:
        """Whether by XDP some of its frames come in several buffers."""
        return bool(attach_mode.in_several_buffers(self._facts((port,))))

    def _mind_long_frames(self, segment: str, ports: list[Attachment], hop: str) -> None:
        """The taps of a hop do not take frames in several buffers: leave XDP, or report that such frames skip it."""
        several = attach_mode.in_several_buffers(self._facts(port.device for port in ports))
        if not several:
            return
        if self._may_change.get(segment, True):
            self._leave_xdp(segment, f"{several}, which guests get by tc only")
        for port in ports:
            if port.mode == "xdp" and several not in port.reason:
                port.reason = f"{port.reason}; {several}, which skip {hop}"

    def _try_tap(self, placed: Attachment, tried: tuple[str, ...]) -> tuple[str, str]:
        """Attach a tap in the first mode that works; returns that mode, and why not an earlier one."""
        reason = f"as the ports of segment {placed.segment}"
        for attempt in tried:
            try:
                self._attach({placed.slot: placed.device}, attempt, f"hop {placed.hop}")
            except DatapathError as error:
                if attempt == tried[-1]:
                    raise
                reason = str(error)
                continue
            return attempt, reason
        raise DatapathError(f"hop {placed.hop}: no mode to attach by")

    def _attach(
        self, places: dict[int, devices.Device], mode: str, who: str, *, whole: bool = False, several: bool = False
    ) -> None:
        """Attach all of these. `several`: they also get frames in several buffers. DatapathError names the device.

        _UnfitError: there is native XDP, but it does not suffice.
        """
        device = next(iter(places.values()))
        try:
            for place, device in places.items():
                self._links.attach(place, device.ifindex, mode, filling=device.leaves_checksums and not whole)
        except DatapathError as error:
            what = "no native XDP: " if mode == "xdp" else "tc: "
            raise DatapathError(f"{who}: {device.name} ({device.driver}): {what}{error}", error.code) from error
        # Only now, because some drivers can be sent to only while a program is attached.
        for device in places.values() if mode == "xdp" else ():
            if not device.sends():
                raise _UnfitError(f"{who}: {device.name} ({device.driver}): XDP cannot send to it")
            if several and not device.sends_several():
                what = "XDP cannot send frames in several buffers to it"
                raise _UnfitError(f"{who}: {device.name} ({device.driver}): {what}")

    def _leave_xdp(self, segment: str, reason: str) -> None:
        """Switch the segment's devices to tc; no frame is lost."""
        if not self._may_change.get(segment, True):
            raise DatapathError(f'segment {segment}: {reason}: set attach = "tc"')
        if held := self.hold(segment):
            raise DatapathError(f'segment {segment}: {reason}: {held}, or set attach = "tc"')
        for attached in self._slots.of(segment):
            if attached.mode == "xdp":
                self._links.attach(attached.slot, attached.device.ifindex, "tc")
                attached.mode, attached.reason = "tc", reason
