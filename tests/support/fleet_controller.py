# SPDX-License-Identifier: GPL-2.0-only
"""Ansible as a controller runs it, with the collection of console/fleet installed as its README says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FLEET = ROOT / "console/fleet"
PROGRAMS = Path(sys.executable).parent
_ROW = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)

needed = pytest.mark.skipif(
    not (PROGRAMS / "ansible-playbook").exists(), reason="ANSIBLE IS MISSING: `make setup` installs ansible-core"
)


class Recap(NamedTuple):
    """What Ansible counted for a host."""

    ok: int
    changed: int
    unreachable: int
    failed: int


class Played(NamedTuple):
    """What a playbook printed, and its exit code."""

    code: int
    text: str

    @property
    def recap(self) -> dict[str, Recap]:
        """By host."""
        return {row[0]: Recap(*map(int, row[1:])) for row in _ROW.findall(self.text)}


class Controller:
    """A computer with Ansible. `folder` has a short path, for OpenSSH's sockets; `around`: words of a namespace."""

    def __init__(self, folder: Path, around: tuple[str, ...] = ()) -> None:
        self.folder, self.around = folder, around
        self.inventory = folder / "inventory.json"
        self._environ = {
            **os.environ,
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "HOME": str(folder),
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"),
            "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_TIMEOUT": "30",
            "LC_ALL": "C.UTF-8",
        }
        (folder / "ansible.cfg").touch()  # not that of the computer
        self._run("ansible-galaxy", "collection", "install", str(FLEET), "--offline", "-p", str(folder / "collections"))

    def _run(self, *words: str, check: bool = True) -> Played:
        done = subprocess.run(
            [*self.around, *words], env=self._environ, cwd=self.folder, text=True, check=False, timeout=1800,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout
        return Played(done.returncode, done.stdout)

    def hosts(self, key: Path, groups: dict[str, dict[str, dict[str, Any]]]) -> None:
        """Write the inventory: groups with their hosts and the variables of these; all log in as admin with `key`.

        Connections to the hosts of the inventory before are not used again.
        """
        options = f"-F /dev/null -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={self.folder}/known"
        common = {"ansible_user": "admin", "ansible_ssh_private_key_file": str(key)}
        common |= {"ansible_ssh_common_args": f"{options} -o IdentityAgent=none"}
        children = {name: {"hosts": hosts} for name, hosts in groups.items()}
        self.inventory.write_text(json.dumps({"appliances": {"children": children, "vars": common}}))
        # Ansible keeps connections for the next playbook, and finds them by address and port alone.
        self._environ["ANSIBLE_SSH_CONTROL_PATH_DIR"] = tempfile.mkdtemp(prefix="cp-", dir=self.folder)

    def play(self, playbook: Path | list[dict[str, Any]], *options: str) -> Played:
        """Run a playbook: a file, or the tasks of one for all appliances."""
        if isinstance(playbook, list):
            made = self.folder / "play.json"
            made.write_text(json.dumps([{"hosts": "appliances", "gather_facts": False, "tasks": playbook}]))
            playbook = made
        return self._run("ansible-playbook", "-i", str(self.inventory), str(playbook), *options, check=False)

    def documented(self, *modules: str) -> list[dict[str, Any]]:
        """What `ansible-doc` says of modules."""
        names = [f"throughwire.fleet.{module}" for module in modules]
        text = self._run("ansible-doc", "--json", *names).text
        found = json.loads(text[text.index("{") :])
        return [found[name]["doc"] for name in names]
