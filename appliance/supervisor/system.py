# SPDX-License-Identifier: GPL-2.0-only
"""The parts of one bypassd and what they share, for all code that shows, changes or measures the whole.

Passive: it holds and reads state, and starts nothing. Status, metrics, commit steps and the management part take it.
What they need from the supervisor itself (waking the pulse, bringing up the parts of a first configuration) they get as
callables, so nothing depends on the supervisor. Lives as long as bypassd.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import appliance
from appliance.api.schema.machine import PowerOrder
from appliance.api.schema.state import Protection
from appliance.api.server import ControlServer, Registry
from appliance.causes import Cause
from appliance.config.schema.model import Config
from appliance.drill.record import Result
from appliance.errors import ConfigError
from appliance.guest.port.management_lan import Lan, lan_of
from appliance.hardware import data_partition, watchdog
from appliance.hardware.board import Board
from appliance.hardware.crashlog import CrashLog, boot_id
from appliance.hardware.links import Links
from appliance.keeper.client import KeeperLink, KeeperState
from appliance.part import CheckIns
from appliance.paths import Paths
from appliance.segment.manager import Segments
from appliance.steering.part import Steering
from appliance.supervisor.safe_mode import SafeMode, limits_of
from appliance.system.loop_watch import LoopWatch
from appliance.telemetry.events import Events
from appliance.telemetry.subject import Change
from appliance.telemetry.transitions import Transitions

if TYPE_CHECKING:  # slow to import: they must not delay the link
    from appliance.guest.manager import GuestManager
    from appliance.management.manager import Access
    from appliance.remote.manager import RemoteManager


@dataclass
class System:
    """See the module. `config` None: it is invalid, and `config_errors` says why."""

    paths: Paths
    keeper: KeeperLink
    board: Board | None
    board_error: str
    config: Config | None
    config_errors: list[ConfigError]
    transitions: Transitions
    registry: Registry
    crash_log: CrashLog
    links: Links
    steering: Steering
    segments: Segments
    lan: Lan
    safe_mode: SafeMode
    control: ControlServer
    events: Events = field(default_factory=Events)
    loop_watch: LoopWatch = field(default_factory=LoopWatch)
    guests: GuestManager | None = None  # made when the segments have begun and the datapath is up
    remotes: RemoteManager | None = None  # made when the segments have begun and the datapath is up
    access: Access | None = None  # made when the segments have begun
    check_ins: CheckIns = field(default_factory=CheckIns)
    part_states: dict[str, str] = field(default_factory=dict)  # by part: starting, running, failed
    part_faults: dict[str, str] = field(default_factory=dict)  # by part: why it failed
    began: int = field(default_factory=time.monotonic_ns)
    power_due: Callable[[], PowerOrder] = lambda: PowerOrder("none")
    drilled: Callable[[], Iterable[Result]] = tuple  # the newest drill of each kind and segment
    protection: Callable[[], Protection] = lambda: Protection("not judged", "")
    watchdog_drill: bool = False  # the keeper is not to feed the watchdog
    locate_until: int = 0  # an LED blinks until then; 0: it does not
    relay_orders: dict[str, str] = field(default_factory=dict)  # positions that a test of the board asks for
    ending: str = ""  # why the machine goes down, once that has begun
    confirm_s: Callable[[], int | None] = lambda: None  # until a commit is rolled back unless it is confirmed
    rolled_back: Callable[[], str] = lambda: ""  # what became of the last commit, if it was

    @property
    def keeper_state(self) -> KeeperState | None:
        """The keeper's last report; None without a keeper."""
        return self.keeper.state if self.keeper.present else None

    def faults(self, segment: str) -> Mapping[Cause, str]:
        """The parts' reasons for bypass of one segment."""
        faults: dict[Cause, str] = {}
        if self.ending:
            faults[Cause.STOPPING] = self.ending
        if self.board_error:
            faults[Cause.PORT_MISSING] = self.board_error
        if "links" in self.part_faults:
            faults[Cause.PORT_MISSING] = self.part_faults["links"]
        if held := self.safe_mode.faults():
            faults.update(held)
        if self.safe_mode.active:
            return faults  # there is no datapath on purpose
        fault = self.steering.fault(segment)
        if "steering" in self.part_faults:
            faults[Cause.DATAPATH_FAULT] = self.part_faults["steering"]
        elif fault is not None:
            faults[fault.cause] = fault.detail
        elif not self.steering.ready.is_set():
            faults[Cause.STARTING] = "the datapath is not up yet"
        return faults


def build(
    paths: Paths,
    keeper: KeeperLink,
    *,
    board: Board | None,
    board_error: str,
    config: Config | None,
    config_errors: list[ConfigError],
    bpf_object: Path | None,
    wake: Callable[[], None],
) -> System:
    """The parts that exist from the start. `wake` is called when ports appear or disappear."""

    def ports_changed() -> None:
        steering.ports_changed()
        wake()

    pstore = paths.root / board.crash_log.pstore.lstrip("/") if board and board.crash_log else None
    registry = Registry()
    transitions = Transitions(paths.transitions)

    def repaired(port: str, cause: Cause, how: str) -> None:
        transitions.record(Change.PORT_REPAIRED, port, "changed", "repaired", cause, detail=how)

    def hold(segment: str) -> str:
        """Why no XDP program may come or go at a segment's ports now: it would interrupt the link."""
        unit = segments.units.get(segment)
        if unit is None or board is None or unit.machine.relay != "inline":
            return ""
        ports = [board.find_port(name) for name in (unit.config.lan, unit.config.wan)]
        closing = [f"{port.name} ({port.driver})" for port in ports if port is not None and port.on_attach == "closes"]
        return f"{' and '.join(closing)} would lose its link: this is done in bypass only" if closing else ""

    links = Links(board.port if board else (), ports_changed, repaired)
    names = paths.state / "names.json"
    steering = Steering(
        config or Config(),
        links,
        bpf_object or paths.bpf_object,
        paths.bpffs,
        names,
        repaired=repaired,
        hold=hold,
    )
    kept = data_partition.read(paths.data_partition).state in (data_partition.KEPT, data_partition.UNKNOWN)
    crash_log = CrashLog(
        pstore,
        paths.crash,
        paths.state,
        boot_id(),
        kept=kept,
        version=appliance.__version__,
        watchdog=lambda: watchdog.that_reset(str(paths.root / "sys/class/watchdog")),
    )
    segments = Segments(
        config.segment if config else (),
        board,
        links,
        transitions,
        paths.run / "segments.json",
        lacking=steering.lacking,
    )
    return System(
        paths=paths,
        keeper=keeper,
        board=board,
        board_error=board_error,
        config=config,
        config_errors=config_errors,
        transitions=transitions,
        registry=registry,
        crash_log=crash_log,
        links=links,
        steering=steering,
        segments=segments,
        lan=lan_of(paths),
        safe_mode=SafeMode(crash_log, limits_of(config)),
        control=ControlServer(paths.control_socket, registry),
        check_ins=CheckIns(time.monotonic_ns),
        began=time.monotonic_ns(),
    )
