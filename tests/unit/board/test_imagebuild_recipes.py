# SPDX-License-Identifier: GPL-2.0-only
"""The image build's decisions: kernel fragments, mirror, console scripts, archives, error messages."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import boardspec
import pytest
from boardspec import REPO
from imagebuild import appliance_layer, debian, fragments, kernel
from imagebuild.cpio import Entry, cpio
from imagebuild.errors import BuildError
from imagebuild.progress import explain_failure

FRAGMENT = "# comment\nCONFIG_A=y\nCONFIG_B=64\n# CONFIG_C is not set\n"


def test_fragments_stack() -> None:
    """The last fragment wins, as it does for the kernel and for Buildroot."""
    assert fragments.settings([FRAGMENT, "CONFIG_C=y\n# CONFIG_A is not set\n"]) == {
        "CONFIG_A": "n",
        "CONFIG_B": "64",
        "CONFIG_C": "y",
    }


def test_fragment_with_nonsense_is_refused() -> None:
    """A typing error in a fragment is not a comment."""
    with pytest.raises(BuildError, match="line 2"):
        fragments.settings(["CONFIG_A=y\nCONFIG_B y\n"])


@pytest.mark.parametrize(
    ("config", "lost"),
    [
        ("CONFIG_A=y\nCONFIG_B=64\n# CONFIG_C is not set\n", []),
        ("CONFIG_A=y\nCONFIG_B=64\n", []),
        ("CONFIG_B=64\n", ["CONFIG_A=y"]),
        ("CONFIG_A=m\nCONFIG_B=64\n", ["CONFIG_A=y"]),
        ("CONFIG_A=y\nCONFIG_B=8\nCONFIG_C=y\n", ["CONFIG_B=64", "# CONFIG_C is not set"]),
    ],
)
def test_lost_lines_are_named(config: str, lost: list[str]) -> None:
    """A line that the kernel's own resolution dropped or changed is found."""
    assert fragments.lost(fragments.settings([FRAGMENT]), config) == lost


def test_kernel_key_follows_settings_and_patches_and_not_comments(tmp_path: Path) -> None:
    """A comment must not cost a kernel build; a setting must, and so must a patch."""
    fragment, patch = tmp_path / "linux.fragment", tmp_path / "0001-a.patch"
    fragment.write_text(FRAGMENT)
    key = kernel.key([fragment], [])
    fragment.write_text("# another comment\n" + FRAGMENT)
    assert kernel.key([fragment], []) == key
    patch.write_text("one")
    patched = kernel.key([fragment], [patch])
    patch.write_text("two")
    assert len({key, patched, kernel.key([fragment], [patch])}) == 3
    fragment.write_text(FRAGMENT + "CONFIG_D=y\n")
    assert kernel.key([fragment], []) != key


PATCH = "--- a/net/dev.c\n+++ b/net/dev.c\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        pytest.param("one\ntwo\nthree\n", True, id="as it was"),
        pytest.param("zero\none\ntwo\nthree\n", True, id="further down"),
        pytest.param("one\n2\nthree\n", False, id="in the source by now"),
        pytest.param("one\ntwo\nfour\n", False, id="other surroundings"),
    ],
)
def test_a_patch_fits_or_the_build_says_which_one_does_not(tmp_path: Path, text: str, fits: bool) -> None:
    """A newer source may have what a patch does: it is then taken out, and never applied halfway or the wrong way."""
    (tmp_path / "net").mkdir()
    source, patch = tmp_path / "net/dev.c", tmp_path / "0001-a.patch"
    source.write_text(text)
    patch.write_text("Why.\n\n" + PATCH)
    if fits:
        kernel.apply([patch], tmp_path, tmp_path / "log")
        assert source.read_text() == text.replace("two", "2")
    else:
        with pytest.raises(BuildError, match=r"kernel: 0001-a\.patch"):
            kernel.apply([patch], tmp_path, tmp_path / "log")
        assert source.read_text() == text


def test_every_patch_of_the_kernel_says_why() -> None:
    """And both kernels get it: it is where Buildroot looks."""
    folder = REPO / "buildroot-config"
    assert (
        f'BR2_GLOBAL_PATCH_DIR="$(BR2_EXTERNAL_THROUGHWIRE_PATH)/{kernel.PATCHES.parent.relative_to(folder)}"'
        in (folder / "boards/common.config").read_text()
    )
    for path in kernel.patches():
        why, sign, _ = path.read_text().partition("\n--- a/")
        assert sign, path
        assert len(why.splitlines()) > 3, path


