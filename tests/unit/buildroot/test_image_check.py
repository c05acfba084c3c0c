# SPDX-License-Identifier: GPL-2.0-only
"""What the sources use is found in the sources, and what an image lacks of it is named.

Plan: each defect that once was in the tree is put back, and the check must name it; the tree as it is must pass. The
whole check of all boards runs once, without Buildroot; what needs its tree is buildroot-config/check.sh's.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import boardspec
import pytest
from imagebuild import fragments
from imagecheck import __main__ as check
from imagecheck import buildroot, guest_qemu, kernel_options, python_modules, tree, uses

ROOT = boardspec.REPO
BOARDS = check.boards()


def busybox() -> dict[str, str]:
    return fragments.settings([(check.EXTERNAL / "busybox.fragment").read_text()])


@pytest.mark.parametrize("board", BOARDS)
def test_the_tree_provides_what_the_code_uses(board: str) -> None:
    """Programs, applets, guests' words, files of the default configuration: nothing is missing."""
    assert check.against(board, check.settled(board), busybox()) == []


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("BR2_PACKAGE_LIBSECCOMP", "guests are started with '-sandbox on': BR2_PACKAGE_LIBSECCOMP is not set"),
        ("BR2_PACKAGE_ZSTD", "BR2_PACKAGE_ZSTD is not set"),
        ("BR2_PACKAGE_QEMU_TOOLS", "runs qemu-img: BR2_PACKAGE_QEMU_TOOLS is not set"),
        ("BR2_PACKAGE_CA_CERTIFICATES", "need the authorities' certificates"),
        ("BR2_PACKAGE_THROUGHWIRE_DEMO_GUEST", "names /usr/share/bypass/guest-demo/bzImage (guest 1.kernel)"),
        ("BR2_PACKAGE_DROPBEAR", "appliance/access/ssh.py"),
        ("BR2_PACKAGE_CHRONY", "appliance/management/ntp.py"),
        ("BR2_PACKAGE_GNUPG2", "console/commands/sealed.py"),
        ("BR2_PACKAGE_UTIL_LINUX_BINARIES", "rootfs/etc/init.d/data-partition"),
        ("BR2_FORTIFY_SOURCE_2", "BR2_FORTIFY_SOURCE_2 is not set"),
    ],
)
def test_a_lost_option_is_named(option: str, complaint: str) -> None:
    config = {**check.settled("qemu-x86_64"), option: "n"}
    assert complaint in "\n".join(check.against("qemu-x86_64", config, busybox()))


@pytest.mark.parametrize(
    ("applet", "user"),
    [("STAT", "rootfs/usr/libexec/bypass/keeper"), ("NSENTER", "appliance/"), ("SWITCH_ROOT", "board/initramfs/init"),
     ("USLEEP", "rootfs/etc/init.d/rcK"), ("DMESG", "appliance/support/items.py")],
)  # fmt: skip
def test_an_applet_that_busybox_is_built_without_is_named(applet: str, user: str) -> None:
    without = {**busybox(), f"CONFIG_{applet}": "n"}
    (line,) = check.against("qemu-x86_64", check.settled("qemu-x86_64"), without)
    assert line.startswith(user)
    assert f"busybox is built without CONFIG_{applet}" in line


def test_an_applet_in_the_way_of_a_program_is_named() -> None:
    """Busybox's shell prefers its own programs; its ip is the same as the other one, its tune2fs is not."""
    hidden = {**busybox(), "CONFIG_TUNE2FS": "y", "CONFIG_IP": "y"}
    (line,) = check.against("qemu-x86_64", check.settled("qemu-x86_64"), hidden)
    assert line.startswith("rootfs/etc/init.d/data-partition:")
    assert "runs tune2fs" in line


@pytest.mark.parametrize("board", BOARDS)
def test_the_code_runs_on_the_images_python(board: str) -> None:
    """Every module is imported without those of the standard library that the board's Python lacks."""
    blocked = buildroot.blocked_modules(check.settled(board))
    assert "lzma" in blocked
    assert python_modules.missing(blocked) == []


def test_a_module_that_python_lacks_is_named() -> None:
    """Also where only a library imports it: prompt-toolkit reads XML."""
    (line,) = python_modules.missing(["pyexpat"])
    assert "cannot be imported: No module named 'pyexpat'" in line


SCRIPT = """#!/bin/sh
# comment runs nothing
name=$(sed -n 1p file | head -n 1)
[ -x /usr/sbin/thing ] || mount -t proc proc /proc && touch "/x/$(basename "$1")"
helper() { od -A n; }
case "$1" in
start | again) helper ;;
stop:*) PATH=/bin exec /bin/busybox switch_root /new ;;
esac
echo "words; wget is no command here" 'nor; curl'
nice -n 10 udevadm trigger
while [ $((size / 2)) -gt 1 ]; do usleep 1; done
"""


def test_programs_of_a_script() -> None:
    """At the place of a command, in substitutions and behind what runs another one; no labels or words."""
    found = set(uses.script_programs(SCRIPT))
    assert found == {"sed", "head", "mount", "touch", "basename", "od", "busybox", "switch_root", "nice", "udevadm",
                     "usleep"}  # fmt: skip
    assert "busybox" not in uses.script_programs(SCRIPT, by_path=False)


PYTHON = """
run(["first", "-x"])
words = ["dropbear", "-F"]
DHCP = ("busybox", "udhcpc", "-f")
Item("network", command=("nsenter", f"--net={x}", "ss", "-t"))
kinds = ("ping", "arp", "tcp")
subprocess.Popen(["second"])
qemu_img.run(["check"])
"""


