# SPDX-License-Identifier: GPL-2.0-only
"""Makes the relay that a spec describes. A kind that this firmware does not know is never driven as another one: its
relay is unusable, with its own cause, and stays in bypass.

Only the keeper creates these objects.
"""

from __future__ import annotations

from appliance.errors import HardwareError
from appliance.hardware.relay.kinds import KINDS
from appliance.hardware.relay.protocol import Relay, RelaySpec, UnsupportedRelayError
from appliance.hardware.relay.table import wrong


def bus_of(spec: RelaySpec) -> str:
    """The bus of a relay; its own name if it shares none."""
    kind = KINDS.get(spec.kind)
    names = [str(spec.options.get(key, "")) for key in kind.bus] if kind else []
    return f"{spec.kind} {' '.join(names)}" if names else f"relay {spec.name}"


def make(spec: RelaySpec) -> Relay:
    """The relay of a board; if it cannot be made, a relay whose `open` raises the reason."""
    kind = KINDS.get(spec.kind)
    if kind is None:
        known = ", ".join(sorted(KINDS))
        what = f'relay {spec.name}: this firmware cannot drive kind "{spec.kind}" (it knows {known})'
        return _Unusable(UnsupportedRelayError(f"{what}: correct board.toml or update the firmware"))
    if said := wrong({"kind": spec.kind, **spec.options}):
        return _Unusable(HardwareError(f"relay {spec.name}: {'; '.join(said)}: correct board.toml"))
    relay = kind.make(spec)
    if "read_back" not in spec.options:
        return relay
    from appliance.hardware.relay.read_back import ReadBack

    return ReadBack(relay, spec, kind.contacts_decide)


class _Unusable:
    """Stands for a relay that cannot be driven."""

    def __init__(self, error: HardwareError) -> None:
        self._error = error

    def open(self) -> str:
        raise self._error

    def set(self, position: str) -> None:
        raise self._error

    def read(self) -> str:
        raise self._error

    def kick(self, level: bool) -> None:
        raise self._error

    def close(self) -> None:
        pass
