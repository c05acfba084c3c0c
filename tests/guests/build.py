# SPDX-License-Identifier: GPL-2.0-only
"""Third-party guests: Debian's kernel and one of its programs, as kernel and initramfs.

Packages are downloaded and unpacked, never installed: a guest is the program, the libraries that it names, the kernel
modules it needs in the order to load them, a static busybox and an init script of this folder. Kept in the image
build's cache, keyed by the recipe: made once a machine, in a minute; QEMU's emulation boots it in seconds.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from imagebuild import debian
from imagebuild.cache import Cache, default_root, key_of
from imagebuild.cpio import Entry, cpio
from imagebuild.errors import BuildError
from imagebuild.progress import Progress, run

HERE = Path(__file__).parent
KERNEL = "linux-image-cloud-amd64"
_NEEDED = re.compile(r"\(NEEDED\)\s+Shared library: \[(.+)\]")
_INTERPRETER = re.compile(r"Requesting program interpreter: (.+)\]")
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/lapack", "usr/lib")


@dataclass(frozen=True)
class Recipe:
    """One guest. Paths are within Debian's tree, `files` within this folder."""

    name: str
    packages: tuple[str, ...]
    programs: tuple[str, ...]
    modules: tuple[str, ...]
    files: tuple[str, ...]


FIREWALL = Recipe(
    "firewall",
    ("nftables", "iproute2"),
    ("usr/sbin/nft", "usr/bin/ip"),
    ("virtio_net", "nf_tables", "nft_ct", "nft_limit"),
    ("firewall.init", "firewall.nft"),
)
INSPECTOR = Recipe(
    "inspector",
    ("suricata", "iproute2", "ethtool"),
    ("usr/bin/suricata", "usr/bin/ip", "usr/sbin/ethtool"),
    ("virtio_net", "af_packet"),
    ("inspector.init", "inspector.yaml", "inspector.rules"),
)


def build(recipe: Recipe) -> Path:
    """The folder with `vmlinuz` and `initrd.gz`; BuildError says in a line what failed."""
    files = {name: HERE / name for name in recipe.files}
    key = key_of({"recipe": repr(recipe), "build": Path(__file__), "suite": debian.SUITE, **files})
    return Cache(default_root()).get(f"packed-{recipe.name}", key, lambda folder: _make(recipe, folder))


def _make(recipe: Recipe, folder: Path) -> None:
    tree, log, origin = folder / "tree", folder / "log", debian.mirror()
    conf = folder / "apt.conf"
    conf.write_text("\n".join(origin.settings) + "\n")
    with Progress(print).stage(f"guest {recipe.name}: Debian packages", "1 min"):
        run(
            [
                *("mmdebstrap", "--mode=root", "--variant=extract", f"--aptopt={conf}"),
                *("--aptopt=Apt::Install-Recommends false",),
                f"--include={','.join((*recipe.packages, KERNEL, 'busybox-static', 'kmod'))}",
                *(debian.SUITE, tree, origin.source_line),
            ],
            what=f"packages of the guest {recipe.name}",
            log=log,
        )
    (kernel,) = (tree / "boot").glob("vmlinuz-*")
    version = kernel.name.removeprefix("vmlinuz-")
    found = {path: tree / path for path in recipe.programs}
    for program in recipe.programs:
        _libraries(tree, tree / program, found)
    entries = [Entry(name) for name in ("bin", "dev", "proc", "sys", "run", "tmp", "etc", "var", "var/log", "modules")]
    entries += [Entry("dev/console", mode=0o600, device=(5, 1)), Entry("dev/null", mode=0o666, device=(1, 3))]
    entries += [Entry("bin/busybox", (tree / "usr/bin/busybox").read_bytes())]
    folders: dict[str, None] = {}
    for path in found:
        folders.update(dict.fromkeys(str(parent) for parent in reversed(Path(path).parents) if str(parent) != "."))
    entries += [Entry(name) for name in folders]
    entries += [Entry(path, source.read_bytes()) for path, source in found.items()]
    order = _modules(tree / "usr/lib/modules" / version, version, recipe.modules)
    entries += [Entry(f"modules/{number:02}-{name}.ko", data) for number, (name, data) in enumerate(order)]
    for name in recipe.files:
        target = "init" if name.endswith(".init") else f"etc/{name}"
        entries.append(Entry(target, (HERE / name).read_bytes()))
    packed = subprocess.run(["gzip", "-1"], input=cpio(entries), capture_output=True, check=True).stdout
    (folder / "initrd.gz").write_bytes(packed)
    shutil.copy(kernel, folder / "vmlinuz")
    shutil.rmtree(tree)


def _libraries(tree: Path, binary: Path, found: dict[str, Path]) -> None:
    """Add what a binary is linked with, and what that is linked with, under the names it asks for."""
    words = ["readelf", "-W", "-d", "-l", str(binary)]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    if interpreter := _INTERPRETER.search(text):
        name = interpreter[1].lstrip("/")
        found[name] = tree / "usr" / name if not name.startswith("usr") else tree / name
    for name in _NEEDED.findall(text):
        place = next((each for each in _LIBRARIES if (tree / each / name).exists()), None)
        if place is None:
            raise FileNotFoundError(f"{binary.name} needs {name}, which no package brought")
        if f"{place}/{name}" not in found:
            found[f"{place}/{name}"] = tree / place / name
            _libraries(tree, tree / place / name, found)


def _modules(folder: Path, version: str, wanted: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """(name, content) of the wanted modules and what they need, in the order to load them; no built-in ones."""
    tool = shutil.which("depmod", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if tool is None:
        raise BuildError("depmod is not installed; `make setup` installs what the tests need")
    subprocess.run([tool, "-b", str(folder.parents[2]), version], check=False, capture_output=True)
    needs: dict[str, list[str]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    order: dict[str, None] = {}

    def add(path: str) -> None:
        for other in reversed(needs[path]):
            order.setdefault(other)
        order.setdefault(path)

    for name in wanted:
        if name in by_name:
            add(by_name[name])
    return [(Path(path).name.split(".")[0], _plain(folder / path)) for path in order]


def _plain(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data
