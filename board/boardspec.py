# SPDX-License-Identifier: GPL-2.0-only
"""What the image build and the simulator know about a board and its processor: data, and how to read it.

A processor is `board/arch/NAME/`: `arch.toml` (class `Arch`), `linux.fragment` (its kernel options) and, where it needs
files of its own in the image, `rootfs/`. A board is `board/NAME/`: `image.toml` (class `Image`), `board.toml` (what the
appliance finds on it; schema in `appliance/hardware/board.py`), `linux.fragment` and optionally `rootfs/`. An unknown
key is an error, so that a typing mistake does not silently select a default.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

REPO = Path(__file__).resolve().parents[1]
DEFAULT = os.environ.get("BOARD") or "qemu-x86_64"

T = TypeVar("T", bound=msgspec.Struct)


class SpecError(Exception):
    """The description of a board or processor is missing or invalid; the text names the file and what is wrong."""


class Qemu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine that QEMU emulates for boards with this processor."""

    program: str
    """Name of the emulator, in the search path and in the image's usr/bin."""
    machine: str
    """Value of -machine, options included."""
    emulated_cpu: str
    """Value of -cpu without KVM. It must offer virtualization, or no guest runs on the board."""
    watchdog_action: str
    """QEMU's action when the board's watchdog expires: how the machine makes a hung kernel panic."""
    serial: list[str]
    """Arguments that make the two serial ports, on the character devices `console` and `debug`."""
    console: str
    """The kernel's name of the first serial port."""
    debug: str
    """The kernel's name of the second serial port."""
    uefi: tuple[str, str] | None = None
    """UEFI firmware on the host that boots a disk image: its code, and the template of its variables."""


class Kernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How Linux is built for the processor."""

    arch: str
    """ARCH of the kernel's makefiles."""
    target: str
    """Make target of the bootable image, and the file's name in the appliance's image."""
    image: str
    """Path of that file below the kernel's source."""
    boot: str
    """The file that the simulator's QEMU boots: `vmlinux` or the value of `target`."""


