# SPDX-License-Identifier: GPL-2.0-only
"""The fake daemon of fake_daemon.py with the real configuration code: candidate, engine, store on disk.

`python -m tests.support.config_daemon FOLDER` starts it manually, at FOLDER/control.sock.
"""

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

from appliance.api.schema import methods
from appliance.config.api import Api
from appliance.config.check import load
from appliance.config.commit.engine import Engine
from appliance.config.commit.steps import Step
from appliance.config.commit.store import Store
from appliance.config.commit.traffic_check import Look, Segment
from appliance.config.edit.candidate import Candidate
from appliance.config.schema.model import Config
from appliance.errors import DatapathError
from tests.support.fake_daemon import FakeDaemon

TEXT = """\
[system]
hostname = "wire1"

# the link to the provider
[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"

[[guest]]
name = "ips1"
image = "ips1.qcow2"
memory = "256M"

[[rule]]
name = "web"
match = "tcp port 80"
path = ["ips1"]

[[rule]]
name = "dns"
match = "udp port 53"
path = ["ips1"]
"""


class ConfigDaemon(FakeDaemon):
    """`refuse`: why the datapath refuses a new policy; "" it does not."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "control.sock")
        self.startup, self.refuse, self.generation = folder / "config.toml", "", 1
        self.startup.write_text(TEXT)
        self._serve(folder)

    def _serve(self, folder: Path) -> None:
        store = Store(self.startup, folder / "history")
        store.recover("boot", 0)

        async def apply(config: Config) -> None:
            if self.refuse and len(config.rule) != 2:
                raise DatapathError(self.refuse)
            self.generation += 1

        async def prepare(_: Config) -> None:
            """Nothing can fail before."""

        async def finish(_: Config) -> None:
            """Nothing is left to do."""

        def tell(event: str, user: str, text: str) -> None:
            self._server.publish(methods.CONFIG, methods.ConfigEvent(event, user, text))

        self.engine = Engine(
            store,
            running=load.loads(TEXT),
            text=TEXT,
            boot="boot",
            steps=[Step("steering", apply, prepare, lambda: None, finish)],
            look=lambda: Look(self.generation, {"main": Segment(inline=True)}),
            tell=tell,
        )
        self._api = Api(self.engine, Candidate(lambda: self.engine.text, tell=tell), lambda: ("lan0", "wan0"))
        self._api.register(self.registry)

    def config_state(self) -> dict[str, Any]:
        waits = self.engine.seconds_left() if self.engine.pending is not None else None
        return {"valid": True, "errors": [], "confirm_s": waits, "rolled_back": self.engine.notice}

    def start(self) -> "ConfigDaemon":
        super().start()
        self._watching = asyncio.run_coroutine_threadsafe(self.engine.run(), self._loop)
        return self

    def stop(self) -> None:
        self._watching.cancel()
        asyncio.run_coroutine_threadsafe(self._api.stop(), self._loop).result(10)
        super().stop()


if __name__ == "__main__":
    with ConfigDaemon(Path(sys.argv[1])):
        threading.Event().wait()
