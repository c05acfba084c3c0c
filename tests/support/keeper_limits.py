# SPDX-License-Identifier: GPL-2.0-only
"""The times of the keeper that tests run as a process: quick to lose patience."""

from __future__ import annotations

from appliance.keeper.limits import MS, SECOND, Limits

LIMITS = Limits(checkin=300 * MS, looping=500 * MS, starting=500 * MS, starting_idle=SECOND)
