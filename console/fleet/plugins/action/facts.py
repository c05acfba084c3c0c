# SPDX-License-Identifier: GPL-2.0-or-later
"""throughwire.fleet.facts; documented in plugins/modules/facts.py."""

from __future__ import annotations

from typing import Any

from ..plugin_utils import appliance
from ..plugin_utils.over_ssh import ApplianceAction, SshLink


class ActionModule(ApplianceAction):
    """Facts of an appliance below `ansible_facts.throughwire`."""

    def work(self, link: SshLink, given: dict[str, Any]) -> dict[str, Any]:
        """See the class."""
        found, missing = appliance.facts(link)
        return {"changed": False, "ansible_facts": {"throughwire": found}, "warnings": missing}
