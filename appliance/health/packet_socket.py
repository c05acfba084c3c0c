# SPDX-License-Identifier: GPL-2.0-only
"""A packet socket on one tap of a guest: the I/O half of in-band heartbeats.

A frame that is sent here leaves through the tap and so enters the guest. A frame that the guest sends from that port,
and that the datapath passes to the host stack, is read here. The socket is bound to one interface and one EtherType,
and a socket filter in the kernel drops frames without the hop's key, so that no other traffic wakes bypassd. It lives
as long as the guest's process.
"""

from __future__ import annotations

import socket
import struct

from appliance.errors import GuestError
from appliance.health.inband_routed import IPV4, IPV6
from appliance.system import packet

_PACKET_QDISC_BYPASS = 20
_SO_MARK = 36
_READ_LIMIT = 32
"""At most this many frames are read per wake-up, so that a flood does not block the event loop."""


_KEY = 16  # of the payload behind an IP header: UDP (8), magic, version, direction and hop (8), then the nonce


def code(ethertype: int, key: bytes) -> list[packet.Line]:
    """Classic BPF: keep 128 bytes of a frame with the hop's key in its source address or payload, drop all others.

    A frame that ends before the key is dropped by the load itself.
    """
    value = int.from_bytes(key, "big")
    taken, dropped = (0x06, 0, 0, 128), (0x06, 0, 0, 0)  # ret
    lines = [(0x20, 0, 0, 8), (0x15, 0, 1, value), taken]  # ld [8], jeq
    if ethertype == IPV4:  # ldxb 4*([14]&0xf), ld [x + k]
        lines += [(0xB1, 0, 0, 14), (0x40, 0, 0, 14 + _KEY), (0x15, 0, 1, value), taken]
    elif ethertype == IPV6:
        lines += [(0x20, 0, 0, 14 + 40 + _KEY), (0x15, 0, 1, value), taken]
    return [*lines, dropped]


class PacketSocket:
    """Sends to and reads from one tap."""

    def __init__(self, interface: str, ethertype: int, key: bytes) -> None:
        """Open on `interface`, for frames of this EtherType (behind tags) that hold the hop's key.

        GuestError when the interface is not there or packet sockets are not allowed.
        """
        self.interface = interface
        self.refused = 0  # frames that the tap did not accept (no guest, or its queue is full)
        try:
            # past the queueing discipline, so that `send` says that the tap's queue is full
            self._socket = packet.listen(interface, ethertype, code(ethertype, key), _PACKET_QDISC_BYPASS)
        except OSError as error:
            raise GuestError(f"no packet socket on {interface}: {error.strerror}") from error

    def fileno(self) -> int:
        """For the event loop."""
        return self._socket.fileno()

    def send(self, frame: bytes, queue: int | None = None) -> None:
        """Send one frame to the guest; a refusal is only counted, because it also shows as a missing answer.

        `queue`: by which one it enters, of a tap with several: its mark says so (guest/port/tap.py).
        """
        mark = [(socket.SOL_SOCKET, _SO_MARK, struct.pack("=I", queue + 1))] if queue is not None else []
        try:
            self._socket.sendmsg([frame], mark)
        except OSError:
            self.refused += 1

    def receive(self) -> list[bytes]:
        """The frames that are waiting, at most 32; empty when there are none or the tap is down."""
        frames: list[bytes] = []
        while len(frames) < _READ_LIMIT:
            try:
                frames.append(self._socket.recv(256))
            except OSError:  # nothing more (EAGAIN), or the interface went down (ENETDOWN, reported once)
                break
        return frames

    def close(self) -> None:
        """Idempotent; see packet.close."""
        packet.close(self._socket)
