# SPDX-License-Identifier: GPL-2.0-only
"""The computer on the board: a QEMU process, its command line, its monitor.

The command line is a pure function of a Payload and a few paths. `Machine` is one power-on: it starts the process and
ends with it; the next power-on is another Machine.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulator import netns
from simulator.qmp import Qmp, QmpError
from simulator.wires import QUEUES

COMMAND_LINE = "console=ttyS0 loglevel=3 net.ifnames=0 unknown_nmi_panic=1 panic=-1"
DEBUG = "bypass.debug=ttyS1"
QEMU = "qemu-system-x86_64"
PORTS = (("lan0", "0x10", "02:77:01:00:00:10"), ("wan0", "0x11", "02:77:01:00:00:11"),
         ("mgmt0", "0x12", "02:77:01:00:00:12"))  # fmt: skip
CHANNELS = ("qmp", "console", "debug", "gpio")


@dataclass(frozen=True)
class Drive:
    serial: str
    path: Path
    readonly: bool = True


@dataclass(frozen=True)
class Payload:
    """What the machine boots."""

    kernel: Path
    initrd: Path | None = None
    drives: tuple[Drive, ...] = ()
    append: str = COMMAND_LINE
    memory_mb: int = 1536
    cpus: int = 2


@dataclass(frozen=True)
class Accelerator:
    """How QEMU computes, and why so; `program` is which QEMU."""

    name: str = "tcg"
    why: str = "not tried"
    program: str = QEMU

    @property
    def arguments(self) -> list[str]:
        if self.name == "kvm":
            return ["-accel", "kvm", "-cpu", "host"]
        return ["-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt,+nrip-save"]


def command_line(payload: Payload, accelerator: Accelerator, erst: Path, fds: dict[str, int]) -> list[str]:
    """QEMU's arguments for the reference board; `fds` are its ends of the channels."""
    line = [accelerator.program, "-name", "throughwire", "-nodefaults", "-no-user-config", "-display", "none"]
    line += ["-M", "q35,memory-backend=mem", *accelerator.arguments, "-smp", str(payload.cpus)]
    line += ["-m", f"{payload.memory_mb}M"]
    line += ["-object", f"memory-backend-memfd,id=mem,size={payload.memory_mb}M,share=on"]
    line += ["-kernel", str(payload.kernel), "-append", payload.append, "-S"]
    if payload.initrd:
        line += ["-initrd", str(payload.initrd)]
    # panic=none: the kernel restarts itself, as it would on metal; pvpanic only tells us
    line += ["-action", "watchdog=inject-nmi", "-action", "panic=none", "-action", "reboot=reset"]
    for channel in CHANNELS:
        line += ["-chardev", f"socket,id={channel},fd={fds[channel]}"]
    line += ["-mon", "chardev=qmp,mode=control", "-serial", "chardev:console", "-serial", "chardev:debug"]
    for drive in payload.drives:
        readonly = "on" if drive.readonly else "off"
        line += ["-drive", f"if=none,id={drive.serial},file={drive.path},format=raw,readonly={readonly}"]
        line += ["-device", f"virtio-blk-pci,drive={drive.serial},serial={drive.serial}"]
    for name, slot, mac in PORTS:
        queues = QUEUES if name != "mgmt0" else 1
        line += ["-netdev", f"tap,id={name}-tap,ifname={name},script=no,downscript=no,queues={queues}"]
        several = f",mq=on,vectors={2 * queues + 2}" if queues > 1 else ""
        line += ["-device", f"virtio-net-pci,id={name},netdev={name}-tap,mac={mac},addr={slot}{several}"]
    line += ["-device", "vhost-user-gpio-pci,chardev=gpio", "-device", "i6300esb", "-device", "pvpanic-pci"]
    line += ["-device", "virtio-rng-pci"]
    line += ["-object", f"memory-backend-file,id=erst,mem-path={erst},size=64K,share=on"]
    line += ["-device", "acpi-erst,memdev=erst"]
    return line


@dataclass
class Machine:
    """One QEMU process from power-on to its end. All calls come from the loop's thread."""

    namespace: str
    command: Callable[[dict[str, int]], list[str]]
    log: Path
    on_event: Callable[[dict[str, Any]], None]
    on_exit: Callable[[int], None]
    _process: subprocess.Popen[bytes] | None = None
    _pidfd: int = -1
    _qmp: Qmp | None = None
    _exited: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> dict[str, socket.socket]:
        """Start QEMU with its processors stopped; returns our ends of the channels. Raises OSError."""
        pairs = {name: socket.socketpair() for name in CHANNELS}
        fds = {name: pair[1].fileno() for name, pair in pairs.items()}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                netns.inside(self.namespace, *self.command(fds)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=list(fds.values()),
                start_new_session=True,
            )
        for pair in pairs.values():
            pair[1].close()
        self._pidfd = os.pidfd_open(self._process.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)
        return {name: pair[0] for name, pair in pairs.items()}

    async def negotiate(self, connection: socket.socket) -> None:
        """Open the monitor. Raises QmpError with QEMU's complaint when it did not come up."""
        self._qmp = Qmp(self.on_event)
        try:
            await self._qmp.connect(connection)
        except QmpError as error:
            await self._exited.wait()
            text = self.log.read_text(errors="replace").strip().splitlines()
            raise QmpError(f"QEMU did not start: {text[-1] if text else error}") from error

    async def qmp(self, command: str, **arguments: Any) -> Any:
        if self._qmp is None:
            raise QmpError(f"{command}: the machine is off")
        return await self._qmp.execute(command, **arguments)

    def kill(self) -> None:
        if self._process and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)

    async def wait(self) -> None:
        await self._exited.wait()

    def _ended(self) -> None:
        assert self._process is not None
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        status = self._process.wait()
        if self._qmp:
            self._qmp.close()
        self._exited.set()
        self.on_exit(status)
