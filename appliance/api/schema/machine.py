# SPDX-License-Identifier: GPL-2.0-only
"""Answers about the machine itself: reboot and poweroff."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from appliance.api.schema.base import Answer, Relay, When


class LinkPlan(Answer):
    """What a segment's traffic gets while the appliance is down."""

    segment: str
    relay: Relay
    traffic: Annotated[str, Meta(description="one sentence for a person")]


class PowerPlan(Answer):
    """What a reboot or poweroff means now: for traffic, guests and users. `warnings`: what would be lost."""

    action: Annotated[str, Meta(description="reboot or poweroff")]
    links: list[LinkPlan]
    guests: Annotated[list[str], Meta(description="guests that run now, and are powered down")]
    sessions: Annotated[list[str], Meta(description="users whose sessions end, with their address")]
    warnings: list[str]


class PowerOrder(Answer):
    """The reboot or poweroff that is due. `state` is none while there is no order; then the rest is missing."""

    state: Annotated[str, Meta(description="none, waiting or running")]
    action: Annotated[str, Meta(description="reboot or poweroff")] | UnsetType = UNSET
    user: str | UnsetType = UNSET
    seconds_left: int | UnsetType = UNSET
    when: Annotated[When, Meta(description="by the present time of the appliance")] | UnsetType = UNSET
