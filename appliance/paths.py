# SPDX-License-Identifier: GPL-2.0-only
"""Where files are on the appliance; a test relocates them all by another root."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Every file that the supervisor or console uses, below one root."""

    root: Path = Path("/")

    @property
    def config(self) -> Path:
        """Startup configuration."""
        return self.root / "etc/bypass/config.toml"

    @property
    def board(self) -> Path:
        """Description of the board: ports, relays, watchdog, LEDs."""
        return self.root / "usr/share/bypass/board.toml"

    @property
    def bpf_object(self) -> Path:
        """The compiled datapath."""
        return self.root / "usr/share/bypass/steer.bpf.o"

    @property
    def run(self) -> Path:
        """Volatile state: survives a restart of the supervisor, but not a reboot."""
        return self.root / "run/bypass"

    @property
    def last_words(self) -> Path:
        """Why the last bypassd of this boot ended, if that was a bug."""
        return self.run / "last-words"

    @property
    def data_partition(self) -> Path:
        """The state in which the boot found the data partition; written once per boot."""
        return self.run / "data-partition"

    @property
    def control_socket(self) -> Path:
        """JSON-RPC socket of bypassd."""
        return self.run / "control.sock"

    @property
    def guests(self) -> Path:
        """One folder for each running guest: pid, QMP, console and agent sockets."""
        return self.run / "guests"

    @property
    def remotes(self) -> Path:
        """One folder for each remote: what the next bypassd needs to go on with it."""
        return self.run / "remotes"

    @property
    def state(self) -> Path:
        """Data partition: what must survive a reboot."""
        return self.root / "var/lib/bypass"

    @property
    def images(self) -> Path:
        """Guest images; a relative `image` in the configuration is below it."""
        return self.state / "images"

    @property
    def history(self) -> Path:
        """The committed configurations."""
        return self.state / "config"

    @property
    def transitions(self) -> Path:
        """The ledger of transitions, JSON lines."""
        return self.state / "transitions.jsonl"

    @property
    def wireguard_key(self) -> Path:
        """The appliance's private key for WireGuard."""
        return self.state / "wireguard.key"

    @property
    def setup_offered(self) -> Path:
        """Exists once the serial line has offered the first-boot setup."""
        return self.state / "setup-offered"

    @property
    def crash(self) -> Path:
        """Crash records moved here from pstore."""
        return self.state / "crash"

    @property
    def incidents(self) -> Path:
        """What guests received before they failed."""
        return self.state / "incidents"

    @property
    def bpffs(self) -> Path:
        """Pinned maps, programs and links of the datapath."""
        return self.root / "sys/fs/bpf/bypass"
