# SPDX-License-Identifier: GPL-2.0-only
"""Boards and processors as data: a fictional board and processor change every command that is built for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import boardspec
import pytest
from boardspec import REPO, BoardSpec, SpecError
from imagebuild import appliance_layer, emulator, fragments, kernel, rootfs
from imagebuild.artefacts import Artefacts
from simulator import accel, payload
from simulator.machine import CHANNELS, Accelerator, Firmware, Payload, command_line

ARCH = """
[qemu]
program = "qemu-system-made64"
machine = "virt,virtualization=on"
emulated_cpu = "made-max"
watchdog_action = "reset"
serial = ["-serial", "chardev:console", "-device", "pci-serial,chardev=debug"]
console = "ttyAMA0"
debug = "ttyS0"

[kernel]
arch = "made64"
target = "Image"
image = "arch/made64/boot/Image"
boot = "Image"

[debian]
architecture = "made64"
multiarch = "made64-linux-gnu"
loader = "ld-linux-made64.so.1"
packages = ["qemu-efi-made64", "qemu-system-made"]
wheels = ["manylinux_2_28_made64"]
unused = ["usr/share/made"]
"""
IMAGE = """
arch = "made64"
kernel.command_line = "quiet"
disk = [
    { serial = "system", file = "system.squashfs" },
    { serial = "store", file = "store.img", writable = true, label = "store", size_mb = 64 },
]
[simulator]
memory_mb = 768
cpus = 1
relay_line = "coil"
led_line = "lamp"
arguments = ["-device", "i6300esb", "-object", "memory-backend-file,id=log,mem-path={crash_log}"]
"""
PORTS = """
name = "made"
[[port]]
name = "left"
pci = "0000:00:05.0"
[[port]]
name = "right"
pci = "0000:00:06.0"
[[port]]
name = "service"
pci = "0000:00:1e.0"
role = "management"
[[relay]]
ports = ["right", "left"]
"""


def describe(root: Path, **files: str) -> BoardSpec:
    """A folder like board/ with the board "made" and the processor "made64", some of its files replaced."""
    texts = {"arch/made64/arch.toml": ARCH, "made/image.toml": IMAGE, "made/board.toml": PORTS}
    texts |= {"kernel/common.fragment": "CONFIG_A=y\nCONFIG_B=y\n", "made/linux.fragment": "CONFIG_C=y\n"}
    texts |= {"arch/made64/linux.fragment": "CONFIG_MADE64=y\n# CONFIG_B is not set\n"}
    for name, text in (texts | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return boardspec.load("made", root)


@pytest.fixture
def made(tmp_path: Path) -> BoardSpec:
    """A board that differs in everything from the reference board."""
    return describe(tmp_path)


def foreign(words: str) -> list[str]:
    """What in these words belongs to the reference board or its processor."""
    return [word for word in ("x86", "q35", "amd64", "EPYC", "bzImage", "ovmf", "ttyS1") if word in words]


def test_the_machine_is_what_the_description_says(made: BoardSpec) -> None:
    """Emulator, machine, processor, serial ports, network ports, devices and memory follow the data."""
    line = command_line(Payload(Path("/k"), board=made), Accelerator(), Path("/log"), dict.fromkeys(CHANNELS, 3))
    text = " ".join(line)
    assert line[0] == "qemu-system-made64"
    wanted = (
        "-M virt,virtualization=on,memory-backend=mem",
        "-cpu made-max",
        "-smp 1 -m 768M",
        "watchdog=reset",
        "pci-serial,chardev=debug",
        "-append console=ttyAMA0 quiet ",
        "id=lan0,netdev=lan0-tap,mac=02:77:01:00:00:06,addr=0x6,mq=on",
        "id=wan0,netdev=wan0-tap,mac=02:77:01:00:00:05,addr=0x5,mq=on",
        "id=mgmt0,netdev=mgmt0-tap,mac=02:77:01:00:00:1e,addr=0x1e",
        "mem-path=/log",
    )
    for words in wanted:
        assert words in text
    assert not foreign(text)
    assert "acpi-erst" not in text


def test_the_image_boots_from_the_boards_disks(made: BoardSpec, tmp_path: Path) -> None:
    """Kernel, disks and the template of the writable disk have the names of the description."""
    assert payload.files(made) == ["Image", "initrd.gz", "system.squashfs", "store.img"]
    for name in payload.files(made):
        (tmp_path / name).write_bytes(b"built")
    load = payload.image(tmp_path, tmp_path / "run", debug=True, append="more", board=made)
    assert (load.kernel, load.append) == (tmp_path / "Image", "console=ttyAMA0 quiet bypass.debug=ttyS0 more")
    assert [(drive.serial, drive.path.parent.name, drive.readonly) for drive in load.drives] == [
        ("system", tmp_path.name, True),
        ("store", "run", False),
    ]


def test_the_kernel_is_built_for_the_processor(made: BoardSpec) -> None:
    """Architecture and cross compiler are given to make; the processor's fragment stands between the other two."""
    assert kernel.make_command(made, Path("/source"), "Image") == [
        *("make", "-C", Path("/source"), "ARCH=made64", "CROSS_COMPILE=made64-linux-gnu-", "Image")
    ]
    asked = fragments.settings(path.read_text() for path in made.fragments)
    assert asked == {"CONFIG_A": "y", "CONFIG_B": "n", "CONFIG_MADE64": "y", "CONFIG_C": "y"}
    assert kernel.key(made.fragments, []) != kernel.key(boardspec.load().fragments, [])


