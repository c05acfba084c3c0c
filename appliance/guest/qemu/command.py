# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's command line for one guest. Pure: a description goes in, the argument vector comes out.

Written for QEMU 7.2 to 10. Sockets, taps and files are not named on the command line: QEMU inherits them as open file
descriptors with the numbers of `plan`. So QEMU needs no right to create network interfaces or to open images, clients
can connect to the sockets before QEMU runs its first instruction, and nothing has to be polled.

The two ports of a segment are virtio-net devices without any offload: every frame on a tap is complete, with its
checksums and at its size on the wire, as XDP programs and the wire need it. `mrg_rxbuf` stays on, so that frames longer
than 1518 bytes fit, and `host_mtu` makes the guest's driver use the MTU of the segment's ports. PCI addresses are
fixed, so that a guest finds the LAN port first: 10.0 is the LAN and 11.0 the WAN of its first segment, 12.0 and 13.0
are those of the second, and so on; the management port is at 1e.0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from appliance.guest.port.mac_address import port_address

RECIPE = 3
"""Increment this when the arguments change in a way that requires a restart: running guests are then not adopted."""

Accel = Literal["kvm", "tcg"]

AGENT_PORT = "org.throughwire.agent.0"
"""Name of the virtio-serial port between a guest and bypassd."""

FIRST_FD = 10
QMP_FD, CONSOLE_FD, AGENT_FD, FIRST_TAP_FD = FIRST_FD, FIRST_FD + 1, FIRST_FD + 2, FIRST_FD + 3
"""The file descriptors that QEMU inherits: three listening Unix sockets, then LAN and WAN tap of each segment."""

FIRST_PORT_SLOT = 0x10
MAX_GUEST_SEGMENTS = 7  # slots 0x10 to 0x1d; q35 keeps 0x1f for itself
MANAGEMENT_SLOT = 0x1E
TB_CACHE_MIB = 64  # translated code of an emulated guest; QEMU's own choice is 1 GiB

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


class Drive(NamedTuple):
    """One disk. `snapshot` = writes go to a temporary file that is discarded when QEMU ends."""

    path: Path
    format: Literal["raw", "qcow2"]
    readonly: bool = False
    snapshot: bool = False

    @property
    def written(self) -> bool:
        """Whether the file itself is written to."""
        return not (self.readonly or self.snapshot)


class Uefi(NamedTuple):
    """The firmware's code, and the guest's own file of firmware variables."""

    code: Path
    variables: Path


@dataclass(frozen=True)
class Machine:
    """Everything that QEMU must know about a guest. Paths are absolute, `memory` is in bytes."""

    name: str
    hop: int
    memory: int
    cpus: int
    accel: Accel
    segments: int = 1
    kernel: Path | None = None
    initrd: Path | None = None
    cmdline: str = ""
    uefi: Uefi | None = None
    drives: tuple[Drive, ...] = ()
    hugepages: bool = False
    management: str = ""  # MAC address of the third port; "" = it has none
    addresses: tuple[str, str] = ("", "")  # MAC addresses of the ports at the first segment; "" = port_address
    mtus: tuple[int, ...] = ()  # of the ports at each segment; 0 or missing: QEMU does not announce an MTU
    vhost: bool = False
    queues: int = 1  # of each port on the data path
    poll_us: int = 0  # how long vhost looks for more frames
    program: str = "qemu-system-x86_64"


class File(NamedTuple):
    """A file that QEMU gets as an open descriptor; a writable one as two, because QEMU opens it for reading first."""

    fd: int
    path: Path
    written: bool = False

    @property
    def descriptors(self) -> tuple[tuple[int, bool], ...]:
        """The number of each descriptor, and whether it is for writing."""
        return ((self.fd, False), (self.fd + 1, True)) if self.written else ((self.fd, False),)


class Plan(NamedTuple):
    """What each descriptor is for. `taps`: the queues of the first port, then those of the next. `vhost`: one of
    /dev/vhost-net for each of them, in their order, and one for `management`."""

    taps: range
    management: int | None
    vhost: range
    kernel: File | None
    initrd: File | None
    uefi: tuple[File, File] | None
    drives: tuple[File, ...]

    @property
    def files(self) -> list[File]:
        """All files of the plan."""
        return [file for file in (self.kernel, self.initrd, *(self.uefi or ()), *self.drives) if file is not None]


def plan(machine: Machine) -> Plan:
    """The numbers of all descriptors beyond the three sockets."""
    taps = range(FIRST_TAP_FD, FIRST_TAP_FD + 2 * machine.segments * machine.queues)
    free = taps.stop
    management = free if machine.management else None
    free += management is not None
    vhost = range(free, free + (len(taps) + (management is not None) if machine.vhost else 0))
    free = vhost.stop

    def file(path: Path | None, written: bool = False) -> File | None:
        nonlocal free
        if path is None:
            return None
        made = File(free, path, written)
        free += len(made.descriptors)
        return made

    kernel, initrd = file(machine.kernel), file(machine.initrd)
    uefi = None
    if machine.uefi is not None:
        code, variables = file(machine.uefi.code), file(machine.uefi.variables, True)
        assert code is not None
        assert variables is not None
        uefi = (code, variables)
    drives = [file(drive.path, drive.written) for drive in machine.drives]
    return Plan(taps, management, vhost, kernel, initrd, uefi, tuple(drive for drive in drives if drive is not None))


