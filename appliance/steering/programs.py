# SPDX-License-Identifier: GPL-2.0-only
"""The generated half of a policy: which programs find rules and accepts, loaded and put into their slots.

The programs themselves come from `appliance.steering.pcap`. Owns their descriptors until `close`; a program in a slot
lives on without.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from appliance.errors import DatapathError
from appliance.steering.maps import Map
from appliance.steering.policy import Policy


@dataclass
class Generated:
    """Programs by array ("xdp_programs", "tc_programs") and slot; slots of this half that stay empty map to None."""

    slots: dict[tuple[str, int], int | None] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    def install(self, maps: dict[str, Map[Any, Any]]) -> None:
        """Put the programs into their slots. They run from the moment the policy word names their generation."""
        for (name, slot), fd in self.slots.items():
            if fd is None:
                maps[name].delete(slot)
            else:
                maps[name].set(slot, fd)

    def close(self) -> None:
        """Close the descriptors."""
        for fd in {fd for fd in self.slots.values() if fd is not None}:
            os.close(fd)
        self.slots = {}


class PolicyPrograms:
    """Makes the programs a policy needs."""

    def __init__(self, maps: dict[str, Map[Any, Any]], policy: Policy) -> None:
        self._maps, self._policy = maps, policy

    def load(self, generation: int) -> Generated:
        """Compile the filters and load the programs; FilterError names the rule whose filter is wrong."""
        if any(self._policy.rules[index].match for chain in self._policy.chains.values() for index in chain):
            raise DatapathError("filters are not supported yet: leave `match` empty")
        return Generated()