def test_the_boards_fragments_ask_for_what_the_appliance_needs() -> None:
    """Relay line, watchdog, crash log, datapath and guests are in the stack."""
    asked = fragments.settings(path.read_text() for path in boardspec.load().fragments)
    for name in ("GPIO_VIRTIO", "I6300ESB_WDT", "ACPI_APEI_GHES", "PSTORE", "BPF_SYSCALL", "BPF_JIT", "TUN", "KVM_AMD"):
        assert asked[f"CONFIG_{name}"] == "y"


def test_mirror_is_the_machines_own() -> None:
    """The main archive's address is taken, not that of updates or security."""
    targets = (
        "http://security.invalid/debian-security/|bookworm-security|main\n"
        "http://mirror.invalid/debian/|bookworm-updates|main\n"
        "http://mirror.invalid/debian/|bookworm|main"
    )
    assert debian.choose_mirror(targets, "bookworm") == "http://mirror.invalid/debian"
    with pytest.raises(BuildError, match="no source for Debian trixie"):
        debian.choose_mirror(targets, "trixie")


def test_settings_of_the_way_to_the_mirror_are_kept() -> None:
    """Proxy and date checks come along, the rest of apt's configuration does not."""
    dump = (
        'Acquire "";\nAcquire::http::Proxy "http://proxy.invalid:3128";\nAcquire::Check-Date "false";\n'
        'Acquire::Languages "en";\nAcquire::IndexTargets::deb::Packages::Optional "0";\n'
    )
    assert debian.choose_settings(dump) == (
        'Acquire::http::Proxy "http://proxy.invalid:3128";',
        'Acquire::Check-Date "false";',
    )


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("tar: write error: No space left on device\n", "X: disk full"),
        ("Reading...\nE: Unable to locate package frob\nmore\n", "X: Unable to locate package frob"),
        ("a\nb\n", "X: exit code 2\n  a\n  b"),
    ],
)
def test_failures_are_one_clear_message(output: str, message: str) -> None:
    """The cause stands in front; a tool's last lines only where the cause is not known."""
    assert explain_failure("X", 2, output) == message


def test_cpio_is_what_cpio_reads() -> None:
    """Names, modes and contents arrive; the tool that reads them is not ours."""
    archive = cpio([Entry("bin"), Entry("bin/busybox", b"abc", 0o755), Entry("dev/console", mode=0o600, device=(5, 1))])
    assert archive.startswith(b"070701")
    assert len(archive) % 4 == 0
    assert archive.count(b"070701") == 4
    name = archive.index(b"bin/busybox\0")
    header = archive[name - 110 : name]
    assert header[14:22] == b"000081ED"
    assert header[54:62] == b"00000003"
    assert archive[name + 12 + (-(110 + 12)) % 4 :].startswith(b"abc")


def test_appliance_is_installed_as_a_package(tmp_path: Path) -> None:
    """Modules, one console script for each entry point, and metadata; no source of the datapath, no collection."""
    appliance_layer.install((REPO / "pyproject.toml").read_text(), REPO, tmp_path)
    site = tmp_path / "usr/lib/python3/dist-packages"
    assert (site / "appliance/keeper/__main__.py").is_file()
    assert not list(site.rglob("*.c"))
    assert (REPO / "console/fleet").is_dir()
    assert not (site / "console/fleet").exists()
    assert not list(site.rglob("__pycache__"))
    for name in ("bypass", "bypassd", "bypass-keeper"):
        script = tmp_path / "usr/bin" / name
        assert script.stat().st_mode & 0o111
        compile(script.read_text(), name, "exec")
    assert list(site.glob("throughwire-*.dist-info/METADATA"))


def test_the_default_configuration_names_no_guest_and_that_of_the_reference_board_adds_only_the_demo() -> None:
    """A release has no guest to name. The emulated board has one, with more patience than hardware needs."""
    common, board = (
        tomllib.loads((REPO / place).read_text())
        for place in ("rootfs/etc/bypass/config.toml", "board/qemu-x86_64/rootfs/etc/bypass/config.toml")
    )
    assert "guest" not in common
    (guest,), (rule,) = board.pop("guest"), board.pop("rule")
    assert (guest["name"], rule["path"]) == ("ips1", ["ips1"])
    assert guest["probes"][0]["misses"] > 3
    assert board == common


def test_init_scripts_are_valid_shell() -> None:
    """A syntax error in a boot script would only show on the board."""
    scripts = [*(REPO / "rootfs/etc/init.d").iterdir(), *(REPO / "rootfs/usr/libexec/bypass").iterdir()]
    assert scripts
    for script in scripts:
        assert script.stat().st_mode & 0o111, script
        assert subprocess.run(["sh", "-n", script], check=False).returncode == 0, script
