# SPDX-License-Identifier: GPL-2.0-only
"""The possible faults, and the plan of a run: which faults, when and for how long.

A plan is generated from a seed as in FoundationDB's simulation: each run has a few kinds of fault at its own rates
("swarm"), faults come in bursts, because overlaps are what nobody thought of, and some strike at the very moment of a
decision or disk call. After each burst everything is repaired, and the appliance has to become healthy again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from appliance.hardware.crash_loop import Limits
from appliance.segment.machine import Times
from appliance.supervisor.safe_mode import NOTES
from tests.simulate.clock import HOUR, MINUTE, MS, SECOND
from tests.simulate.disk import BROKEN, NO_SPACE
from tests.simulate.kernel import FOREIGN

if TYPE_CHECKING:
    from tests.simulate.guests import Qemu
    from tests.simulate.world import World

Mend = Callable[[], object]


class Fault(NamedTuple):
    """One fault: from `at` on (ns since the run began) for `length`. `value` (0 to 1) chooses between its variants."""

    at: int
    kind: str
    length: int
    value: float

    def __str__(self) -> str:
        lasting = f" for {self.length / 1e9:.3f} s" if self.length else ""
        return f"{self.at / 1e9:.6f} s: {self.kind}{lasting} (variant {self.value:.6f})"


class Kind(NamedTuple):
    """`strike` injects the fault and returns how to end it, if it lasts."""

    strike: Callable[[World, Fault], Mend | None]
    weight: int = 10
    least: int = 0
    most: int = 0
    needs: str = ""  # "guests": only in a world that has some
    harms: bool = True  # what it strikes may stop working for it


class Burst(NamedTuple):
    """Faults that overlap, and when all of them are over."""

    faults: tuple[Fault, ...]

    @property
    def over(self) -> int:
        return max(fault.at + fault.length for fault in self.faults)


class Setup(NamedTuple):
    """The constants of a run: the board and the administrator's choices."""

    grace: str = "30s"
    rearm: str = "2s"
    link_loss: str = "propagate"
    watchdog: str = "2s"
    settle: int = 0
    tc: bool = False  # the ports have no native XDP
    keeps: bool = False  # a released relay line keeps its level
    blind: bool = False  # in bypass the ports have no carrier
    load: int = SECOND  # how long bypassd takes to start
    guests: tuple[str, ...] = ()  # a row of guests.GUESTS each
    link_down: bool = False  # their rule takes the links down when none is available


class Plan(NamedTuple):
    """Everything about a run except its seed."""

    setup: Setup
    bursts: tuple[Burst, ...]
    end: int

    def without(self, faults: set[Fault]) -> Plan:
        """The same run without some of its faults."""
        kept = (tuple(fault for fault in burst.faults if fault not in faults) for burst in self.bursts)
        return self._replace(bursts=tuple(Burst(faults) for faults in kept if faults))

    @property
    def faults(self) -> tuple[Fault, ...]:
        return tuple(fault for burst in self.bursts for fault in burst.faults)


# -- the kinds


def _cable(world: World, fault: Fault) -> Mend:
    port = world.ports["lan0" if fault.value < 0.5 else "wan0"]
    port.cable = False
    world.kernel.look_at_cables()
    return lambda: world.mend_cables(port)


def _both_cables(world: World, fault: Fault) -> Mend:
    for port in world.ports.values():
        port.cable = False
    world.kernel.look_at_cables()
    return lambda: world.mend_cables(*world.ports.values())


def _silent(world: World, fault: Fault) -> Mend:
    port = world.ports["lan0" if fault.value < 0.5 else "wan0"]
    port.silent = True
    return lambda: setattr(port, "silent", False)


def _set_down(world: World, fault: Fault) -> None:
    name = "lan0" if fault.value < 0.5 else "wan0"
    if world.ports[name].present:
        world.kernel.set_up(name, False)


def _spoiled(world: World, fault: Fault) -> None:
    """Another program ends the promiscuous mode of a port."""
    name = "lan0" if fault.value < 0.5 else "wan0"
    if world.ports[name].present:
        world.kernel.spoil(name)


def _again(once: Callable[[World, Fault], None]) -> Callable[[World, Fault], Mend]:
    """Repeatedly, every few seconds, while it lasts."""

    def strike(world: World, fault: Fault) -> Mend:
        going_on = True
        every = SECOND + int(fault.value * 5 * SECOND)

        def over() -> None:
            nonlocal going_on
            going_on = False

        def struck() -> None:
            if going_on:
                if world.boot.alive:
                    once(world, fault)
                world.clock.at(world.clock.now + every, struck, fixed=True)

        struck()
        return over

    return strike