class Debian(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Debian's names for the processor, and the packages that depend on it."""

    architecture: str
    """Debian's name of the architecture."""
    multiarch: str
    """GNU triplet: folder of libraries and headers, prefix of compiler and binutils."""
    loader: str
    """The dynamic loader, in the folder of libraries."""
    packages: list[str]
    """Emulator and firmware for guests."""
    wheels: list[str]
    """Platform tags of the Python wheels that may be installed."""
    unused: list[str]
    """Patterns of files to remove: emulators and firmware of machines that no guest uses."""


class Arch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One processor."""

    qemu: Qemu
    kernel: Kernel
    debian: Debian

    @property
    def libraries(self) -> str:
        """Folder of the shared libraries in the image, without a leading slash."""
        return f"usr/lib/{self.debian.multiarch}"

    @property
    def include(self) -> str:
        """Folder of the processor's C headers on the build machine; the datapath's source needs <asm/types.h>."""
        return f"/usr/include/{self.debian.multiarch}"

    def tool(self, name: str) -> str:
        """A compiler or binutils tool for this processor; the name works for native and cross builds."""
        return f"{self.debian.multiarch}-{name}"


class BoardKernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The board's part of the kernel's start."""

    command_line: str
    """Without `console=`, which depends on the processor."""
    fragments: list[str] = []
    """What several boards share: `board/kernel/NAME.fragment`, between those of the processor and of the board."""


class Disk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A disk of the machine; the initramfs and the appliance find it by its serial number."""

    serial: str
    file: str
    writable: bool = False
    label: str = ""
    """Label of the empty ext4 file system in the template of a writable disk."""
    size_mb: int = 0
    """Size of a writable disk, MiB."""


class SimulatedMachine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine that the simulator creates."""

    memory_mb: int
    cpus: int
    relay_line: str
    """Name of the GPIO line that drives the relay's coil."""
    led_line: str
    """Name of the GPIO line of the status LED."""
    arguments: list[str]
    """Arguments of QEMU for the board's devices; `{crash_log}` is the path of the file that keeps the crash log."""


class Image(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Layout of a board's image."""

    arch: str
    kernel: BoardKernel
    disk: list[Disk]
    simulator: SimulatedMachine | None = None
    """Left out: the board exists as hardware only."""


class Port(msgspec.Struct, frozen=True):
    """A network port of board.toml."""

    name: str
    pci: str = ""
    role: str = "data"

    @property
    def slot(self) -> int:
        """Its device number on the first PCI bus. SpecError if board.toml does not identify the port by that."""
        try:
            bus, device = self.pci.removeprefix("0000:").split(":")
            number, function = device.split(".")
            if (int(bus, 16), int(function)) == (0, 0):
                return int(number, 16)
        except ValueError:
            pass
        raise SpecError(f"port {self.name}: {self.pci!r} is not a device of PCI bus 0 (0000:00:SLOT.0)")


class BoardSpec:
    """One board with its processor; `root` is the folder `board/` that describes both."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.folder = root / name
        self.image = _read(self.folder / "image.toml", Image)
        self.arch_folder = root / "arch" / self.image.arch
        self.arch = _read(self.arch_folder / "arch.toml", Arch)
        self.build = REPO / "build" / name
        """The folder for everything built for the board."""
        shared = [root / f"kernel/{fragment}.fragment" for fragment in self.image.kernel.fragments]
        self.fragments = (root / "kernel/common.fragment", self.arch_folder / "linux.fragment", *shared,
                          self.folder / "linux.fragment")  # fmt: skip
        """The kernel's options in the order of the stack: the last one wins."""
        self.firmware_fragments = tuple(
            path
            for path in (root / "kernel/firmware.fragment", self.arch_folder / "firmware.fragment")
            if path.is_file()
        )
        """What Buildroot puts after them: hardening, and what booting from a disk needs."""
        self.overlays = tuple(path for path in (self.arch_folder / "rootfs", self.folder / "rootfs") if path.is_dir())
        """Files of processor and board that are laid over `rootfs/`, in this order."""

    @property
    def board_toml(self) -> Path:
        """The description of the board for the appliance."""
        return self.folder / "board.toml"

    @property
    def connectors(self) -> dict[str, Port]:
        """The simulator's connectors and the ports behind them, by board.toml: `lan` and `wan` are the first relay's.

        Raises SpecError if there is no such relay or no management port.
        """
        described = _toml(self.board_toml)
        ports = {row["name"]: msgspec.convert(row, Port) for row in described.get("port", ())}
        try:
            lan, wan = (ports[name] for name in described["relay"][0]["ports"])
            return {"lan": lan, "wan": wan, "mgmt": next(p for p in ports.values() if p.role == "management")}
        except (KeyError, IndexError, ValueError, StopIteration) as error:
            raise SpecError(
                f"{self.board_toml}: the simulator needs a relay with two ports and a port with the role management"
            ) from error

    @property
    def machine(self) -> SimulatedMachine:
        """The simulated machine. Raises SpecError for a board that exists as hardware only."""
        if self.image.simulator is None:
            raise SpecError(f"board {self.name} cannot be simulated: {self.folder}/image.toml has no table [simulator]")
        return self.image.simulator

    @property
    def data_disk(self) -> Disk:
        """The writable disk. Raises SpecError unless there is exactly one."""
        found = [disk for disk in self.image.disk if disk.writable]
        if len(found) != 1 or not found[0].size_mb:
            raise SpecError(f"{self.folder}/image.toml: one disk must be writable and have size_mb")
        return found[0]

    def command_line(self, *, debug: bool = False, append: str = "") -> str:
        """The kernel's command line; `debug` puts a root shell on the second serial port."""
        qemu = self.arch.qemu
        words = [f"console={qemu.console}", self.image.kernel.command_line]
        words += [f"bypass.debug={qemu.debug}"] if debug else []
        return " ".join([*words, *([append] if append else [])])


def load(name: str = "", root: Path = REPO / "board") -> BoardSpec:
    """The board `name`; by default that of the environment variable BOARD. Raises SpecError."""
    return BoardSpec(name or DEFAULT, root)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise SpecError(f"{path} is missing: boards and processors are described below {REPO / 'board'}") from error
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: {error}") from error


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.convert(_toml(path), kind)
    except msgspec.ValidationError as error:
        raise SpecError(f"{path}: {error}") from error


if __name__ == "__main__":
    # Buildroot's post-image.sh asks for the kernel's command line: boardspec BOARD [--debug]
    import sys

    print(load(sys.argv[1]).command_line(debug="--debug" in sys.argv))
