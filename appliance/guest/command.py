# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's command line for one guest. Pure: a description goes in, a list of words comes out.

Written for QEMU 7.2 to 10. Sockets and taps are not named on the command line: QEMU inherits them as open file
descriptors with the numbers given here. So it needs no right to create network interfaces, the sockets can be connected
to before QEMU runs its first instruction, and nothing has to be polled for.

The two ports of a segment are virtio-net devices without any offload: every frame on a tap is complete, with its
checksums and at its size on the wire, as XDP programs and the wire need it. `mrg_rxbuf` stays on, so that frames longer
than 1518 bytes (tags) fit. PCI addresses are fixed, so a guest finds the LAN port first: 10.0 is LAN, 11.0 WAN of its
first segment, 12.0 and 13.0 of the second, and so on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Accel = Literal["kvm", "tcg"]

AGENT_PORT = "org.throughwire.agent.0"
"""Name of the virtio-serial port on which a guest speaks to bypassd."""

FIRST_FD = 10
QMP_FD, CONSOLE_FD, AGENT_FD, FIRST_TAP_FD = FIRST_FD, FIRST_FD + 1, FIRST_FD + 2, FIRST_FD + 3
"""The file descriptors QEMU inherits: three listening Unix sockets, then LAN and WAN tap of each segment."""

FIRST_PORT_SLOT = 0x10
MAX_GUEST_SEGMENTS = 7  # slots 0x10 to 0x1d; q35 keeps 0x1f for itself

_PORT_OFFLOADS = (
    "csum",
    "guest_csum",
    "gso",
    "guest_tso4",
    "guest_tso6",
    "guest_ecn",
    "guest_ufo",
    "host_tso4",
    "host_tso6",
    "host_ecn",
    "host_ufo",
    "ctrl_guest_offloads",
)


@dataclass(frozen=True)
class Machine:
    """All that QEMU must know of a guest. Paths are absolute, `memory` is in bytes."""

    name: str
    hop: int
    memory: int
    cpus: int
    accel: Accel
    pidfile: Path
    segments: int = 1
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    disk: Path | None = None
    disk_format: Literal["raw", "qcow2"] = "raw"
    vhost: bool = False
    program: str = "qemu-system-x86_64"


def port_address(hop: int, segment: int, side: int) -> str:
    """The MAC address of a guest's port: locally administered, the same at every start. Side 0 = LAN, 1 = WAN."""
    return f"02:54:58:{hop & 0xFF:02x}:{segment & 0xFF:02x}:{side + 1:02x}"


def _ports(machine: Machine) -> list[str]:
    words: list[str] = []
    off = ",".join(f"{offload}=off" for offload in _PORT_OFFLOADS)
    for segment in range(machine.segments):
        for side, letter in enumerate("lw"):
            port = 2 * segment + side
            netdev = f"tap,id=port{segment}{letter},fd={FIRST_TAP_FD + port}"
            if machine.vhost:
                netdev += ",vhost=on"
            device = (
                f"virtio-net-pci,netdev=port{segment}{letter},mac={port_address(machine.hop, segment, side)},"
                f"addr={FIRST_PORT_SLOT + port:#x},rx_queue_size=1024,romfile=,{off}"
            )
            words += ["-netdev", netdev, "-device", device]
    return words


def _socket(name: str, fd: int) -> list[str]:
    return ["-chardev", f"socket,id={name},fd={fd},server=on,wait=off"]


def _escape(value: Path) -> str:
    """QEMU splits option values at commas; a doubled comma is one comma of the value."""
    return str(value).replace(",", ",,")


def build(machine: Machine) -> list[str]:
    """The words of the command, program first."""
    words = [
        machine.program,
        *("-name", f"guest={machine.name}"),
        *("-nodefaults", "-no-user-config"),
        *("-display", "none"),
        *("-machine", f"q35,accel={machine.accel},usb=off,vmport=off"),
        *("-cpu", "host" if machine.accel == "kvm" else "max"),
        *("-smp", str(machine.cpus)),
        *("-m", f"{machine.memory >> 20}M"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-pidfile", str(machine.pidfile)),
        *_socket("qmp", QMP_FD),
        *("-mon", "chardev=qmp,mode=control"),
        *_socket("console", CONSOLE_FD),
        *("-serial", "chardev:console"),
        *("-device", "virtio-serial-pci,max_ports=2"),
        *_socket("agent", AGENT_FD),
        *("-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
        *("-device", "pvpanic-pci"),
        *_ports(machine),
    ]
    if machine.kernel is not None:
        words += ["-kernel", str(machine.kernel)]
        if machine.initrd is not None:
            words += ["-initrd", str(machine.initrd)]
        words += ["-append", machine.cmdline or "console=ttyS0"]
    if machine.disk is not None:
        drive = f"file={_escape(machine.disk)},if=none,id=disk0,format={machine.disk_format}"
        words += ["-drive", drive, "-device", "virtio-blk-pci,drive=disk0,bootindex=1"]
    return words