def _detached(world: World, fault: Fault) -> None:
    world.kernel.programs.clear()


def _foreign(world: World, fault: Fault) -> Mend:
    """Another program takes the datapath's place at a port and cannot be replaced."""
    kernel, port = world.kernel, world.ports["lan0" if fault.value < 0.5 else "wan0"]
    index = port.ifindex
    if port.present:
        kernel.programs[index] = FOREIGN

    def gone() -> None:
        if kernel.programs.get(index) == FOREIGN:
            del kernel.programs[index]

    return gone


def _kernel(name: str, broken: bool) -> Callable[[World, Fault], Mend]:
    def strike(world: World, fault: Fault) -> Mend:
        kernel = world.kernel
        setattr(kernel, name, broken)
        return lambda: setattr(kernel, name, not broken)

    return strike


def _port_gone(world: World, fault: Fault) -> Mend | None:
    name = "lan0" if fault.value < 0.5 else "wan0"
    if not world.ports[name].present:
        return None
    world.kernel.remove(name)
    return lambda: world.kernel.bring(name)


def _attach_refused(world: World, fault: Fault) -> Mend:
    """From now on, and a port comes anew: so that it is attached again, and refused."""
    world.kernel.refuses_attach = True
    name = "lan0" if fault.value < 0.5 else "wan0"
    if world.ports[name].present:
        world.kernel.remove(name)
        world.kernel.bring(name)
    return lambda: setattr(world.kernel, "refuses_attach", False)


def _load_refused(world: World, fault: Fault) -> Mend:
    world.kernel.refuses_load = True
    return lambda: setattr(world.kernel, "refuses_load", False)


def _relay(name: str) -> Callable[[World, Fault], Mend]:
    def strike(world: World, fault: Fault) -> Mend:
        setattr(world.relay, name, True)
        return lambda: setattr(world.relay, name, False)

    return strike


def _watchdog_missing(world: World, fault: Fault) -> Mend:
    world.watchdog.missing = True
    return world.watchdog_found


def _dies(world: World, fault: Fault) -> None:
    if world.bypassd is not None:
        world.bypassd.die("killed by signal 11" if fault.value < 0.5 else "ended with status 1")


def _hangs(mode: str) -> Callable[[World, Fault], Mend | None]:
    def strike(world: World, fault: Fault) -> Mend | None:
        process = world.bypassd
        if process is None or process.hung:
            return None
        process.hang(mode)
        return process.go_on

    return strike


def _part_hangs(world: World, fault: Fault) -> None:
    if world.bypassd is not None:
        world.bypassd.hang_part("links" if fault.value < 0.5 else "steering")


def _dies_at_decision(world: World, fault: Fault) -> Mend:
    """bypassd is killed when it next records a transition, which is after a decision and before it takes effect."""

    def struck() -> None:
        if world.bypassd is not None:
            world.bypassd.die("killed by signal 9")

    world.at_decision = struck
    return lambda: setattr(world, "at_decision", None)


def _slow_start(world: World, fault: Fault) -> Mend:
    world.start_delay = int(fault.value * 60 * SECOND)
    return lambda: setattr(world, "start_delay", 0)


def _no_start(world: World, fault: Fault) -> Mend:
    world.cannot_spawn = True
    return lambda: setattr(world, "cannot_spawn", False)


def _slow_threads(world: World, fault: Fault) -> Mend:
    world.thread_delay = int(fault.value * 2 * SECOND)
    return lambda: setattr(world, "thread_delay", 0)


def _keeper_dies(world: World, fault: Fault) -> None:
    world.keeper_dies()


def _keeper_stalls(world: World, fault: Fault) -> None:
    world.keeper_stalls(int(fault.value * 4 * SECOND))


def _panic(world: World, fault: Fault) -> None:
    world.panic("Fatal exception in interrupt")


def _panic_loop(world: World, fault: Fault) -> Mend:
    """The kernel panics a few seconds after each time at which the relay goes inline."""
    world.panics_inline = True
    world.panic_if_inline()
    return lambda: setattr(world, "panics_inline", False)


def _power_cut(world: World, fault: Fault) -> Mend:
    world.power_off()
    return world.power_on


