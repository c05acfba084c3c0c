# SPDX-License-Identifier: GPL-2.0-only
"""The Buildroot tree against the rest of the repository, without Buildroot.

Plan: whatever is said twice (once here, once in buildroot-config/) is compared, so that the two cannot drift apart.
What only Buildroot itself can tell is buildroot-config/check.sh's.
"""

import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tomllib
from pathlib import Path

import boardspec
import pytest

from tests.support.frames import KINDS

ROOT = Path(__file__).resolve().parents[3]
TREE = ROOT / "buildroot-config"
PACKAGES = sorted(folder.name for folder in (TREE / "package").iterdir() if folder.is_dir())
BOARDS = sorted(path.stem for path in (TREE / "boards").glob("*.config") if path.stem != "common")


def canonical(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(package: str, suffix: str) -> str:
    return (TREE / "package" / package / f"{package}{suffix}").read_text()


def variable(package: str, name: str) -> str | None:
    """The value of one variable of a package's makefile, continuation lines joined; None when it is not set."""
    text = read(package, ".mk").replace("\\\n", " ")
    prefix = package.upper().replace("-", "_")
    found = re.search(rf"^{prefix}_{name} :?= *(.*)$", text, re.MULTILINE)
    return found.group(1).strip() if found else None


def locked() -> dict[str, tuple[str, set[str]]]:
    """Name -> (version, sha256 sums) of every distribution in requirements.lock."""
    pins: dict[str, tuple[str, set[str]]] = {}
    for block in re.split(r"\n(?=[A-Za-z])", (ROOT / "requirements.lock").read_text()):
        if head := re.match(r"([A-Za-z0-9._-]+)==(\S+)", block):
            pins[canonical(head[1])] = (head[2], set(re.findall(r"sha256:([0-9a-f]{64})", block)))
    return pins


def project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        table = tomllib.load(file)["project"]
    assert isinstance(table, dict)
    return table


def dependencies() -> list[str]:
    listed = project()["dependencies"]
    assert isinstance(listed, list)
    return [canonical(re.split(r"[<>=!~ \[;]", entry)[0]) for entry in listed]


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_complete(package: str) -> None:
    """Sourced by Config.in; makefile with licence, licence files and their sums."""
    assert f'source "$BR2_EXTERNAL_THROUGHWIRE_PATH/package/{package}/Config.in"' in (TREE / "Config.in").read_text()
    symbol = "BR2_PACKAGE_" + package.upper().replace("-", "_")
    assert f"config {symbol}\n" in (TREE / "package" / package / "Config.in").read_text()
    assert variable(package, "LICENSE")
    files = variable(package, "LICENSE_FILES")
    assert files
    for name in files.split():
        assert re.search(rf"^sha256  [0-9a-f]{{64}}  {re.escape(name)}$", read(package, ".hash"), re.MULTILINE)


@pytest.mark.parametrize("package", [name for name in PACKAGES if name.startswith("python-")])
def test_package_is_what_the_lock_pins(package: str) -> None:
    """Same version, and the source archive's sum is one that requirements.lock allows."""
    version, sums = locked()[package.removeprefix("python-")]
    assert variable(package, "VERSION") == version
    archive = re.search(r"^sha256  ([0-9a-f]{64})  \S+\.tar\.gz$", read(package, ".hash"), re.MULTILINE)
    assert archive
    assert archive[1] in sums
    assert archive[0].endswith(f"-{version}.tar.gz")


def test_every_runtime_dependency_is_selected() -> None:
    """What pyproject.toml needs at run time, the throughwire package selects."""
    config = (TREE / "package/throughwire/Config.in").read_text()
    for name in dependencies():
        symbol = "PYTHON_" + name.removeprefix("python-").upper().replace("-", "_")
        assert f"select BR2_PACKAGE_{symbol} #" in config, name


def test_package_takes_what_pyproject_installs() -> None:
    """Every package of pyproject.toml is copied into Buildroot's build folder; build/ and the collection are not."""
    rules = variable("throughwire", "OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS")
    assert rules
    with (ROOT / "pyproject.toml").open("rb") as file:
        found = tomllib.load(file)["tool"]["setuptools"]["packages"]["find"]["include"]
    for pattern in found:
        assert f"--include='/{pattern.rstrip('*')}/***'" in rules
    assert rules.endswith("--exclude='*'")
    assert "/build" not in rules
    assert rules.index("--exclude='/console/fleet'") < rules.index("--include='/console/***'")


def test_datapath_is_compiled_with_the_same_flags() -> None:
    """Optimisation, warnings and instruction set as in the top Makefile; only the include folders differ."""

    def flags(text: str) -> list[str]:
        line = re.search(r"^[\t@ ]*clang (-O.*?steer\.bpf\.c)", text.replace("\\\n", " "), re.MULTILINE)
        assert line
        words = line[1].split()
        return [word for word in words[: words.index("-c")] if re.match(r"-(O|g|W|mcpu|target)|bpf$", word)]

    assert flags(read("throughwire", ".mk")) == flags((ROOT / "Makefile").read_text())


@pytest.fixture(scope="module")
def text(board: str) -> str:
    """The board's whole defconfig."""
    return subprocess.run([TREE / "defconfig.sh", board], capture_output=True, text=True, check=True).stdout


def test_the_datapath_is_the_same_from_any_folder(tmp_path: Path) -> None:
    """Sources, headers and working folder are elsewhere in the second build; no path of either stands in the object."""
    recipe = read("throughwire", ".mk").replace("\\\n", " ")
    line = re.search(r"^\tclang (-O.*steer\.bpf\.o)$", recipe, re.MULTILINE)
    assert line
    objects = []
    for name in ("one", "elsewhere/two"):
        source, staging, work = (tmp_path / name / part for part in ("source", "staging", "work"))
        work.mkdir(parents=True)
        shutil.copytree(ROOT / "appliance/bpf", source / "appliance/bpf")
        shutil.copytree("/usr/include/linux", staging / "usr/include/linux")
        shutil.copytree("/usr/include/asm-generic", staging / "usr/include/asm-generic")
        shutil.copytree("/usr/include/bpf", staging / "usr/include/bpf")
        shutil.copytree(f"/usr/include/{os.uname().machine}-linux-gnu/asm", staging / "usr/include/asm")
        words = line[1].replace("$(@D)", str(source)).replace("$(STAGING_DIR)", str(staging)).split()
        subprocess.run(["clang", *words], check=True, cwd=work)
        objects.append((source / "steer.bpf.o").read_bytes())
    assert objects[0] == objects[1]
    assert str(tmp_path).encode() not in objects[0]


def test_no_defconfig_of_a_board_that_is_not_there() -> None:
    """The boards that there are, are named."""
    done = subprocess.run([TREE / "defconfig.sh", "none"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.split()[-len(BOARDS) :] == BOARDS


@pytest.mark.parametrize("board", BOARDS, scope="module")
class TestDefconfig:
    """What a board's defconfig points at is there, and it is for a board that is there."""

    def test_paths_exist(self, text: str) -> None:
        paths = re.findall(r"\$\(BR2_EXTERNAL_THROUGHWIRE_PATH\)([^\" ]*)", text)
        assert paths
        for path in paths:
            assert (TREE / path.lstrip("/")).exists(), path

    def test_board_exists(self, board: str, text: str) -> None:
        """qemu-x86_64.config is the board whose folder is board/qemu-x86_64, says so, and takes its fragments."""
        name = re.search(r'^BR2_PACKAGE_THROUGHWIRE_BOARD="(.*)"$', text, re.MULTILINE)
        assert name
        assert name[1] == board
        spec = boardspec.load(board)
        listed = re.search(r'^BR2_LINUX_KERNEL_CONFIG_FRAGMENT_FILES="(.*)"$', text, re.MULTILINE)
        assert listed
        stack = [TREE / path.replace("$(BR2_EXTERNAL_THROUGHWIRE_PATH)/", "") for path in listed[1].split()]
        assert [path.resolve() for path in stack] == [
            *spec.fragments,
            *spec.firmware_fragments,
        ], "the same stack in the same order"

    def test_no_line_stands_twice(self, text: str) -> None:
        """What all boards share is not said again by one of them, and no board contradicts it."""
        options = re.findall(r"^(?:# )?(BR2_\w+)", text, re.MULTILINE)
        assert len(options) == len(set(options))

    def test_kernel_is_hashed(self, text: str) -> None:
        """The kernel's archive has its sum, for the kernel and for the toolchain's headers."""
        version = re.search(r'^BR2_LINUX_KERNEL_CUSTOM_VERSION_VALUE="(.*)"$', text, re.MULTILINE)
        assert version
        for name in ("linux", "linux-headers"):
            assert f"  linux-{version[1]}.tar.xz\n" in (TREE / f"patches/{name}/{name}.hash").read_text()


class TestPostBuild:
    """post-build.sh on a made-up target folder: rootfs/ decides what starts."""

    @pytest.fixture
    def target(self, tmp_path: Path) -> Path:
        """A checkout with the script and a small rootfs/, and a target folder as Buildroot leaves it."""
        (tmp_path / "buildroot-config").mkdir()
        (tmp_path / "buildroot-config/post-build.sh").write_bytes((TREE / "post-build.sh").read_bytes())
        for folder in ("rootfs", "target"):
            (tmp_path / folder / "etc/init.d").mkdir(parents=True)
            (tmp_path / folder / "etc/inittab").write_text(
                "::respawn:/usr/bin/bypass-keeper\nttyS1::respawn:-/usr/libexec/bypass/debug-shell\n"
            )
            (tmp_path / folder / "etc/init.d/rcS").write_text("#!/bin/sh\n")
            (tmp_path / folder / "README.md").write_text("words\n")
        (tmp_path / "target/etc/init.d/S50dropbear").write_text("#!/bin/sh\n")
        firmware = tmp_path / "target/usr/share/qemu"
        firmware.mkdir(parents=True)
        for name in ("bios-256k.bin", "edk2-x86_64-code.fd", "edk2-i386-vars.fd", "edk2-arm-code.fd", "skiboot.lid"):
            (firmware / name).write_text("")
        (tmp_path / "target/usr/libexec/bypass").mkdir(parents=True)
        (tmp_path / "target/usr/libexec/bypass/debug-shell").write_text("#!/bin/sh\n")
        return tmp_path / "target"

    def run(self, target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        script = target.parent / "buildroot-config/post-build.sh"
        environment |= {"PATH": os.environ["PATH"]}
        return subprocess.run(["sh", script, target], capture_output=True, text=True, check=False, env=environment)

    def test_only_what_rootfs_brings_is_started(self, target: Path) -> None:
        assert self.run(target).returncode == 0
        assert sorted(path.name for path in (target / "etc/init.d").iterdir()) == ["rcS"]
        assert not (target / "README.md").exists()
        assert (target / "var/lib/bypass").is_dir()
        # Buildroot lays rootfs/ over the target anew before it runs this again
        (target / "etc/inittab").write_bytes((target.parent / "rootfs/etc/inittab").read_bytes())
        assert self.run(target).returncode == 0, "a second make runs it again"
        assert sorted(path.name for path in (target / "usr/share/qemu").iterdir()) == [
            *("bios-256k.bin", "edk2-i386-vars.fd", "edk2-x86_64-code.fd"),
        ]

    def test_a_release_has_no_root_shell(self, target: Path) -> None:
        """Without the option neither the script nor init's line is left."""
        assert self.run(target).returncode == 0
        assert not (target / "usr/libexec/bypass/debug-shell").exists()
        assert (target / "etc/inittab").read_text() == "::respawn:/usr/bin/bypass-keeper\n"

    def test_an_image_for_tests_keeps_it(self, target: Path) -> None:
        config = target.parent / "config"
        config.write_text("BR2_PACKAGE_THROUGHWIRE_DEBUG_SHELL=y\n")
        self.run(target, BR2_CONFIG=str(config))
        assert (target / "usr/libexec/bypass/debug-shell").exists()
        assert "debug-shell" in (target / "etc/inittab").read_text()

    def test_openssl_finds_the_authorities(self, target: Path) -> None:
        """In the file that it reads by default; without the package there is no link to nothing."""
        assert self.run(target).returncode == 0
        assert not (target / "etc/ssl/cert.pem").is_symlink()
        bundle = target / "etc/ssl/certs/ca-certificates.crt"
        bundle.parent.mkdir(parents=True)
        bundle.write_text("authorities\n")
        (target / "etc/inittab").write_bytes((target.parent / "rootfs/etc/inittab").read_bytes())
        assert self.run(target).returncode == 0
        assert (target / "etc/ssl/cert.pem").read_text() == "authorities\n"

    def test_of_scapy_what_decodes_frames_stays(self, target: Path) -> None:
        """All modules that the decoder has when it has read frames of all kinds."""
        code = "import sys; from console.commands import decode; decode._renounce = lambda: None; decode.main()"
        frames = b"".join(struct.pack("<I", len(frame)) + frame for frame in KINDS.values())
        done = subprocess.run(
            [sys.executable, "-c", f"{code}; print(*sys.modules)"], capture_output=True, input=frames, check=False
        )
        *answers, modules = done.stdout.decode().splitlines()
        assert len(answers) == len(KINDS), done.stderr
        used = [name.replace(".", "/") for name in modules.split() if name.startswith("scapy.")]
        assert "scapy/layers/inet6" in used
        packages = target / "usr/lib/python3.14/site-packages"
        for name in (*used, "scapy/layers/kerberos", "scapy/modules/nmap"):
            file = packages / f"{name}.pyc"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("")
        assert self.run(target).returncode == 0
        assert [name for name in used if not (packages / f"{name}.pyc").exists()] == []
        assert not (packages / "scapy/layers/kerberos.pyc").exists()
        assert not (packages / "scapy/modules").exists()

    def test_of_glib_only_what_qemu_needs_is_left(self, target: Path) -> None:
        """QEMU needs libglib and libgmodule; that it is built without libgio stands in external.mk."""
        library = target / "usr/lib"
        library.mkdir()
        for name in ("gio", "girepository", "glib", "gmodule", "gobject", "gthread"):
            (library / f"lib{name}-2.0.so.0.8400.4").write_text("")
            (library / f"lib{name}-2.0.so.0").symlink_to(f"lib{name}-2.0.so.0.8400.4")
        assert self.run(target).returncode == 0
        assert sorted(path.name.partition("-")[0] for path in library.iterdir()) == ["libglib"] * 2 + ["libgmodule"] * 2
        assert "--disable-gio" in (TREE / "external.mk").read_text()

    def test_another_inittab_is_an_error(self, target: Path) -> None:
        (target / "etc/inittab").write_text("# busybox's own\n")
        done = self.run(target)
        assert done.returncode == 1
        assert "inittab is not rootfs/etc/inittab" in done.stderr

    def test_a_target_folder_of_another_board_is_an_error(self, target: Path) -> None:
        """It would keep that board's description, its configuration and its demo guest."""
        for board in ("one", "other"):
            (target.parent / "board" / board).mkdir(parents=True)
            (target.parent / "board" / board / "board.toml").write_text(f'name = "{board}"\n')
        (target / "usr/share/bypass").mkdir()
        (target / "usr/share/bypass/board.toml").write_text('name = "one"\n')
        config = target.parent / "config"
        config.write_text('BR2_PACKAGE_THROUGHWIRE_BOARD="other"\n')
        done = self.run(target, BR2_CONFIG=str(config))
        assert done.returncode == 1
        assert "was built for another board or an earlier state of this one, not for other" in done.stderr
        config.write_text('BR2_PACKAGE_THROUGHWIRE_BOARD="one"\n')
        assert "another board" not in self.run(target, BR2_CONFIG=str(config)).stderr


class TestCheckInfo:
    """check_info.py on made-up show-info output, for the repository's own pyproject.toml."""

    def run(self, **changes: dict[str, object] | None) -> subprocess.CompletedProcess[str]:
        entry: dict[str, object] = {"version": "99.1", "licenses": "MIT", "license_files": ["LICENSE"]}
        names = {*PACKAGES, *("python-" + name.removeprefix("python-") for name in dependencies())}
        info = {name: entry for name in names if name not in changes}
        info |= {name: entry | change for name, change in changes.items() if change is not None}
        command: list[str | Path] = [sys.executable, TREE / "check_info.py", ROOT]
        return subprocess.run(command, input=json.dumps(info), capture_output=True, text=True, check=False)

    def test_good(self) -> None:
        done = self.run()
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"python-scapy": {"version": "2.5.9"}}, "python-scapy: Buildroot has 2.5.9, pyproject.toml wants scapy>="),
            ({"python-scapy": None}, "python-scapy: not selected by the configuration"),
            ({"python-msgspec": {"licenses": ""}}, "python-msgspec: no licenses"),
        ],
    )
    def test_bad(self, changes: dict[str, dict[str, object] | None], complaint: str) -> None:
        done = self.run(**changes)
        assert done.returncode == 1
        assert complaint in done.stderr


