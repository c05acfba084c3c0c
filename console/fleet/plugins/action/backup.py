# SPDX-License-Identifier: GPL-2.0-or-later
"""throughwire.fleet.backup; documented in plugins/modules/backup.py."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from ..plugin_utils import appliance
from ..plugin_utils.appliance import RefusedError
from ..plugin_utils.over_ssh import ApplianceAction, SshLink


class ActionModule(ApplianceAction):
    """An encrypted backup in a file of the controller."""

    SPEC: ClassVar[dict[str, Any]] = {
        "dest": {"type": "path", "required": True},
        "passphrase": {"type": "str", "required": True, "no_log": True},
    }

    def work(self, link: SshLink, given: dict[str, Any]) -> dict[str, Any]:
        """See the class. The file is complete or not there, and readable only by its owner."""
        dest = Path(given["dest"])
        if not dest.parent.is_dir():
            raise RefusedError(f"{dest.parent}: is no folder of this computer")
        result = {"changed": True, "dest": str(dest)}
        if self._task.check_mode:
            return result
        data = appliance.backup(link, given["passphrase"])
        try:
            handle, made = tempfile.mkstemp(dir=dest.parent, prefix=f".{dest.name}")
            try:
                with os.fdopen(handle, "wb") as out:
                    out.write(data)
                os.replace(made, dest)
            except BaseException:
                os.unlink(made)
                raise
        except OSError as error:
            raise RefusedError(f"{dest}: {error.strerror}") from error
        return {**result, "bytes": len(data)}