def _ports(machine: Machine, fds: Plan) -> list[str]:
    argv: list[str] = []
    off = ",".join(f"{offload}=off" for offload in _PORT_OFFLOADS)
    several = f"mq=on,vectors={2 * machine.queues + 2}," * (machine.queues > 1)  # two a queue, control, configuration
    for port in range(2 * machine.segments):
        segment, side = divmod(port, 2)
        queues = slice(port * machine.queues, (port + 1) * machine.queues)
        given = machine.addresses[side] if segment == 0 else ""
        mtu = machine.mtus[segment] if segment < len(machine.mtus) else 0
        argv += _nic(
            f"port{segment}{'lw'[side]}",
            fds.taps[queues],
            fds.vhost[queues],
            f"{several}mac={given or port_address(machine.hop, segment, side)},addr={FIRST_PORT_SLOT + port:#x},"
            f"rx_queue_size=1024,{off}" + f",host_mtu={mtu}" * bool(mtu),
            machine.poll_us,
        )
    if fds.management is not None:
        third = range(fds.management, fds.management + 1)
        # Complete frames here as well: the tap has no header, which offloads would need.
        argv += _nic("management", third, fds.vhost[-1:], f"mac={machine.management},addr={MANAGEMENT_SLOT:#x},{off}")
    return argv


def _nic(name: str, taps: range, vhost: range, device: str, poll_us: int = 0) -> list[str]:
    """One port. `taps`: a descriptor for each of its queues, `vhost`: one for each of them, or none."""
    plural = "s" * (len(taps) > 1)
    netdev = f"tap,id={name},fd{plural}={':'.join(map(str, taps))}"
    if vhost:
        netdev += f",vhost=on,vhostfd{plural}={':'.join(map(str, vhost))}" + f",poll-us={poll_us}" * bool(poll_us)
    return ["-netdev", netdev, "-device", f"virtio-net-pci,netdev={name},romfile=,{device}"]


def _socket(name: str, fd: int) -> list[str]:
    return ["-chardev", f"socket,id={name},fd={fd},server=on,wait=off"]


def _fdset(file: File) -> str:
    return f"/dev/fdset/{file.fd}"


def _handed(file: File) -> list[str]:
    """Let QEMU's block layer find the descriptors by one name: a set that has the number of the first."""
    return [word for fd, _ in file.descriptors for word in ("-add-fd", f"fd={fd},set={file.fd}")]


def _source(drive: Drive, file: File) -> str:
    """Where a disk's content is. As a second safeguard, QEMU never opens a backing file that a qcow2 header names."""
    if drive.format == "raw":
        return _fdset(file)
    node = {"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": _fdset(file)}}
    return "json:" + json.dumps(node)


def _disks(machine: Machine, fds: Plan) -> list[str]:
    argv: list[str] = []
    if fds.uefi is not None:
        for file, more in zip(fds.uefi, (",readonly=on", ""), strict=True):
            argv += [*_handed(file), "-drive", f"if=pflash,format=raw,file={_fdset(file)}{more}"]
    for number, (drive, file) in enumerate(zip(machine.drives, fds.drives, strict=True)):
        source = _source(drive, file).replace(",", ",,")
        value = f"file={source},if=none,id=disk{number},format={drive.format}"
        value += ",readonly=on" * drive.readonly + ",snapshot=on" * (drive.snapshot and not drive.readonly)
        device = f"virtio-blk-pci,drive=disk{number},bootindex={number + 1},serial=disk{number}"
        argv += [*_handed(file), "-drive", value, "-device", device]
    return argv


def _kernel(machine: Machine, fds: Plan) -> list[str]:
    """The kernel loader opens files by name, so it gets the name of the descriptor."""
    if fds.kernel is None:
        return []
    argv = ["-kernel", f"/proc/self/fd/{fds.kernel.fd}", "-append", machine.cmdline or "console=ttyS0"]
    return [*argv, "-initrd", f"/proc/self/fd/{fds.initrd.fd}"] if fds.initrd is not None else argv


def _memory(machine: Machine) -> list[str]:
    size = f"{machine.memory >> 20}M"
    if not machine.hugepages:
        return ["-m", size]
    return ["-m", size, "-object", f"memory-backend-memfd,id=memory,size={size},hugetlb=on,prealloc=on"]


def build(machine: Machine) -> list[str]:
    """The argument vector, program first."""
    fds = plan(machine)
    accel = "kvm" if machine.accel == "kvm" else f"tcg,tb-size={TB_CACHE_MIB}"
    return [
        machine.program,
        *("-name", f"guest={machine.name}"),
        *("-nodefaults", "-no-user-config"),
        *("-display", "none"),
        *("-machine", "q35,usb=off,vmport=off,dump-guest-core=off" + ",memory-backend=memory" * machine.hugepages),
        *("-accel", accel),
        *("-cpu", "host" if machine.accel == "kvm" else "max"),
        *("-smp", str(machine.cpus)),
        *_memory(machine),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *_socket("qmp", QMP_FD),
        *("-mon", "chardev=qmp,mode=control"),
        *_socket("console", CONSOLE_FD),
        *("-serial", "chardev:console"),
        *("-device", "virtio-serial-pci,max_ports=2"),
        *_socket("agent", AGENT_FD),
        *("-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
        *("-device", "pvpanic-pci"),
        *("-device", "i6300esb"),  # a watchdog, which does not count until the guest starts it
        *("-action", "watchdog=reset"),
        *_ports(machine, fds),
        *_kernel(machine, fds),
        *_disks(machine, fds),
    ]


def with_file_names(machine: Machine, said: str) -> str:
    """QEMU's output, with file names in place of descriptors, which are all that QEMU knows (pure)."""
    fds = plan(machine)
    for drive, file in zip(machine.drives, fds.drives, strict=True):
        for text in (_source(drive, file).replace(",", ",,"), _source(drive, file)):
            said = said.replace(text, str(file.path))
    for file in sorted(fds.files, key=lambda file: -file.fd):
        said = said.replace(_fdset(file), str(file.path)).replace(f"/proc/self/fd/{file.fd}", str(file.path))
    return said
