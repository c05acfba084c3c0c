# SPDX-License-Identifier: GPL-2.0-only
"""The made-up daemon of fake_daemon.py with answers about the machine itself, in the published types.

`python -m tests.support.machine_daemon SOCKET` serves by hand.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

from appliance.api.rpc import Param
from appliance.api.schema import machine, methods, state
from appliance.api.schema.base import Done
from appliance.errors import UnreachableError
from appliance.support.licences import Licences
from appliance.support.logs import Logs
from tests.support.fake_daemon import FakeDaemon

Params = dict[str, Any]
NONE = machine.PowerOrder("none")
DUE = machine.PowerOrder("waiting", "reboot", "anna", 250, "2026-11-29T13:30:00+01:00")
PLAN = machine.PowerPlan(
    "reboot",
    [
        machine.LinkPlan("main", "inline", "the relay closes first: traffic crosses it, uninspected, until the "
                         "appliance has started and is verified"),
    ],
    ["ips1", "dpi"],
    ["anna from 192.0.2.7"],
    ["uncommitted changes by anna are lost"],
)  # fmt: skip


CLOCK = machine.Clock(
    now="2026-11-29T14:30:00.125+01:00",
    utc="2026-11-29T13:30:00.125+00:00",
    zone="Europe/Berlin",
    state="synchronized",
    detail="",
    servers_from="dhcp",
    servers=[
        machine.NtpSource("192.0.2.123", "used", 2, 8, 0.00021, 34),
        machine.NtpSource("2001:db8::123", "no answer", 0, 0, 0.0, None),
    ],
    source="192.0.2.123",
    stratum=3,
    offset_s=-0.00012,
    error_s=0.0061,
    chip="2026-11-29T13:29:58+00:00",
    chip_ahead_s=-2.0,
)


LLDP = machine.Lldp(
    "on",
    "",
    "mgmt0",
    [
        machine.LldpNeighbour(
            "access-7",
            "00:1b:54:aa:00:07",
            "Gi1/0/12",
            "wire1 management",
            "Switch \x1b[31mOS 15.2",
            ["192.0.2.1"],
            ["bridge", "router"],
            ["7"],
            86400,
            120,
        )
    ],
)


SNMP = machine.Snmp(
    state="listening",
    detail="",
    port=161,
    engine="80001f880576e10ba11f0c2ad5",
    boots=66,
    users=[
        machine.SnmpUser("monitor", "read", "sha-256", "aes-128", 3),
        machine.SnmpUser("signs", "notify", "sha-512", "aes-128", 0),
    ],
    receivers=[machine.SnmpReceiver("nms", "2001:db8::162", 162, "inform", "signs")],
    requests=1204,
    sent={"entStateOperDisabled": 2, "linkDown": 1},
    lost=1,
    waiting=0,
    last=machine.SnmpSent("entStateOperDisabled", "segment main", "2026-11-30T13:59:58.125+00:00"),
)


PORTS = [
    machine.Port(
        name="lan0",
        role="data",
        device="enp2s0",
        segment="main/lan",
        link="up",
        speed_mbps=2500,
        duplex="full",
        negotiates=True,
        medium="Twisted Pair",
        mac="02:fc:00:00:00:01",
        mtu=3480,
        driver="igc",
        rx_frames=1000,
        tx_frames=900,
        rx_errors=3,
        tx_dropped=7,
    ),
    machine.Port(name="wan0", role="data", device="", segment="main/wan", link="missing", detail="not found"),
    machine.Port(
        name="mgmt0",
        role="management",
        device="mgmt0-hw",
        segment="",
        link="down",
        driver="igb",
        mtu=1500,
        mac="02:fc:00:00:00:03",
    ),
]


MACHINE = machine.Machine(
    board="acme-2", vendor="Acme", model="Board 2", serial="A1B2", firmware="", uptime_s=4000, processors=4,
    load=[0.5, 1.25, 2.0], memory={"total": 4 << 30, "available": 3 << 29, "hugepages": 8, "hugepages_free": 3},
    disks=[machine.Disk("data", "ext4", 10 << 30, 4 << 30, "guests pause when less than 512 MiB are free"),
           machine.Disk("run", "tmpfs", 2 << 30, 2 << 30, "memory, at most half of it")],
    temperatures={"coretemp Package id 0": 41.5}, fans={"nct6775 fan1": 1200},
    slots=[machine.BootSlot("a", True, "good", True),
           machine.BootSlot("b", False, "given up after 3 starts that failed", False)],
)  # fmt: skip


class MachineDaemon(FakeDaemon):
    """`calls` has what was asked; `order` is what `show reboot` answers."""

    order = NONE

    def _fill(self) -> None:
        super()._fill()
        self._power()
        self._drills()
        self._clock()
        self._lldp()
        self._snmp()
        self._ports()
        self._reach()
        self._logs()
        self._system()
        Licences(Path("/nowhere")).register(self.registry)

    def _logs(self) -> None:
        """Real logs, in the folder of the socket."""

        def guest_log(name: str) -> Path:
            return self.path.parent / f"{name}.log"

        Logs(self.path.parent, guest_log).register(self.registry)

    def _reach(self) -> None:
        """A router is on the way to everything; it refuses to go on to the IPv6 address."""

        async def name(params: Params) -> machine.Resolved:
            addresses = ["192.0.2.1", "2001:db8::1"]
            return machine.Resolved(params["host"], addresses[::-1] if params["host"] == "six" else addresses, 1.0)

        async def ping(params: Params) -> machine.Echo:
            self.calls.append(("reach.ping", params))
            if params.get("size") == 8:
                return machine.Echo(params["address"], None, None, "no reply")
            return machine.Echo(params["address"], 0.5 * len(self.calls), 64, "")

        async def hop(params: Params) -> machine.Hop:
            hops = [machine.Hop(1, "10.88.0.1", 0.1, "", False), machine.Hop(2, "", None, "", False),
                    machine.Hop(3, params["address"], 2.5, "", True)]  # fmt: skip
            if ":" in params["address"]:
                return machine.Hop(1, "fd00:88::1", 1.0, "!H", True)
            return hops[int(params["hop"]) - 1]

        async def tcp(params: Params) -> machine.Connected:
            if params["port"] != 443:
                raise UnreachableError(f"{params['address']} port {params['port']}: connection refused")
            return machine.Connected(params["address"], 443, 3.25)

        address, number = {"address": Param()}, Param("integer")
        add = self.registry.add
        add(methods.REACH_NAME, name, params={"host": Param(), "server": Param(required=False)})
        add(methods.REACH_PING, ping, params={**address, "size": Param("integer", required=False)})
        add(methods.REACH_HOP, hop, params={**address, "hop": number})
        add(methods.REACH_TCP, tcp, params={**address, "port": number})

    def _ports(self) -> None:
        async def show(_: Params) -> list[machine.Port]:
            return PORTS

        async def one(params: Params) -> machine.PortDetails:
            (port,) = (port for port in PORTS if port.name == params["name"])
            return machine.PortDetails(
                port,
                {"rx crc errors": 2},
                "1057:8754",
                "0000:02:00.0",
                {"rx": "256 of 4096"},
                {"Laser rx power low warning": "On"},
                {"rx_packets": 12, "tx_timeout": 0},
            )

        self.registry.add(methods.PORTS_SHOW, show)
        self.registry.add(methods.PORT_SHOW, one, params={"name": Param()})

    def _system(self) -> None:
        async def show(_: Params) -> machine.Machine:
            return MACHINE

        self.registry.add(methods.SYSTEM_SHOW, show)

    def _clock(self) -> None:
        async def show(_: Params) -> machine.Clock:
            return CLOCK

        async def change(params: Params) -> Done:
            self.calls.append(("clock.set", params))
            return Done("clock set")

        self.registry.add(methods.CLOCK_SHOW, show)
        self.registry.add(methods.CLOCK_SET, change, "admin", "", {"when": Param()})

    def _drills(self) -> None:
        async def plan(params: Params) -> state.DrillPlan:
            return state.DrillPlan(params["kind"], ["the relay of segment main closes for 5 s"], False)

        async def drill(params: Params) -> Done:
            self.calls.append(("drill.run", params))
            return Done("relay drill: begins now")

        async def answer(params: Params) -> Done:
            self.calls.append(("drill.answer", params))
            return Done("power drill: passed")

        params = {"kind": Param(), "segment": Param(required=False)}
        self.registry.add(methods.DRILL_PLAN, plan, params=params)
        self.registry.add(methods.DRILL_RUN, drill, "admin", "", params)
        self.registry.add(methods.DRILL_ANSWER, answer, "admin", "", {"passed": Param("boolean")})

    def _lldp(self) -> None:
        async def show(_: Params) -> machine.Lldp:
            return LLDP

        self.registry.add(methods.LLDP_SHOW, show)

    def _snmp(self) -> None:
        async def show(_: Params) -> machine.Snmp:
            return SNMP

        self.registry.add(methods.SNMP_SHOW, show)

    def _power(self) -> None:
        async def plan(params: Params) -> machine.PowerPlan:
            return machine.PowerPlan(params["action"], PLAN.links, PLAN.guests, PLAN.sessions, PLAN.warnings)

        async def order(params: Params) -> Done:
            self.calls.append(("power.order", params))
            return Done(f"{params['action']} ordered")

        async def cancel(_: Params) -> Done:
            self.calls.append(("power.cancel", {}))
            return Done("reboot cancelled")

        async def show(_: Params) -> machine.PowerOrder:
            return self.order

        action = {"action": Param(choices=("reboot", "poweroff"))}
        optional = {"in_s": Param("integer", required=False), "at": Param(required=False)}
        add = self.registry.add
        add(methods.POWER_PLAN, plan, params=action)
        add(
            methods.POWER_ORDER,
            order,
            "admin",
            "",
            {**action, **optional, "force": Param("boolean", required=False), "reset": Param(required=False)},
        )
        add(methods.POWER_CANCEL, cancel, "admin")
        add(methods.POWER_SHOW, show)


if __name__ == "__main__":
    with MachineDaemon(Path(sys.argv[1])):
        threading.Event().wait()
