# SPDX-License-Identifier: GPL-2.0-only
"""Programs for tests of power cuts on the board: writers that commit configurations and report acknowledged ones.

`fast` and `acknowledge` write with the product's own store below HOME, `commits` over the control socket like an
administrator, `check` reports the state after a cut.
"""

from __future__ import annotations

SCRIPT = "/var/lib/bypass/cut.py"
WRITERS = r"""
import json, os, sys, time
from pathlib import Path
from appliance.config.check.load import loads
from appliance.config.commit.store import Entry, Store

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

# What a cut in the middle of a write has left, before it is mended
def trace(kept):
    if [*HOME.glob("config.toml.new"), *(HOME / "history").glob("*.new")]:
        return "staged"
    history = kept.history()
    if history and history[0].text != kept.startup_text():
        return "half"
    return "unacknowledged" if number(kept.startup_text()) > noted("store") else ""

def check():
    found = {"commit": [noted("commit"), number(Path("/etc/bypass/config.toml").read_text())], "trace": ""}
    if (HOME / "config.toml").exists():
        kept = store()
        found["trace"] = trace(kept)
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

# One at a time: the reader answers each with a line. The file "careless" is acknowledged, too, and never synced
def acknowledge():
    HOME.mkdir(exist_ok=True)
    kept = store()
    kept.startup.write_text(TEXT % 0)
    kept.recover("boot", 0)
    os.sync()
    for count in range(1, int(sys.argv[2]) + 1):
        entry = Entry(kept.newest + 1, "now", "cut", "", "commit", TEXT % count)
        kept.stage(entry)
        kept.publish(entry)
        (HOME / "careless").write_text(str(count))
        print("acknowledged", count, flush=True)
        sys.stdin.readline()

{"check": check, "fast": fast, "commits": commits, "acknowledge": acknowledge}[sys.argv[1]]()
"""
