# SPDX-License-Identifier: GPL-2.0-only
"""The support bundle: whole whatever is missing, and without a secret wherever one stands."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from appliance.api.rpc import Caller, Registry
from appliance.api.schema import methods
from appliance.api.schema.guests import Guest
from appliance.api.schema.methods import Answers
from appliance.api.schema.state import Bundle
from appliance.errors import RefusedError
from appliance.support.bundle import MAX_BYTES, make
from appliance.support.items import ITEMS, Item
from appliance.support.service import Support
from console.client import Client
from console.execute import run_line
from console.line.outcome import REFUSED
from console.render import Style
from console.session import Context

HASH = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7"
CONFIG = f'[[user]]\nname = "admin"\npassword = "{HASH}"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small root with secrets in several places."""
    for name, text in {
        "etc/bypass/config.toml": CONFIG,
        "etc/shadow": "root:*:1::::::\nadmin:oldstylehash99:1::::::\n",
        "run/log/bypass.log": f"set to {HASH}\nurl http://me:hunter2@192.0.2.1/\nfine\n",
        "run/log/ssh.log": "somebody typed oldstylehash99 as a name, and topsecretword\n",
        "var/lib/bypass/access.json": json.dumps({"secret": HASH}),
        "var/lib/bypass/ssh/host_ed25519": "PRIVATE KEY",
        "var/lib/bypass/home/admin/.history": "my typing",
        "var/lib/bypass/crash/one.txt": "Oops\n",
        "proc/uptime": "1 2\n",
        "run/bypass/segments.json": "{}",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def read(data: bytes) -> dict[str, str]:
    """Path below the top folder -> text."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        found = {}
        for member in archive:
            assert member.isfile()
            file = archive.extractfile(member)
            assert file is not None
            found[member.name.partition("/")[2]] = file.read().decode()
    return found


def bundle(root: Path, api: dict[str, object] | None = None, secrets: tuple[str, ...] = ()) -> dict[str, str]:
    out = io.BytesIO()
    items = [item for item in ITEMS if not item.command]
    make(out, root, api or {}, secrets, items=items)
    return read(out.getvalue())


def test_what_is_in_it_and_what_is_not(root: Path) -> None:
    found = bundle(root, {"status.show": {"state": "inline"}})
    assert json.loads(found["api/status.show.json"]) == {"state": "inline"}
    assert found["crash/var_lib_bypass_crash_one.txt"] == "Oops\n"
    assert "fine" in found["logs/run_log_bypass.log"]
    assert "processes.txt" in found
    assert not any("access.json" in name or "host_" in name or "home" in name or "shadow" in name for name in found)


def test_no_secret_is_in_any_file(root: Path) -> None:
    """Hashes, passwords in URLs, what shadow holds, and what the caller knows to be secret; also inside answers."""
    api: dict[str, object] = {"config.show": {"text": CONFIG, "user": [{"name": "x", "password": "clear text"}]}}
    found = bundle(root, api, ("topsecretword",))
    everything = "\n".join(found.values())
    for secret in (HASH, HASH[:20], "hunter2", "oldstylehash99", "topsecretword", "clear text", "PRIVATE", "my typing"):
        assert secret not in everything


def test_manifest_has_sums_and_names_what_is_missing(root: Path) -> None:
    found = bundle(root)
    manifest = json.loads(found["manifest.json"])
    entries = {entry["path"]: entry for entry in manifest["entries"]}
    for path, text in found.items():
        if path != "manifest.json":
            assert entries[path]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert entries["kernel/proc/meminfo"]["error"] == "no such file"


def test_long_files_keep_beginning_and_end(root: Path) -> None:
    (root / "run/log/bypass.log").write_text("FIRST\n" + "x" * (5 * MAX_BYTES) + "\nLAST\n")
    text = bundle(root)["logs/run_log_bypass.log"]
    assert text.startswith("FIRST\n")
    assert text.endswith("LAST\n")
    assert len(text) < MAX_BYTES + 100


def test_commands_that_fail_hang_or_are_not_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.support.bundle.COMMAND_S", 0.2)
    out = io.BytesIO()
    items = [
        Item("x", command=("sh", "-c", "echo words; exit 3"), name="fails"),
        Item("x", command=("sh", "-c", "echo begun; exec sleep 60"), name="hangs"),
        Item("x", command=("no-such-program",), name="gone"),
    ]
    make(out, root, {}, items=items)
    found = read(out.getvalue())
    errors = {entry["path"]: entry.get("error") for entry in json.loads(found["manifest.json"])["entries"]}
    assert errors["x/fails.txt"] == "ended with status 3"
    assert "words" in found["x/fails.txt"]
    assert errors["x/hangs.txt"] == "did not end within 0.2 s"
    assert "begun" in found["x/hangs.txt"]
    assert "x/gone.txt" not in found
    assert errors["x/gone.txt"] == "No such file or directory"


def test_the_service_makes_one_at_a_time_and_survives_a_broken_method(root: Path) -> None:
    """A real collector process; the answers of the other methods are in the file."""
    registry = Registry()

    async def good(_: dict[str, object]) -> list[Guest]:
        return [Guest(name="ips1", state="available", cause="healthy")]

    async def broken(_: dict[str, object]) -> object:
        raise KeyError("gone")

    registry.add(methods.GUESTS_SHOW, good)
    registry.add(Answers("status.show", object), broken)
    support = Support(root / "run/bypass/support", root, registry, lambda: ["topsecretword"])
    registry.add(methods.SUPPORT_BUNDLE, support.bundle, "operator")
    who = Caller(os.getuid(), 1, "admin")

    async def body() -> dict[str, str]:
        first = asyncio.create_task(registry.call("support.bundle", {}, who))
        await asyncio.sleep(0)
        with pytest.raises(RefusedError, match="is already being made"):
            await registry.call("support.bundle", {}, who)
        made = await first
        assert isinstance(made, Bundle)
        return read(Path(made.path).read_bytes())

    found = asyncio.run(body())
    assert "gone" in found["api/status.show.json"]
    assert "is not up" in found["api/guest.ips1.json"]
    assert "topsecretword" not in "\n".join(found.values())


def test_console_refuses_a_terminal_and_an_existing_file(tmp_path: Path) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    said = io.StringIO()
    context = Context(Client(str(tmp_path / "none")), Terminal(), said, Style())
    assert run_line("support-bundle", context) == REFUSED
    there = tmp_path / "there"
    there.touch()
    assert run_line(f"support-bundle {there}", context) == REFUSED
    assert "choose another name" in said.getvalue()


def test_without_bypassd_the_console_collects_itself(tmp_path: Path) -> None:
    said = io.StringIO()
    context = Context(Client(str(tmp_path / "none")), io.StringIO(), said, Style())
    path = tmp_path / "bundle.tar.gz"
    assert run_line(f"support-bundle {path}", context) == 0
    assert "bypassd is not running" in said.getvalue()
    assert "manifest.json" in read(path.read_bytes())
    assert path.stat().st_mode & 0o777 == 0o600
