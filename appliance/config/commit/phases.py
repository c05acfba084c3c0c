# SPDX-License-Identifier: GPL-2.0-only
"""The phases of a commit, and the transitions between them."""

from __future__ import annotations

from enum import StrEnum

from appliance.transition import Table


class Phase(StrEnum):
    """The phase of a commit. Whether the running configuration awaits confirmation is `Engine.pending`."""

    IDLE = "idle"
    PREPARING = "preparing"  # everything that can fail without touching the appliance
    APPLYING = "applying"
    PROVING = "proving"
    STORING = "storing"  # the configuration is published on the disk
    RESTORING = "restoring"  # the previous configuration is applied again
    BROKEN = "broken"  # restoring failed: bypassd restarts


class Turn(StrEnum):
    """What moves a commit to its next phase."""

    COMMIT = "commit"
    CONFIRM = "confirm"
    REVERT = "revert"
    DONE = "done"  # the work of this phase succeeded
    REFUSED = "refused"  # the work failed, and nothing was changed
    FAILED = "failed"  # the work failed, and the running state may match neither configuration


PHASES: Table[Phase, Turn] = Table(
    "a commit",
    {
        (Phase.IDLE, Turn.COMMIT): Phase.PREPARING,
        (Phase.IDLE, Turn.CONFIRM): Phase.STORING,
        (Phase.IDLE, Turn.REVERT): Phase.RESTORING,
        (Phase.PREPARING, Turn.DONE): Phase.APPLYING,
        (Phase.PREPARING, Turn.REFUSED): Phase.IDLE,
        (Phase.APPLYING, Turn.DONE): Phase.PROVING,
        (Phase.APPLYING, Turn.FAILED): Phase.RESTORING,
        (Phase.PROVING, Turn.DONE): Phase.STORING,
        (Phase.PROVING, Turn.FAILED): Phase.RESTORING,
        (Phase.STORING, Turn.DONE): Phase.IDLE,
        (Phase.STORING, Turn.REFUSED): Phase.IDLE,  # a confirmation: the commit stays pending
        (Phase.STORING, Turn.FAILED): Phase.RESTORING,
        (Phase.RESTORING, Turn.DONE): Phase.IDLE,
        (Phase.RESTORING, Turn.FAILED): Phase.BROKEN,
    },
)