class TestCheckRefuses:
    """check.sh names what is wrong with the folder it is given, and stops there."""

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([TREE / "check.sh", *arguments], capture_output=True, text=True, check=False)

    def test_no_folder(self, tmp_path: Path) -> None:
        done = self.run(str(tmp_path / "none"))
        assert (done.returncode, "no such folder" in done.stderr) == (1, True)

    def test_not_buildroot(self, tmp_path: Path) -> None:
        done = self.run(str(tmp_path))
        assert (done.returncode, "is not a Buildroot tree" in done.stderr) == (1, True)

    def test_other_release_line(self, tmp_path: Path) -> None:
        (tmp_path / "Makefile").write_text("export BR2_VERSION := 2025.02.9\n")
        done = self.run(str(tmp_path))
        assert (done.returncode, "made for 2026.02.x" in done.stderr) == (1, True)


class TestImage:
    """image.sh with a make-believe Buildroot, which only says that it builds."""

    @pytest.fixture
    def top(self, tmp_path: Path) -> Path:
        """A tree that makes an output folder's Makefile as Buildroot does, and knows one package."""
        top = tmp_path / "top"
        (top / "utils").mkdir(parents=True)
        package = {"busybox": {"name": "busybox", "version": "1", "type": "target", "licenses": "unknown"}}
        (top / "packages.json").write_text(json.dumps(package))
        (top / "Makefile").write_text(
            "export BR2_VERSION := 2026.02.3\n"
            "defconfig:\n\t@cp $(CURDIR)/Makefile $(CURDIR)/packages.json $(O)/\n"
            "all:\n\t@touch $(CURDIR)/was-built\n"
            "show-info:\n\t@cat $(CURDIR)/packages.json\n"
            ".DEFAULT_GOAL := all\n"
        )
        tool = top / "utils/generate-cyclonedx"
        tool.write_text("""#!/bin/sh\necho '{"components": [], "dependencies": []}'\n""")
        tool.chmod(0o755)
        return top

    def test_a_package_without_a_licence_is_named_before_the_build(self, top: Path, tmp_path: Path) -> None:
        """Not after it, which takes an hour."""
        words = [str(TREE / "image.sh"), "qemu-x86_64", str(top), str(tmp_path / "out")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.returncode, "packages without a licence: busybox" in done.stderr) == (1, True), done.stderr
        assert not (tmp_path / "out/buildroot/was-built").exists()

    def test_a_known_licence_lets_it_build(self, top: Path, tmp_path: Path) -> None:
        info = top / "packages.json"
        info.write_text(info.read_text().replace("unknown", "GPL-2.0"))
        words = [str(TREE / "image.sh"), "qemu-x86_64", str(top), str(tmp_path / "out")]
        subprocess.run(words, capture_output=True, text=True, check=False)  # ends with no images to hand on
        assert (tmp_path / "out/buildroot/was-built").exists()


