# SPDX-License-Identifier: GPL-2.0-only
"""Who the SNMP engine is, and how often it has started (RFC 3411, RFC 3414): neither may ever repeat or go back.

Managers take a message for an old one, and drop it, if its count of starts is lower than one that they have seen from
the same engine. snmpd counts its starts in a file that it writes without syncing it, so that file is in memory, and
here is how far the count may have come: it is raised on the disk before snmpd may use the numbers, and the next boot
goes on behind. If this record is lost, the identity is lost with it, and a new engine begins at 1. Blocks: call it in a
thread.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.system import files

RESERVED: Final = 64
"""Starts that snmpd may make before the record is raised again; a look every ten seconds sees a few at most."""
MOST: Final = 2**31 - 1 - RESERVED
"""At the end of the count an engine must get another identity (RFC 3414, 2.2.2)."""
_PREFIX: Final = bytes.fromhex("80001f8805")
"""Octets chosen by the engine (format 5), below the number of net-snmp, whose engine it is."""
_BOOTS = re.compile(r"^engineBoots\s+(\d+)\s*$", re.MULTILINE)


@dataclass
class Engine:
    """The identity, and a count that snmpd has not reached yet."""

    identity: bytes
    boots: int


def load(path: Path) -> Engine:
    """What the record says; a new engine if there is none, or a damaged one. OSError: it cannot be read or written."""
    try:
        data = json.loads(path.read_bytes())
        found = Engine(bytes.fromhex(data["engine"]), int(data["boots"]))
        if found.identity.startswith(_PREFIX) and len(found.identity) <= 32 and 0 <= found.boots < MOST:
            return found
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError):
        pass  # damaged: another engine, since nothing is known about this one's count
    made = Engine(_PREFIX + secrets.token_bytes(8), 0)
    keep(path, made)
    return made


def keep(path: Path, engine: Engine) -> None:
    """Write the record. OSError: it is as before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, json.dumps({"engine": engine.identity.hex(), "boots": engine.boots}))


def counted(text: str) -> int:
    """The count in the file that snmpd keeps; 0: there is none."""
    found = _BOOTS.search(text)
    return int(found[1]) if found else 0


def reserve(path: Path, engine: Engine, used: int) -> None:
    """Raise the record when snmpd has come half-way to it. `used`: its count. OSError."""
    if used + RESERVED // 2 >= engine.boots:
        raised = Engine(engine.identity, max(engine.boots, used) + RESERVED)
        keep(path, raised)
        engine.boots = raised.boots