def _power_cut_at_call(world: World, fault: Fault) -> Mend:
    """The power fails at the n-th system call of a write from now on."""
    world.cut_at_call(1 + int(fault.value * 25))
    return world.stop_counting_calls


def _reboot(world: World, fault: Fault) -> None:
    world.reboot()


def _disk(number: int) -> Callable[[World, Fault], Mend]:
    def strike(world: World, fault: Fault) -> Mend:
        world.disk.error = number
        return lambda: setattr(world.disk, "error", 0)

    return strike


def _operator(world: World, fault: Fault) -> Mend:
    world.ask("bypass")
    return lambda: world.ask("auto")


def _drill(kind: str) -> Callable[[World, Fault], None]:
    return lambda world, fault: world.drill(kind)


def _commit(world: World, fault: Fault) -> None:
    world.commit(fault.value)


def _confirm(world: World, fault: Fault) -> None:
    world.settle_pending(confirm=fault.value < 0.5)


def _guest(does: Callable[[Qemu, Fault], Mend | None]) -> Callable[[World, Fault], Mend | None]:
    """Of the guests that run, one is chosen."""

    def strike(world: World, fault: Fault) -> Mend | None:
        running = [one for one in world.qemus.running.values() if one.running]
        if not running:
            return None
        chosen = running[int(fault.value * 1000) % len(running)]
        if KINDS[fault.kind].harms:
            chosen.ill()
        mend = does(chosen, fault)
        if mend is None:
            return None

        def mended() -> None:
            if KINDS[fault.kind].harms:
                chosen.ill()
            mend()

        return mended

    return strike


def _guest_dies(qemu: Qemu, fault: Fault) -> None:
    qemu.die("killed by SIGKILL" if fault.value < 0.5 else "exited with status 1")


def _guest_hangs(qemu: Qemu, fault: Fault) -> Mend:
    qemu.hung = True
    return qemu.reset if fault.value < 0.5 else lambda: setattr(qemu, "hung", False)


def _guest_pauses(qemu: Qemu, fault: Fault) -> Mend:
    def resume() -> None:
        qemu.paused = False
        qemu.event("RESUME")

    qemu.paused = True
    qemu.event("STOP")
    return resume


def _guest_panics(qemu: Qemu, fault: Fault) -> None:
    qemu.hung = True
    qemu.event("GUEST_PANICKED", action="pause")
    qemu.guests.clock.after(50 * MS, lambda: qemu.die("exited with status 0"), qemu.guests.scope)


def _guest_powers_off(qemu: Qemu, fault: Fault) -> None:
    qemu.event("SHUTDOWN", reason="guest-shutdown")
    qemu.guests.clock.after(100 * MS, lambda: qemu.die("exited with status 0"), qemu.guests.scope)


def _guest_resets(qemu: Qemu, fault: Fault) -> None:
    qemu.reset(int(fault.value * 10 * SECOND))


def _guest_deaf(qemu: Qemu, fault: Fault) -> Mend:
    qemu.deaf = int(fault.value * 2)
    return lambda: setattr(qemu, "deaf", None)


def _application_fails(qemu: Qemu, fault: Fault) -> Mend:
    qemu.app_failed = True
    return lambda: setattr(qemu, "app_failed", False)


def _guest_disk(qemu: Qemu, fault: Fault) -> None:
    qemu.event("BLOCK_IO_ERROR", operation="write", reason="No space left on device")


def _guest_disk_full(qemu: Qemu, fault: Fault) -> Mend:
    """QEMU pauses it. It continues when there is space again."""
    guests = qemu.guests
    guests.disk_full = qemu.full = True
    qemu.event("BLOCK_IO_ERROR", operation="write", nospace=True, reason="No space left on device")
    if not qemu.paused:
        qemu.paused = True
        qemu.event("STOP")
    return lambda: setattr(guests, "disk_full", False)


def _flood(qemu: Qemu, fault: Fault) -> Mend:
    """Four to ten times its capacity: it works continuously, and most of its frames are lost before they reach it.

    In one direction, or in both.
    """
    ways = qemu.guests.ways_of(qemu.name)
    chosen = (ways[:1], ways[1:], ways)[int(fault.value * 3)]
    for way in chosen:
        way.flood = 4 + 6 * (fault.value * 3 % 1)

    def over() -> None:
        for number, way in enumerate(qemu.guests.ways_of(qemu.name)):
            if ways[number] in chosen:
                way.flood = 0

    return over


