# SPDX-License-Identifier: GPL-2.0-only
"""The order of files in the firmware's squashfs: what the start reads comes first, in the order of reading.

Plan: small trees for the rules; the repository's own modules against what Python really opens for them; mksquashfs for
what becomes of the list.
"""

from __future__ import annotations

import compileall
import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from boardspec import REPO
from imagebuild import start_order
from imagebuild.errors import BuildError
from imagebuild.start_order import Modules

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def names(modules: list[Path], folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in modules]


def test_imports_are_followed_in_the_order_in_which_python_opens_the_files(tmp_path: Path) -> None:
    """A package before what is in it, a module before what it imports, each once; relative imports too."""
    write(tmp_path, {"p/__init__.py": "", "p/a.py": "import z\nfrom . import b\nfrom .c import thing\n",
                     "p/b.py": "import z\n", "p/c.py": "from p.a import *\nthing = 1\n", "z.py": "import sys\n",
                     "unused.py": ""})  # fmt: skip
    files = Modules([tmp_path]).files(["p.a"])
    assert names(files, tmp_path) == ["p/__init__.py", "p/a.py", "z.py", "p/b.py", "p/c.py"]


def test_what_only_a_function_imports_is_read_later(tmp_path: Path) -> None:
    """The body of a class runs at the import, that of a function does not."""
    text = "def later():\n    import b\nclass Now:\n    import c\n    def later(self):\n        import d\n"
    write(tmp_path, {"a.py": text, "b.py": "", "c.py": "", "d.py": ""})
    assert names(Modules([tmp_path]).files(["a"]), tmp_path) == ["a.py", "c.py"]


def test_byte_code_is_read(tmp_path: Path) -> None:
    """Buildroot's image has nothing else; that of another Python is refused, as its order would be nonsense."""
    write(tmp_path, {"a.py": "import b\n", "b.py": ""})
    compileall.compile_dir(tmp_path, legacy=True, quiet=1)
    for path in tmp_path.glob("*.py"):
        path.unlink()
    assert names(Modules([tmp_path]).files(["a"]), tmp_path) == ["a.pyc", "b.pyc"]
    (tmp_path / "b.pyc").write_bytes(b"\0\0\0\0" + (tmp_path / "b.pyc").read_bytes()[4:])
    with pytest.raises(BuildError, match=r"b\.pyc is byte code of another Python"):
        Modules([tmp_path]).files(["a"])


REALLY = """
import json, sys
before = set(sys.modules)
sys.path[:] = json.loads(sys.argv[1])
import appliance.keeper.__main__, appliance.__main__, appliance.supervisor.supervisor
files = [getattr(sys.modules[name], "__file__", None) for name in set(sys.modules) - before]
print(json.dumps([file for file in files if file]))
"""


def test_every_file_that_keeper_and_bypassd_import_is_known() -> None:
    """What Python opens for them, it was expected to open: nothing of the start lies elsewhere in the image."""
    standard = Path(sysconfig.get_paths()["stdlib"])
    folders = [standard, Path(sysconfig.get_config_var("DESTSHARED")), Path(sysconfig.get_paths()["purelib"]), REPO]
    words = [sys.executable, "-I", "-S", "-c", REALLY, json.dumps([str(folder) for folder in folders])]
    opened = set(json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout))
    expected = [str(path) for path in Modules(folders).files(start_order.MODULES)]
    assert len(opened) > 200
    assert sorted(opened - set(expected)) == []
    assert expected.index(str(REPO / "appliance/keeper/loop.py")) < expected.index(str(REPO / "appliance/part.py"))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A root file system with the least that an order can be made of."""
    site = f"usr/lib/{VERSION}/site-packages"
    write(tmp_path, {f"usr/lib/{VERSION}/os.py": "", f"usr/lib/{VERSION}/encodings/__init__.py": "",
                     f"{site}/appliance/__init__.py": "", f"{site}/appliance/keeper/__init__.py": "",
                     f"{site}/appliance/keeper/__main__.py": "import os\n", "etc/inittab": "inittab",
                     "etc/init.d/rcS": "rcS", "usr/share/bypass/steer.bpf.o": "bpf", "etc/motd": "motd"})  # fmt: skip
    return tmp_path


def test_order_of_a_target(target: Path) -> None:
    """Scripts, then Python; what the start does not read is left out."""
    found = start_order.order(target)
    assert found[:2] == ["etc/inittab", "etc/init.d/rcS"]
    assert found[-2:] == [f"usr/lib/{VERSION}/site-packages/appliance/keeper/__main__.py", f"usr/lib/{VERSION}/os.py"]
    assert "etc/motd" not in found


def test_without_the_appliance_there_is_no_order(target: Path, capsys: pytest.CaptureFixture[str],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """One clear line, and no list: the image is not built."""
    (target / f"usr/lib/{VERSION}/site-packages/appliance/keeper/__main__.py").unlink()
    (target / f"usr/lib/{VERSION}/site-packages/appliance/keeper/__init__.py").unlink()
    monkeypatch.setattr(sys, "argv", ["start_order", "--target", str(target), str(target / "list")])
    assert start_order.main() == 1
    assert "holds no appliance.keeper" in capsys.readouterr().err
    assert not (target / "list").exists()


def test_mksquashfs_writes_the_files_in_this_order(tmp_path: Path) -> None:
    """Names with spaces too; files that are not in the list come after those that are."""
    wanted = ["z first", "m/second", "a"]
    write(tmp_path / "tree", {name: f"content of {name} " * 50 for name in (*wanted, "b", "m/other")})
    (tmp_path / "list").write_text(start_order.sort_list(wanted))
    options = ["-noD", "-noF", "-no-fragments", "-no-progress", "-sort", str(tmp_path / "list")]
    words = ["mksquashfs", str(tmp_path / "tree"), str(tmp_path / "image"), *options]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    data = (tmp_path / "image").read_bytes()
    places = [data.index(f"content of {name} ".encode()) for name in (*wanted, "b", "m/other")]
    assert places[:3] == sorted(places[:3])
    assert max(places[:3]) < min(places[3:])


def test_the_list_that_the_build_writes_is_the_one_that_mksquashfs_gets() -> None:
    tree = REPO / "buildroot-config"
    assert "ROOTFS_SQUASHFS_ARGS += -sort $(BUILD_DIR)/throughwire-start-order\n" in (tree / "external.mk").read_text()
    script = (tree / "post-build.sh").read_text()
    assert "-m imagebuild.start_order" in script
    assert '"$BUILD_DIR/throughwire-start-order"' in script