def test_the_image_holds_the_processors_packages(made: BoardSpec, tmp_path: Path) -> None:
    """Debian's packages, the loader that runs the emulator, and the names of what is built."""
    assert {"qemu-efi-made64", "qemu-system-made", "python3"} <= set(rootfs.packages(made.arch))
    assert not foreign(" ".join(rootfs.packages(made.arch)))
    assert rootfs.debian_key(made.arch) != rootfs.debian_key(boardspec.load().arch)
    script = emulator.script(made.arch, tmp_path)
    assert f"{tmp_path}/usr/lib/made64-linux-gnu/ld-linux-made64.so.1 " in script
    assert f"{tmp_path}/usr/bin/qemu-system-made64 " in script
    assert Artefacts(made).guest_kernel == REPO / "build/made/Image"
    assert accel.program(made.arch, tmp_path) == "qemu-system-made64"


def test_processor_and_board_may_bring_files(tmp_path: Path) -> None:
    """What they lay over rootfs/ is a folder of theirs; the board's comes last."""
    files = {"arch/made64/rootfs/etc/inittab": "a", "made/rootfs/etc/inittab": "b"}
    spec = describe(tmp_path, **files)
    assert spec.overlays == (tmp_path / "arch/made64/rootfs", tmp_path / "made/rootfs")
    tree = tmp_path / "tree"
    appliance_layer.overlay(spec.overlays, tree)
    assert (tree / "etc/inittab").read_text() == "b"


def test_firmware_boots_the_first_drive(made: BoardSpec, tmp_path: Path) -> None:
    """A disk image is copied once, to a larger disk; QEMU gets no kernel, and for UEFI two files of firmware."""
    image = tmp_path / "disk.img"
    image.write_bytes(b"image")
    load = payload.disk(image, tmp_path / "run", board=made)
    own = tmp_path / "run/disk.img"
    assert (own.read_bytes()[:6], own.stat().st_size) == (b"image\0", payload.GROWN_MB << 20)
    own.write_bytes(b"used")
    payload.disk(image, tmp_path / "run", board=made)
    assert own.read_bytes() == b"used", "the board keeps its disk"
    image.write_bytes(b"another")
    payload.disk(image, tmp_path / "run", board=made)
    assert own.read_bytes()[:7] == b"another", "a new image is a new disk"
    fds = dict.fromkeys(CHANNELS, 3)
    line = " ".join(command_line(load, Accelerator(), Path("/log"), fds))
    assert "-kernel" not in line
    assert "pflash" not in line
    assert f"file={own},format=raw,readonly=off" in line
    assert "virtio-blk-pci,drive=disk,serial=disk,bootindex=1" in line
    uefi = Payload(drives=load.drives, board=made, firmware=Firmware(Path("/code"), Path("/variables")))
    line = " ".join(command_line(uefi, Accelerator(), Path("/log"), fds))
    assert "-drive if=pflash,format=raw,readonly=on,file=/code -drive if=pflash,format=raw,file=/variables -S" in line


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("made/image.toml", IMAGE + "colour = 1\n", "image.toml: Object contains unknown field `colour`"),
        ("made/image.toml", IMAGE.replace("made64", "other"), "other/arch.toml is missing"),
        ("arch/made64/arch.toml", "[qemu]\n", "arch.toml: Object missing required field"),
        ("arch/made64/arch.toml", "[qemu\n", "arch.toml: "),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, file: str, text: str, complaint: str) -> None:
    """The file and what is wrong with it."""
    with pytest.raises(SpecError, match=complaint.replace("[", r"\[")):
        describe(tmp_path, **{file: text})


def test_a_board_without_a_simulated_machine(tmp_path: Path) -> None:
    """It has an image; the simulator refuses it with the reason, and so does a port that it cannot place."""
    spec = describe(tmp_path, **{"made/image.toml": IMAGE.partition("[simulator]")[0]})
    assert spec.data_disk.file == "store.img"
    with pytest.raises(SpecError, match=r"made cannot be simulated: .* no table \[simulator\]"):
        _ = spec.machine
    described = describe(tmp_path, **{"made/board.toml": PORTS.partition("[[relay]]")[0]})
    with pytest.raises(SpecError, match=r"board\.toml: the simulator needs a relay with two ports"):
        _ = described.connectors
    with pytest.raises(SpecError, match="port left: '' is not a device of PCI bus 0"):
        _ = boardspec.Port("left").slot


def test_every_board_of_the_repository_is_described() -> None:
    """Each image.toml can be read; the files that it needs are there; the environment's BOARD chooses one of them."""
    names = sorted(path.parent.name for path in (REPO / "board").glob("*/image.toml"))
    assert boardspec.DEFAULT in names
    for name in names:
        spec = boardspec.load(name)
        assert all(path.is_file() for path in (*spec.fragments, spec.board_toml, spec.folder / "host-packages.txt"))
        assert spec.image.simulator is None or spec.data_disk.label
    code = "import boardspec; print(boardspec.DEFAULT)"
    environment = {**os.environ, "PYTHONPATH": str(REPO / "board"), "BOARD": "made"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "made\n"


def test_only_the_descriptions_name_a_processor() -> None:
    """No module of the image build or the simulator knows the reference board or its processor by name."""
    for folder in ("imagebuild", "simulator"):
        for module in (REPO / "board" / folder).glob("*.py"):
            known = [line for line in module.read_text().splitlines() if foreign(line.partition("#")[0])]
            assert [line for line in known if "x86 keeps stores in order" not in line] == [], module