def _doomed(where: str) -> Callable[[World, Fault], Mend | None]:
    """A guest ends now, and after each start for as long as this lasts."""

    def strike(world: World, fault: Fault) -> Mend:
        names = world.setup.guests
        name = names[int(fault.value * 1000) % len(names)]
        qemus = world.qemus
        getattr(qemus, where).add(name)
        if name in qemus.running:
            qemus.running[name].die("killed by SIGSEGV")
        return lambda: getattr(qemus, where).discard(name)

    return strike


def _guests_slow(world: World, fault: Fault) -> Mend:
    qemus = world.qemus
    qemus.boot_delay = int(fault.value * 30 * SECOND)
    return lambda: setattr(qemus, "boot_delay", 0)


KINDS: dict[str, Kind] = {
    "cable pulled": Kind(_cable, 15, 10 * MS, 20 * SECOND),
    "both cables pulled": Kind(_both_cables, 5, 10 * SECOND, 2 * MINUTE),
    "port silent": Kind(_silent, 5, 10 * SECOND, 2 * MINUTE),
    "port set down by somebody": Kind(_set_down, 5),
    "port set down again and again": Kind(_again(_set_down), 5, 10 * SECOND, MINUTE),
    "port's settings changed": Kind(_spoiled, 5),
    "programs detached": Kind(_detached, 5),
    "programs detached again and again": Kind(_again(_detached), 5, 10 * SECOND, MINUTE),
    "foreign program": Kind(_foreign, 5, SECOND, 2 * MINUTE),
    "links cannot be read": Kind(_kernel("answers", False), 5, SECOND, MINUTE),
    "messages of links are lost": Kind(_kernel("loses_messages", True), 10, SECOND, 2 * MINUTE),
    "port gone": Kind(_port_gone, 10, 100 * MS, MINUTE),
    "attach refused": Kind(_attach_refused, 10, 10 * MS, 10 * SECOND),
    "load refused": Kind(_load_refused, 5, SECOND, MINUTE),
    "relay missing": Kind(_relay("missing"), 10, 10 * MS, 30 * SECOND),
    "relay stuck": Kind(_relay("stuck"), 10, 10 * MS, 30 * SECOND),
    "relay drops": Kind(_relay("drops"), 5, SECOND, HOUR),
    "watchdog missing": Kind(_watchdog_missing, 10, 10 * MS, 30 * SECOND),
    "bypassd dies": Kind(_dies, 30),
    "bypassd is stopped": Kind(_hangs("T"), 10, 10 * MS, 30 * SECOND),
    "bypassd loops": Kind(_hangs("R"), 10, 10 * MS, 30 * SECOND),
    "bypassd starves": Kind(_hangs("W"), 10, 10 * MS, 20 * SECOND),
    "part hangs": Kind(_part_hangs, 10),
    "bypassd dies at a decision": Kind(_dies_at_decision, 20, MINUTE, 3 * MINUTE),
    "slow start": Kind(_slow_start, 10, SECOND, 2 * MINUTE),
    "no start": Kind(_no_start, 5, 100 * MS, MINUTE),
    "slow threads": Kind(_slow_threads, 10, SECOND, 30 * SECOND),
    "keeper dies": Kind(_keeper_dies, 15),
    "keeper stalls": Kind(_keeper_stalls, 15),
    "panic": Kind(_panic, 8),
    "panic when inline": Kind(_panic_loop, 5, 30 * MINUTE, 2 * HOUR),
    "power cut": Kind(_power_cut, 8, SECOND, MINUTE),
    "power cut at a system call": Kind(_power_cut_at_call, 10, MINUTE, 2 * MINUTE),
    "reboot": Kind(_reboot, 5),
    "disk full": Kind(_disk(NO_SPACE), 10, 100 * MS, MINUTE),
    "disk broken": Kind(_disk(BROKEN), 10, 100 * MS, MINUTE),
    "operator asks for bypass": Kind(_operator, 10, 100 * MS, MINUTE),
    "guest dies": Kind(_guest(_guest_dies), 15, needs="guests"),
    "guest hangs": Kind(_guest(_guest_hangs), 15, 10 * MS, MINUTE, needs="guests"),
    "guest pauses": Kind(_guest(_guest_pauses), 10, 10 * MS, MINUTE, needs="guests"),
    "guest panics": Kind(_guest(_guest_panics), 10, needs="guests"),
    "guest powers off": Kind(_guest(_guest_powers_off), 10, needs="guests"),
    "guest resets": Kind(_guest(_guest_resets), 10, needs="guests"),
    "guest deaf on one side": Kind(_guest(_guest_deaf), 10, 10 * MS, 30 * SECOND, needs="guests"),
    "guest's application fails": Kind(_guest(_application_fails), 10, 10 * MS, 30 * SECOND, needs="guests"),
    "guest's disk fails": Kind(_guest(_guest_disk), 5, needs="guests"),
    "guest's disk is full": Kind(_guest(_guest_disk_full), 5, 100 * MS, MINUTE, needs="guests"),
    "guest crashes again and again": Kind(_doomed("doomed"), 10, SECOND, 2 * MINUTE, needs="guests"),
    "guest refused by QEMU": Kind(_doomed("refused"), 5, SECOND, MINUTE, needs="guests"),
    "guests start slowly": Kind(_guests_slow, 5, SECOND, MINUTE, needs="guests"),
    "flood": Kind(_guest(_flood), 10, 10 * SECOND, MINUTE, needs="guests", harms=False),
    "drill of the relay": Kind(_drill("relay"), 10, harms=False),
    "drill of the watchdog": Kind(_drill("watchdog"), 5, harms=False),
    "commit": Kind(_commit, 30),
    "commit confirmed or reverted": Kind(_confirm, 15),
}


