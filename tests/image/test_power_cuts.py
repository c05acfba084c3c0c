# SPDX-License-Identifier: GPL-2.0-only
"""The plug is pulled fifty times while configurations are committed: the old or the new one is there, whole, each time.

Two writers run on the board. One commits over the control socket, as an administrator would; the other writes by the
same store as fast as the disk takes it, so that most cuts fall into the middle of a write. Both note, synced, what was
acknowledged. After each cut what is found must be what was acknowledged last, or the one that was just being written.
tests/unit/test_config_store.py cuts behind every single system call; this is the same with a real kernel and disk.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from boardsim import Board, payload

from tests.image import appliance, harness

pytestmark = pytest.mark.slow

ROUNDS, CUTS = 5, 10
LONGEST_S = 14.0  # from the shell's answer to the cut: longer than bypassd needs for its first commits
SCRIPT = "/var/lib/bypass/cut.py"
WRITERS = r"""
import json, os, sys, time
from pathlib import Path
from appliance.config.load import loads
from appliance.config.store import Entry, Store

HOME = Path("/var/lib/bypass/cut")
TEXT = '[system]\nhostname = "cut%d"\n' + "# filled up to more than one block\n" * 200

def number(text):
    name = loads(text, filters=False).system.hostname
    return int(name[3:]) if name.startswith("cut") else 0

def note(name, count):
    fresh = HOME / (name + ".new")
    with fresh.open("w") as file:
        file.write(str(count))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(HOME / name)
    os.sync()

def noted(name):
    try:
        return int((HOME / name).read_text())
    except OSError:
        return 0

def store():
    return Store(HOME / "config.toml", HOME / "history")

def check():
    found = {"commit": [noted("commit"), number(Path("/etc/bypass/config.toml").read_text())]}
    if (HOME / "config.toml").exists():
        kept = store()
        begun = kept.recover("boot", 0)
        assert begun.error is None, begun
        assert kept.entry(0).text == begun.text, "history and startup are not the same"
        assert begun.text == TEXT % number(begun.text), "not whole"
        found["store"] = [noted("store"), number(begun.text)]
    print(json.dumps(found))

def fast():
    HOME.mkdir(exist_ok=True)
    kept, count = store(), noted("store")
    if not kept.startup.exists():
        kept.startup.write_text(TEXT % 0)
    kept.recover("boot", 0)
    count = number(kept.startup_text())
    while True:
        count += 1
        entry = Entry(kept.newest + 1, "now", "cut", "", "commit", TEXT % count)
        kept.stage(entry)
        kept.publish(entry)
        note("store", count)

def commits():
    from appliance.errors import BypassError
    from console.client import Client
    HOME.mkdir(exist_ok=True)
    client = Client()
    while True:
        try:
            client.call("config.edit", {"takeover": True})
            break
        except BypassError:
            time.sleep(0.1)
    count = number(Path("/etc/bypass/config.toml").read_text())
    while True:
        count += 1
        client.call("config.set", {"words": ["system", "hostname", f"cut{count}"]})
        client.call("config.commit", {"comment": f"number {count}"}, wait=120)
        note("commit", count)

{"check": check, "fast": fast, "commits": commits}[sys.argv[1]]()
"""


@pytest.fixture(scope="module")
def cut(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board of its own, for its disk suffers."""
    directory = tmp_path_factory.mktemp("cut-board")
    load = payload.image(artefacts, directory, debug=True)
    with Board(directory, load, accelerator=harness.accelerator(artefacts)) as made:
        made.power_on()
        made.sh("true", timeout=120)
        appliance.write(made, SCRIPT, WRITERS)
        made.sh("mkdir -p /var/lib/bypass/cut; sync")
        yield made


@pytest.mark.parametrize("turn", range(ROUNDS))
def test_power_cuts_while_configurations_are_committed(cut: Board, turn: int) -> None:
    """Ten cuts at random moments: nothing is torn, nothing that was acknowledged is lost."""
    moments = random.Random(turn)
    tally = {"store": 0, "commit": 0}
    for number in range(CUTS):
        if cut.qemu_pid is None:
            cut.power_on()
        cut.sh("true", timeout=120)
        found = json.loads(cut.sh(f"python3 {SCRIPT} check", timeout=120).output.splitlines()[-1])
        for writer, (acknowledged, there) in found.items():
            assert acknowledged <= there <= acknowledged + 1, f"cut {number}: {writer}: {found}"
            tally[writer] = max(tally[writer], there)
        cut.sh(f"cd /tmp; for what in fast commits; do python3 {SCRIPT} $what >/tmp/$what.log 2>&1 & done")
        threading.Event().wait(moments.uniform(1.0, LONGEST_S))
        cut.power_cut()
    print(f"turn {turn}: {CUTS} cuts, {tally['store']} stores and {tally['commit']} commits so far")
    assert tally["store"] > 0
