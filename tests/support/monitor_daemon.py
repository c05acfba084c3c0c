# SPDX-License-Identifier: GPL-2.0-only
"""The fake daemon with traffic: growing counters, varying latencies, events. For tests of `monitor`.

`python -m tests.support.monitor_daemon SOCKET [RELAY]` starts it manually.
"""

import math
import sys
import threading
from pathlib import Path
from typing import Any

from appliance.api.schema.methods import Answers
from appliance.api.server import Param
from tests.support.fake_daemon import FakeDaemon


class MonitorDaemon(FakeDaemon):
    """Each query sees 1,000 more frames."""

    def __init__(self, path: Path, relay: str = "inline") -> None:
        super().__init__(path, relay)
        self.looks = 0
        name = {"name": Param()}
        self.registry.add(Answers("counters.show", object), self._counters)
        self.registry.add(Answers("guest.show", object), self._guest, params=name)
        self.registry.add(
            Answers("events.show", object), self._events, params={"count": Param("integer", required=False)}
        )

    async def _counters(self, _: dict[str, Any]) -> object:
        self.looks += 1
        n = self.looks
        port = {"frames": 1000 * n, "bytes": 800_000 * n, "dropped_frames": 0}
        rule = {"frames": 900 * n, "bytes": 700_000 * n, "to_hop": 900 * n, "bypassed": 0, "blocked": 0, "excess": 0}
        hop = {"to_frames": 900 * n, "from_frames": 900 * n}
        ports = {"main/lan": port, "main/wan": port}
        return {"ports": ports, "hops": {"ips1": hop, "ips2": hop}, "rules": {"web": rule}}

    async def _guest(self, params: dict[str, Any]) -> object:
        row = next(row for row in self.guests() if row["name"] == params["name"])
        value = 1.5 + math.sin(self.looks / 3)
        checks = [{"check": "inband", "latency_ms": round(value, 3)}] if row["state"] == "running" else []
        return {**row, "checks": checks, "latency_p99_ms": 2.5}

    async def _events(self, _: dict[str, Any]) -> object:
        return [
            {"when": "2026-01-02T03:04:05.123+00:00", "severity": "notice", "source": "segment main",
             "cause": "healthy", "text": f"bypass -> inline ({n})"} for n in range(12)
        ]  # fmt: skip


if __name__ == "__main__":
    with MonitorDaemon(Path(sys.argv[1]), *sys.argv[2:3]):
        threading.Event().wait()