# -- plans

RECOVERY_NS = max(Times().rearm_max, Limits().window * SECOND) + Limits().window * SECOND // NOTES + 5 * MINUTE
"""All must be well so long after the last fault: the longest back-off of a relay, or the window after which crashes
are forgotten and safe mode ends (which is noted now and then); then the start of a board, of bypassd and of a guest."""
BETWEEN_HOURS = 3.0
"""Mean time between bursts."""


def setup(rng: random.Random) -> Setup:
    """Draw a board and a configuration."""
    from tests.simulate.guests import GUESTS

    return Setup(
        grace=rng.choice(("0s", "1us", "100ms", "2s", "30s", "30s", "30s")),
        rearm=rng.choice(("0s", "2s", "2s", "10s")),
        link_loss=rng.choice(("propagate", "propagate", "bypass", "ignore")),
        watchdog=rng.choice(("1s", "2s", "2s", "10s")),
        settle=rng.choice((0, 0, 5 * MS, 200 * MS)),
        tc=rng.random() < 0.5,
        keeps=rng.random() < 0.3,
        blind=rng.random() < 0.5,
        load=rng.choice((300 * MS, SECOND, 3 * SECOND)),
        guests=tuple(rng.sample(sorted(GUESTS), min(len(GUESTS), rng.choice((0, 0, 1, 1, 2))))),
    )


def plan(seed: int, hours: float, *, only: frozenset[str] = frozenset()) -> Plan:
    """Draw the plan of a run. `only`: all kinds that it may have; empty: those of KINDS."""
    rng = random.Random(f"plan {seed}")
    chosen = setup(rng)._replace(link_down=random.Random(f"link-down {seed}").random() < 0.3)
    possible = {
        name: kind for name, kind in KINDS.items() if (not only or name in only) and (not kind.needs or chosen.guests)
    }
    names = sorted(possible) if only else [name for name in possible if rng.random() < 0.5] or sorted(possible)
    if not names:
        return Plan(chosen, (), int(hours * HOUR))
    weights = [possible[name].weight * rng.choice((1, 1, 3)) for name in names]
    bursts = []
    at, end = int(rng.uniform(10, 120) * SECOND), int(hours * HOUR)
    while at < end:
        faults, spread = [], rng.choice((100 * MS, 2 * SECOND, 30 * SECOND))
        for name in rng.choices(names, weights, k=min(1 + int(rng.expovariate(0.5)), 12)):
            kind = possible[name]
            length = int(kind.least * (kind.most / kind.least) ** rng.random()) if kind.least else 0
            faults.append(Fault(at, name, length, rng.random()))
            at += int(rng.expovariate(1) * spread)
        bursts.append(Burst(tuple(faults)))
        at = bursts[-1].over + RECOVERY_NS + MINUTE + int(rng.expovariate(1 / BETWEEN_HOURS) * HOUR)
    return Plan(chosen, tuple(bursts), max(end, at if bursts else end))
