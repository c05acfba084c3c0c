# SPDX-License-Identifier: GPL-2.0-only
"""bypassd: arguments, logging, run. Started by the keeper, never by init.

It first sends "hold" to the keeper; every heavy import comes after that.
"""

from __future__ import annotations

import os
import sys
import time

from appliance.errors import BypassError
from appliance.keeper.client import KeeperLink, die_with_parent

_PR_SET_NAME = 15


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `bypassd` and `python -m appliance`."""
    parent = os.getppid()
    keeper = KeeperLink.from_environment()
    keeper.hold()
    if keeper.lost or (keeper.present and not die_with_parent(parent)):
        return 0  # the keeper died while we started; the next one starts its own
    _reset_inherited()

    import argparse
    from pathlib import Path

    from appliance.paths import Paths

    parser = argparse.ArgumentParser(prog="bypassd", description="The supervisor of a bypass appliance.")
    parser.add_argument("--root", type=Path, default=Path("/"), help="root folder of all other paths (default /)")
    parser.add_argument("--config", type=Path, help="startup configuration (default ROOT/etc/bypass/config.toml)")
    parser.add_argument("--board", type=Path, help="board description (default ROOT/usr/share/bypass/board.toml)")
    parser.add_argument("--bpf-object", type=Path, help="datapath (default ROOT/usr/share/bypass/steer.bpf.o)")
    parser.add_argument("--log-level", default="info", choices=["debug", "info", "warning", "error"])
    given = parser.parse_args(arguments)
    paths = Paths(given.root)

    import logging

    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=given.log_level.upper(), format=form, stream=sys.stderr)
    log = logging.getLogger("bypassd")

    from appliance.config.commit import startup
    from appliance.config.commit.store import Store
    from appliance.hardware import board as boards
    from appliance.hardware.crashlog import boot_id
    from appliance.supervisor.supervisor import Supervisor, run
    from appliance.system import crash_lines

    crash_lines.install(paths.root)
    keeper.hold()
    board: boards.Board | None = None
    trouble = ""
    store = Store(given.config or paths.config, paths.history)
    begun = startup.read(store, boot_id(), time.monotonic_ns())
    for note in begun.notes:
        log.warning("configuration: %s", note)
    for each in begun.errors:
        log.error("configuration: %s", each)
    try:
        board = boards.load(given.board or paths.board)
    except BypassError as error:
        trouble = str(error)
        log.error("board: %s", error)
    keeper.hold()

    def make() -> Supervisor:
        return Supervisor(
            paths,
            keeper,
            board=board,
            board_error=trouble,
            config=begun.config,
            config_errors=begun.errors,
            bpf_object=given.bpf_object,
            store=store,
            text=begun.text,
            pending=begun.pending,
        )

    return run(make, paths.last_words)


def _reset_inherited() -> None:
    """Undo what a child of the keeper inherits and must not pass on to guests; set the name that `ps` shows.

    Run with a higher priority until the segments start (table.restore_priority): at boot, shells and device events
    compete for the processors while the link waits in bypass.
    """
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_NAME, b"bypassd", 0, 0, 0)
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("0")
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    except OSError:
        pass  # not root: nothing was inherited either


if __name__ == "__main__":
    sys.exit(main())