class TestKernelBase:
    """external.mk's rules, run by make without Buildroot: which kernel configuration is made, and when again."""

    def make(self, top: Path, *fragments: str) -> str:
        """Build the kernel's stamp with these fragments; what the base of its configuration holds then."""
        (top / "Makefile").write_text(
            f"BR2_EXTERNAL_THROUGHWIRE_PATH = {top}/no-packages\n"
            f"BUILD_DIR = {top}/build\nLINUX_DIR = {top}/linux\nLINUX_KCONFIG_STAMP_DOTCONFIG = .stamp\n"
            f"LINUX_KCONFIG_FRAGMENT_FILES = {' '.join(str(top / name) for name in fragments)}\n"
            "BR2_THROUGHWIRE_KERNEL_ALLNOCONFIG = y\n"
            f"all: $(LINUX_DIR)/.stamp\ninclude {TREE / 'external.mk'}\n"
            "$(LINUX_DIR)/.stamp:\n\tmkdir -p $(@D) && echo configured >>$@\n"
        )
        subprocess.run(["make", "-s", "-C", top, "all"], check=True, capture_output=True, text=True)
        return (top / "build/throughwire-kernel.config").read_text()

    def test_another_boards_fragments_are_another_base(self, tmp_path: Path) -> None:
        """Their files are no newer than what was made of the first board's; the kernel is configured anew."""
        for number, name in enumerate(("common", "one", "other")):
            (tmp_path / name).write_text(f"CONFIG_{name.upper()}=y\n")
            os.utime(tmp_path / name, (number, number))
        stamp = tmp_path / "linux/.stamp"
        assert self.make(tmp_path, "common", "one") == "CONFIG_COMMON=y\nCONFIG_ONE=y\n"
        assert self.make(tmp_path, "common", "one") == "CONFIG_COMMON=y\nCONFIG_ONE=y\n"
        assert stamp.read_text() == "configured\n", "the same fragments cost no kernel build"
        os.utime(stamp, (1 << 30, 1 << 30))
        os.utime(tmp_path / "build/throughwire-kernel.config", (1 << 30, 1 << 30))
        assert self.make(tmp_path, "common", "other") == "CONFIG_COMMON=y\nCONFIG_OTHER=y\n"
        assert stamp.read_text() == "configured\n" * 2


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target folder whose busybox has shared libraries, and the files that the build leaves for the disk."""
    top = tmp_path_factory.mktemp("built")
    for folder in ("target/bin", "target/lib64", "target/lib", "images", "build", "host"):
        (top / folder).mkdir(parents=True)
    (top / "program.c").write_text("int main(void) { return 0; }\n")
    busybox = top / "target/bin/busybox"
    subprocess.run(["gcc", "-o", busybox, top / "program.c"], check=True)
    said = subprocess.run(["ldd", busybox], check=True, capture_output=True, text=True).stdout
    for path in re.findall(r"(/\S+)", said):
        place = "lib64" if "ld-linux" in path else "lib"
        (top / "target" / place / Path(path).name).write_bytes(Path(path).resolve().read_bytes())
    for name in ("bzImage", "rootfs.squashfs"):
        (top / "images" / name).write_bytes(name.encode() * 100)
    (top / "config").write_text('BR2_PACKAGE_THROUGHWIRE_BOARD="qemu-x86_64"\n')
    return top


class TestPostImage:
    """post-image.sh on stand-ins for kernel and root: initramfs, disk image, checksums."""

    def run(self, top: Path) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "BUILD_DIR": str(top / "build"), "HOST_DIR": str(top / "host"),
                       "TARGET_DIR": str(top / "target"), "BR2_CONFIG": str(top / "config"),
                       "THROUGHWIRE_PYTHON": sys.executable}  # fmt: skip
        command: list[str | Path] = ["sh", TREE / "post-image.sh", top / "images"]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    def test_what_is_made(self, built: Path) -> None:
        """The initramfs holds busybox with its loader and libraries; the sums are those of all files."""
        done = self.run(built)
        assert done.returncode == 0, done.stderr
        archive = gzip.decompress((built / "images/initrd.gz").read_bytes())
        listed = subprocess.run(["cpio", "-t"], input=archive, capture_output=True, check=True).stdout.decode().split()
        assert {"init", "bin/busybox", "bin/slot-state", "lib/libc.so.6", "lib64"} <= set(listed)
        assert "debug" not in listed, "a release opens no shell"
        assert any(name.startswith("lib/ld-linux") for name in listed)
        subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=built / "images", check=True)
        assert "disk.img" in (built / "images/SHA256SUMS").read_text()

    def test_a_slot_that_is_too_large_is_refused(self, built: Path) -> None:
        root = built / "images/rootfs.squashfs"
        before = root.read_bytes()
        with root.open("r+b") as file:
            file.truncate(48 << 20)
        try:
            done = self.run(built)
        finally:
            root.write_bytes(before)
        assert done.returncode != 0
        assert "48 are allowed" in done.stderr

    def test_a_library_that_the_target_lacks_is_named(self, built: Path) -> None:
        library = built / "target/lib/libc.so.6"
        library.rename(built / "libc")
        try:
            done = self.run(built)
        finally:
            (built / "libc").rename(library)
        assert done.returncode != 0
        assert "needs libc.so.6" in done.stderr
