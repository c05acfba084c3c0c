# SPDX-License-Identifier: GPL-2.0-only
"""A network management station: net-snmp's own manager and receiver, in a namespace of this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from simulator import netns

from tests.support.waiting import wait_until

ENVIRONMENT = {**os.environ, "MIBS": ""}
AUTH, PRIV = "correct horse", "battery staple"


class Manager:
    """Asks one agent, as a user with SHA-256 and AES. `patience_s`: for each of two tries."""

    def __init__(self, namespace: str, agent: str, patience_s: int = 2) -> None:
        self.namespace, self._agent, self._patience = namespace, agent, patience_s

    def ask(self, program: str, *words: str, auth: str = AUTH, user: str = "monitor") -> tuple[int, str]:
        """Exit status and output of a program."""
        security = ["-v3", "-u", user, "-l", "authPriv", "-a", "SHA-256", "-A", auth, "-x", "AES", "-X", PRIV]
        return self._run(program, "-t", str(self._patience), "-r", "1", *security, self._agent, *words)

    def ask_by_community(self, version: str, *words: str) -> tuple[int, str]:
        """snmpget as of SNMPv1 or v2c."""
        return self._run("snmpget", "-t", "1", "-r", "0", "-v", version, "-c", "public", self._agent, *words)

    def _run(self, program: str, *words: str) -> tuple[int, str]:
        line = netns.inside(self.namespace, program, "-On", *words)
        done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=120, env=ENVIRONMENT)
        return done.returncode, done.stdout + done.stderr


class Receiver:
    """snmptrapd with one user. `engine`: whose traps it decrypts, hexadecimal; "" = it takes informs."""

    def __init__(self, namespace: str, folder: Path, user: str, *, engine: str, port: int = 162) -> None:
        folder.mkdir()
        about = f"-e 0x{engine} " if engine else ""
        settings = folder / "trapd.conf"
        settings.write_text(f'createUser {about}{user} SHA-256 "{AUTH}" AES "{PRIV}"\nauthUser log {user}\n')
        self._said = folder / "said"
        words = ["snmptrapd", "-f", "-Lo", "-n", "-On", "-C", "-c", str(settings), f"udp:{port}"]
        with self._said.open("wb") as out:
            self._process = subprocess.Popen(
                netns.inside(namespace, *words),
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**ENVIRONMENT, "SNMP_PERSISTENT_DIR": str(folder)},
            )

    def says(self, *wanted: str) -> str:
        """The first line with all of this. Call it in a thread where an event loop must go on."""
        found: list[str] = []

        def said() -> bool:
            found[:] = [line for line in self._text().splitlines() if all(each in line for each in wanted)]
            return bool(found)

        wait_until(said, f"{wanted} in what the receiver says", explain=self._text)
        return found[0]

    def _text(self) -> str:
        return self._said.read_text(errors="replace")

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)
