# SPDX-License-Identifier: GPL-2.0-only
"""The board's computer: a QEMU process, its command line, its monitor.

The command line is a pure function of a Payload and a few paths. A `Machine` is one power-on: it starts the process and
ends with it; the next power-on is another Machine. What depends on board and processor comes from `boardspec.py`.
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

import boardspec
from boardspec import Arch, BoardSpec, Port

from simulator import netns
from simulator.qmp import Qmp, QmpError
from simulator.wires import QUEUES, SIDES

CHANNELS = ("qmp", "console", "debug", "gpio", "i2c")
DESCRIPTION = "opt/throughwire/board.toml"  # where the machine finds its board.toml, if it is not the image's


@dataclass(frozen=True)
class Drive:
    """A disk. `log`: a file in which QEMU records every write and flush in order (its driver blklogwrites)."""

    serial: str
    path: Path
    readonly: bool = True
    log: Path | None = None

    @property
    def backend(self) -> str:
        """The value of -drive (pure)."""
        start = f"if=none,id={self.serial},"
        if self.log is None:
            return start + f"file={self.path},format=raw,readonly={'on' if self.readonly else 'off'}"
        file = f"file.driver=raw,file.file.driver=file,file.file.filename={self.path}"
        return start + f"driver=blklogwrites,{file},log.filename={self.log},log-super-update-interval=1"


@dataclass(frozen=True)
class Firmware:
    """What a machine starts with that boots from its disk: UEFI from these two files, or without them QEMU's BIOS."""

    code: Path | None = None
    variables: Path | None = None
    """The machine's own copy: the firmware writes to it."""


@dataclass(frozen=True)
class Payload:
    """What the machine boots, and on which board. `append`, `memory_mb` and `cpus` default to the board's kernel
    command line, memory and processors. With `firmware` it boots its first drive, and no kernel is given.

    `wiring`: another way in which the relay is built; `description` is then the board.toml that says so, which the
    machine gets in the place of the image's."""

    kernel: Path | None = None
    initrd: Path | None = None
    drives: tuple[Drive, ...] = ()
    append: str = ""
    memory_mb: int = 0
    cpus: int = 0
    board: BoardSpec = field(default_factory=boardspec.load)
    firmware: Firmware | None = None
    wiring: str = ""
    description: Path | None = None


@dataclass(frozen=True)
class Accelerator:
    """How QEMU runs the machine's processors, and why. `program`: which QEMU; by default the host's own."""

    name: str = "tcg"
    why: str = "not tried"
    program: str = ""
    threads: str = "multi"
    """TCG: a thread for each processor of the machine ("multi"), or one for all ("single")."""
    cpu: str = ""
    """TCG: the emulated processor; "": the board's."""

    def arguments(self, arch: Arch) -> list[str]:
        """The arguments for the accelerator and a matching processor."""
        if self.name == "kvm":
            return ["-accel", "kvm", "-cpu", "host"]
        return ["-accel", f"tcg,thread={self.threads}", "-cpu", self.cpu or arch.qemu.emulated_cpu]


def address(port: Port) -> str:
    """The MAC address of a port of the machine (pure): a locally administered one with the port's PCI slot."""
    return f"02:77:01:00:00:{port.slot:02x}"


def command_line(payload: Payload, accelerator: Accelerator, crash_log: Path, fds: dict[str, int]) -> list[str]:
    """QEMU's arguments for the payload's board (pure); `fds` are its ends of the channels.

    Raises SpecError for a board that is not simulated.
    """
    board, machine, qemu = payload.board, payload.board.machine, payload.board.arch.qemu
    memory_mb = payload.memory_mb or machine.memory_mb
    line = [accelerator.program or qemu.program, "-name", "throughwire"]
    line += ["-nodefaults", "-no-user-config", "-display", "none"]
    line += ["-M", f"{qemu.machine},memory-backend=mem", *accelerator.arguments(board.arch)]
    line += ["-smp", str(payload.cpus or machine.cpus), "-m", f"{memory_mb}M"]
    line += ["-object", f"memory-backend-memfd,id=mem,size={memory_mb}M,share=on"]
    line += [*_boot(payload), "-S"]
    # panic=none: the kernel restarts itself, as on real hardware; pvpanic only reports the panic
    line += ["-action", f"watchdog={qemu.watchdog_action}", "-action", "panic=none", "-action", "reboot=reset"]
    for channel in CHANNELS:
        line += ["-chardev", f"socket,id={channel},fd={fds[channel]}"]
    line += ["-mon", "chardev=qmp,mode=control", *qemu.serial]
    for number, drive in enumerate(payload.drives):
        first = ",bootindex=1" if payload.firmware and not number else ""
        line += ["-drive", drive.backend]
        line += ["-device", f"virtio-blk-pci,drive={drive.serial},serial={drive.serial}{first}"]
    for connector, port in board.connectors.items():
        tap, queues = f"{connector}0", QUEUES if connector in SIDES else 1
        line += ["-netdev", f"tap,id={tap}-tap,ifname={tap},script=no,downscript=no,queues={queues}"]
        several = f",mq=on,vectors={2 * queues + 2}" if queues > 1 else ""
        device = f"virtio-net-pci,id={tap},netdev={tap}-tap,mac={address(port)},addr={port.slot:#x}"
        line += ["-device", device + several]
    if payload.description:
        line += ["-fw_cfg", f"name={DESCRIPTION},file={payload.description}"]
    return line + [word.replace("{crash_log}", str(crash_log)) for word in machine.arguments]


def _boot(payload: Payload) -> list[str]:
    """What starts: a kernel that QEMU loads, or firmware."""
    if payload.firmware is None:
        assert payload.kernel is not None
        line = ["-kernel", str(payload.kernel), "-append", payload.append or payload.board.command_line()]
        return [*line, "-initrd", str(payload.initrd)] if payload.initrd else line
    code, variables = payload.firmware.code, payload.firmware.variables
    if code is None:
        return []
    return ["-drive", f"if=pflash,format=raw,readonly=on,file={code}",
            "-drive", f"if=pflash,format=raw,file={variables}"]  # fmt: skip


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
        """Open the monitor. QmpError with QEMU's message if QEMU did not start."""
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
