# SPDX-License-Identifier: GPL-2.0-only
"""The image's own SSH server with the real shell behind it, for the control socket of a daemon that a test runs.

The server runs with the appliance's command line in a small root folder and a network namespace. The computer's files
are mounted below that root, in the server's mount namespace only, and the shell runs there. The user `admin` is root,
because the daemons of the tests know only that one.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import boardspec
from imagebuild import rootfs
from imagebuild.cache import Cache, default_root
from imagebuild.progress import Progress
from simulator import netns

from appliance.access import ssh
from appliance.config.schema.model import Management, User
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
LIBRARIES = ("libtomcrypt", "libtommath", "libgmp", "libz", "libcrypt", "libc", "libm", "ld-linux-x86-64")
ADDRESS = "127.0.0.1"


class SshShell:
    """One appliance's SSH at a port of 127.0.0.1 in a namespace; `key` may log in as admin. A context.

    `commands` lists the commands of all sessions. While `cut_at_commit`, the server stops listening as soon as a
    commit that must be confirmed is done, so that the session goes on and no new one begins.
    """

    def __init__(self, folder: Path, namespace: str, port: int, control: Path, key: Path) -> None:
        self.folder, self.namespace, self.port, self.control, self.key = folder, namespace, port, control, key
        self.server: subprocess.Popen[bytes] | None = None
        self.root, self._cut, self._log = folder / "root", folder / "cut", folder / "commands"

    def __enter__(self) -> SshShell:
        self._furnish()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def commands(self) -> list[str]:
        """The commands of all sessions, oldest first."""
        return self._log.read_text().splitlines() if self._log.exists() else []

    def cut_at_commit(self, cut: bool = True) -> None:
        """See the class."""
        self._cut.touch() if cut else self._cut.unlink(missing_ok=True)

    def _furnish(self) -> None:
        arch, root = boardspec.load().arch, self.root
        tree = rootfs.debian_tree(Cache(default_root()), arch, Progress(print)) / "tree"
        for path in ("etc", "dev", "bin", "computer", "usr/bin", "usr/sbin", "usr/lib", "home/.ssh"):
            (root / path).mkdir(mode=0o755, parents=True)
        for program in ("usr/sbin/dropbear", "usr/bin/dropbearkey"):
            shutil.copy(tree / program, root / program)
        shutil.copy(tree / "usr/bin/busybox", root / "bin/busybox")
        for path in ("lib", "lib64"):
            (root / path).symlink_to("usr/lib")
        for name in LIBRARIES:
            for file in (tree / arch.libraries).glob(f"{name}.so*"):
                shutil.copy(file, root / "usr/lib")
        os.mknod(root / "dev/null", 0o666 | 0o020000, os.makedev(1, 3))
        os.mknod(root / "dev/urandom", 0o666 | 0o020000, os.makedev(1, 9))
        (root / "etc/shells").write_text("/usr/bin/bypass\n")
        (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nadmin:x:0:0::/home:/usr/bin/bypass\n")
        (root / "etc/shadow").write_text("root:*:1::::::\nadmin:*:1::::::\n")
        (root / "etc/group").write_text("root:x:0:\nbypass:x:900:admin\n")
        shutil.copy(self.key.with_suffix(".pub"), root / "home/.ssh/authorized_keys")
        (root / "home/.ssh/authorized_keys").chmod(0o600)
        words = ["chroot", str(root), "dropbearkey", "-t", "ed25519", "-f", "/etc/host_ed25519"]
        subprocess.run(words, check=True, capture_output=True)
        shell, said = self.folder / "shell", f"{self.folder}/stdin.$$"
        (root / "usr/bin/bypass").write_text(f'#!/bin/busybox sh\nexec /bin/busybox chroot /computer {shell} "$@"\n')
        shell.write_text(
            f"#!/bin/sh\nprintf '%s\\n' \"$2\" >>{self._log}\ncat >{said}\n"
            f'BYPASS_SOCKET={self.control} PYTHONPATH={ROOT} {sys.executable} -m console "$@" <{said}\ncode=$?\n'
            f'if [ -e {self._cut} ] && grep -q "^commit confirmed" {said}; then kill "$(cat {root}/pid)"; fi\n'
            f"rm {said}\nexit $code\n"
        )
        for script in (shell, root / "usr/bin/bypass"):
            script.chmod(0o755)

    def start(self) -> None:
        """Listen."""
        keys = [ssh.HostKey(Path("/etc/host_ed25519"), "ed25519", "")]
        management, users = Management(ssh_port=self.port), [User(name="admin", role="admin", keys=("x",))]
        words = [word for word in ssh.command(management, users, keys, Path("/pid")) if word != "-w"]
        line = f"mount --rbind / {self.root}/computer; exec chroot {self.root} {shlex.join(words)}"
        with (self.folder / "log").open("ab") as log:
            self.server = subprocess.Popen(
                netns.inside(self.namespace, "sh", "-ec", line), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self._listens, "SSH listens", explain=(self.folder / "log").read_text)

    def _listens(self) -> bool:
        try:
            netns.enter(self.namespace, lambda: socket.create_connection((ADDRESS, self.port), 1)).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Stop listening; sessions go on."""
        if self.server is not None:
            self.server.terminate()
            self.server.wait()
            self.server = None
