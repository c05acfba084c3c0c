# SPDX-License-Identifier: GPL-2.0-only
"""Makes a relay of each kind. The module of a kind is loaded here, only if a board uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.hardware.relay.protocol import Relay, RelaySpec


def level(spec: RelaySpec) -> Relay:
    from appliance.hardware.relay.level import LevelRelay

    return LevelRelay(spec)


def latching(spec: RelaySpec) -> Relay:
    from appliance.hardware.relay.latching import LatchingRelay

    return LatchingRelay(spec)


def keep_alive(spec: RelaySpec) -> Relay:
    from appliance.hardware.relay.keep_alive import KeepAliveRelay

    return KeepAliveRelay(spec)


def expander(spec: RelaySpec) -> Relay:
    from appliance.hardware.relay.expander import ExpanderRelay

    return ExpanderRelay(spec)


def controller(spec: RelaySpec) -> Relay:
    from appliance.hardware.relay.controller import ControllerRelay

    return ControllerRelay(spec)


def attribute(spec: RelaySpec) -> Relay:
    from appliance.hardware.relay.sysfs import AttributeRelay

    return AttributeRelay(spec)


def port(spec: RelaySpec) -> Relay:
    from appliance.hardware.relay.port import PortRelay

    return PortRelay(spec)


def block(spec: RelaySpec) -> Relay:
    from appliance.hardware.relay.block import BlockRelay

    return BlockRelay(spec)
