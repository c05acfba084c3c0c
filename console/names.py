# SPDX-License-Identifier: GPL-2.0-only
"""Names from the live system, for Tab and `?`: segments and guests, asked from the daemon when they are needed.

Kept for the length of one typed line. Without the daemon there are none, quickly.
"""

from __future__ import annotations

from appliance.errors import BypassError
from console.client import Client
from console.render import cell
from console.table import Arg

Proposals = list[tuple[str, str]]  # (name, meaning)
_METHODS = {  # source -> (method, the member that names a row, the member that tells what it is)
    "segments": ("segments.show", "name", "relay"),
    "guests": ("guests.show", "name", "state"),
    "users": ("management.show", "name", "role"),
    "incidents": ("incidents.show", "number", "guest"),
    "quarantine": ("quarantine.show", "name", "flow"),
    "images": ("images.show", "name", "format"),
}


class Names:
    """What may stand for an argument at this moment."""

    def __init__(self, client: Client) -> None:
        self._client, self._known = client, dict[str, Proposals]()

    def forget(self) -> None:
        """The next Tab asks again."""
        self._known.clear()

    def of(self, arg: Arg, partial: str) -> Proposals:
        """Proposals for `arg` that begin with `partial`."""
        if arg.source == "file":
            return _files(partial)
        return [row for row in self._ask(arg.source) if row[0].startswith(partial)]

    def _ask(self, source: str) -> Proposals:
        if source not in _METHODS:
            return []
        if source not in self._known:
            method, name, meaning = _METHODS[source]
            try:
                rows = self._client.call(method, wait=1.0)
            except BypassError:
                rows = []
            self._known[source] = [(cell(row.get(name)), cell(row.get(meaning))) for row in _dicts(rows, source, name)]
        return self._known[source]


def _dicts(data: object, key: str, name: str) -> list[dict[str, object]]:
    if isinstance(data, dict):
        data = data.get(key, [])
    return [row for row in data if isinstance(row, dict) and row.get(name)] if isinstance(data, list) else []


def _files(partial: str) -> Proposals:
    """Files and folders that begin with `partial`; folders end with a slash."""
    import glob
    import os

    found = sorted(glob.glob(f"{glob.escape(partial)}*"))[:200]
    return [(path + "/" if os.path.isdir(path) else path, "") for path in found]
