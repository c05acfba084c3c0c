# SPDX-License-Identifier: GPL-2.0-only
"""Numbers of the accounts of users: groups say the role, and the control socket asks the kernel for them."""

from __future__ import annotations

from typing import Final

FIRST_UID, LAST_UID = 2000, 2999
GROUPS: Final = {"bypass": 900, "bypass-viewer": 901, "bypass-operator": 902, "bypass-admin": 903}
"""`bypass` may open the control socket; the others are the roles."""
