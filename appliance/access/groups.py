# SPDX-License-Identifier: GPL-2.0-only
"""User and group ids of the accounts. Groups stand for roles; the control socket gets them from the kernel."""

from __future__ import annotations

from typing import Final

FIRST_UID, LAST_UID = 2000, 2999
FIRST_REMOTE, LAST_REMOTE = 3000, 3099
"""Users that only a RADIUS or TACACS+ server knows; a number is used again when nothing of its user runs."""
GROUPS: Final = {"bypass": 900, "bypass-viewer": 901, "bypass-operator": 902, "bypass-admin": 903}
"""Members of `bypass` may open the control socket; the others are the roles."""
