# SPDX-License-Identifier: GPL-2.0-only
"""Short timeouts for the keeper that tests run as a process."""

from __future__ import annotations

from appliance.keeper.limits import MS, SECOND, Limits

LIMITS = Limits(checkin=300 * MS, looping=500 * MS, starting=500 * MS, starting_idle=SECOND)
