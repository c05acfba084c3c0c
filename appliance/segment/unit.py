# SPDX-License-Identifier: GPL-2.0-only
"""One segment at run time: its configuration, its state machine, and what is known about its ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance.causes import Cause
from appliance.config.schema.model import Segment
from appliance.segment.carrier import Carrier
from appliance.segment.evidence import Evidence
from appliance.segment.link_down import LinkDown
from appliance.segment.machine import Machine


@dataclass
class Unit:
    """See the module."""

    config: Segment
    relay: str  # the keeper's name for it; "" = the board has no relay for these ports
    has_disconnect: bool
    machine: Machine
    carrier: Carrier = field(default_factory=Carrier)
    evidence: Evidence = field(default_factory=Evidence)
    link_down: LinkDown = field(default_factory=LinkDown)
    asked: str = ""  # the mode that the operator requested; "" = none, the configuration applies
    inline_until: int = 0  # when a request for "inline" ends (ns of CLOCK_MONOTONIC)
    maintenance_until: int = 0  # in bypass until then; 0 = not. It never takes the place of `asked`
    orders: Mapping[Cause, str] = field(default_factory=dict)  # everything that was requested, with its detail
    drill: bool = False  # in bypass for a drill; ends with it, whatever else was requested meanwhile
    faults: Mapping[Cause, str] = field(default_factory=dict)