def test_programs_of_python_code() -> None:
    """What goes to a starter, what is known by its name, and what these run; a list of other words is none."""
    found = uses.python_programs(PYTHON, ["dropbear", "busybox", "nsenter"])
    assert set(found) == {"first", "dropbear", "busybox", "udhcpc", "nsenter", "ss", "second"}


def test_qemu_starts_with_guests_words() -> None:
    """The host's own QEMU takes them, and one that does not know a word is found."""
    assert guest_qemu.complaints(["qemu-system-x86_64"]) == []
    found = guest_qemu.complaints(["qemu-system-x86_64", "-no-such-word"])
    assert len(found) == 4
    assert "-no-such-word" in found[0]


class TestTree:
    """A root file system in a folder."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for name in (
            "usr/bin/bypass",
            "etc/ssl/certs/ca-certificates.crt",
            "usr/share/qemu/code",
            "usr/share/qemu/vars",
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("#!/usr/bin/python3 -I\n-----BEGIN CERTIFICATE-----\n")
        (tmp_path / "usr/bin/stat").symlink_to("busybox")
        return tmp_path

    def test_programs(self, root: Path) -> None:
        assert tree.missing_programs({"stat": "a", "bypass": "b"}, [root]) == []
        assert tree.missing_programs({"sfdisk": "rootfs/x:1"}, [root]) == ["rootfs/x:1 runs sfdisk: not in the image"]

    def test_files(self, root: Path) -> None:
        named = uses.configuration_files('[[guest]]\nkernel = "/usr/share/qemu/code"\ninitrd = "/usr/share/none"\n')
        assert tree.missing_files(named, [root]) == [
            "etc/bypass/config.toml names /usr/share/none (guest 1.initrd): not in the image"
        ]

    def test_certificates_and_firmware(self, root: Path) -> None:
        pair = ("usr/share/qemu/code", "usr/share/qemu/vars")
        assert tree.missing_certificates([root]) + tree.missing_firmware([pair], [root]) == []
        (root / tree.CERTIFICATES[0]).write_text("")
        (root / pair[1]).unlink()
        assert tree.missing_certificates([root])
        assert tree.missing_firmware([pair], [root])

    def test_interpreter_line(self, root: Path) -> None:
        scripts = tree.console_scripts((ROOT / "pyproject.toml").read_text())
        assert tree.isolated([root], scripts) == []
        (root / "usr/bin/bypass").write_text("#!/usr/bin/python3\n")
        assert "must be started with -I" in tree.isolated([root], scripts)[0]


class TestKernelOptions:
    """A fragment against a kernel that knows a few options."""

    def test_misspelt(self, tmp_path: Path) -> None:
        (tmp_path / "drivers").mkdir()
        (tmp_path / "drivers/Kconfig.net").write_text("menuconfig NET\n\tbool\n  config IGC\n\ttristate\n")
        assert kernel_options.symbols(tmp_path) == {"NET", "IGC"}
        asked = fragments.settings(["CONFIG_IGC=y\nCONFIG_NOT=y\n# CONFIG_GONE is not set\n"])
        assert fragments.unknown(asked, {"NET", "IGC"}) == ["CONFIG_NOT", "CONFIG_GONE"]

    def test_lost(self, tmp_path: Path) -> None:
        """The line is named with the fragment that asks for it last."""
        first, second, config = (tmp_path / name for name in ("first", "second", ".config"))
        first.write_text("CONFIG_A=y\nCONFIG_B=y\n")
        second.write_text("# CONFIG_B is not set\n")
        config.write_text("CONFIG_B=y\n")
        assert kernel_options.against_config([first, second], config) == [
            f"kernel: CONFIG_A=y: lost; it is in {first}",
            f"kernel: # CONFIG_B is not set: lost; it is in {second}",
        ]

    @pytest.mark.parametrize("board", BOARDS)
    def test_a_firmware_is_hardened_and_boots_from_a_disk(self, board: str) -> None:
        """allnoconfig drops what is not asked for: each board's stack asks for all of it."""
        spec = boardspec.load(board)
        asked = fragments.settings(path.read_text() for path in (*spec.fragments, *spec.firmware_fragments))
        wanted = (
            "STACKPROTECTOR_STRONG VMAP_STACK HARDENED_USERCOPY FORTIFY_SOURCE SLAB_FREELIST_RANDOM "
            "SLAB_FREELIST_HARDENED RANDOMIZE_BASE RANDOMIZE_KSTACK_OFFSET_DEFAULT EFI VFAT_FS NLS_ISO8859_1 "
            "EFI_PARTITION SQUASHFS_ZSTD RTC_HCTOSYS HWMON"
        )
        for name in wanted.split():
            assert asked[f"CONFIG_{name}"] == "y"
        assert asked["CONFIG_MAGIC_SYSRQ_SERIAL"] == "n"


def test_a_release_has_no_module_to_load() -> None:
    """The board for tests keeps modules: one of them hangs its processors."""
    spec = boardspec.load("x86_64")
    assert fragments.settings(path.read_text() for path in spec.fragments)["CONFIG_MODULES"] == "n"


@pytest.mark.skipif(not os.environ.get("BUILDROOT"), reason="SKIPPED: BUILDROOT is not set (make test BUILDROOT=DIR)")
def test_the_whole_check_with_a_buildroot_tree() -> None:
    """Every line of every defconfig survives `olddefconfig`; with LINUX=DIR kconfig resolves the fragments. Minutes."""
    trees = [os.environ["BUILDROOT"], *([linux] if (linux := os.environ.get("LINUX")) else [])]
    done = subprocess.run([check.EXTERNAL / "check.sh", *trees], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_check_without_a_tree_says_what_it_skips() -> None:
    """It checks what it can, and the rest is not passed over in silence."""
    done = subprocess.run([check.EXTERNAL / "check.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("SKIPPED") == 2
