# SPDX-License-Identifier: GPL-2.0-or-later
"""throughwire.fleet.config; documented in plugins/modules/config.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ansible.errors import AnsibleError

from ..plugin_utils import changes
from ..plugin_utils.appliance import RefusedError
from ..plugin_utils.changes import Wanted
from ..plugin_utils.over_ssh import ApplianceAction, SshLink


class ActionModule(ApplianceAction):
    """Change the configuration: checked, shown, committed, confirmed over a new connection."""

    SPEC: ClassVar[dict[str, Any]] = {
        "lines": {"type": "list", "elements": "str"},
        "text": {"type": "str"},
        "src": {"type": "path"},
        "merge": {"type": "bool", "default": False},
        "comment": {"type": "str"},
        "confirm_s": {"type": "int", "default": 90},
    }
    RULES: ClassVar[dict[str, Any]] = {
        "mutually_exclusive": [["lines", "text", "src"]],
        "required_one_of": [["lines", "text", "src"]],
    }

    def work(self, link: SshLink, given: dict[str, Any]) -> dict[str, Any]:
        """See the class."""
        if given["confirm_s"] < 0:
            raise RefusedError("confirm_s is the time to confirm in seconds; 0: the commit needs no confirmation")
        if given["merge"] and given["lines"] is not None:
            raise RefusedError("merge is for text and src; lines change what they name only")
        text = self._read(given["src"]) if given["src"] else given["text"]
        wanted = Wanted(changes.checked(given["lines"] or []), text, given["merge"])
        comment = given["comment"] or f"Ansible: {self._task.get_name()}"
        done = changes.change(link, wanted, comment, given["confirm_s"], dry=self._task.check_mode)
        result = {"changed": done.changed, "commit": done.commit, "changes": done.changes, "warnings": done.warnings}
        if self._task.diff:
            result["diff"] = [{"prepared": changes.shown(done.changes)}]
        return result

    def _read(self, src: str) -> str:
        try:
            return Path(self._loader.get_real_file(self._find_needle("files", src))).read_text("utf-8")
        except (AnsibleError, OSError, UnicodeDecodeError) as error:
            raise RefusedError(f"{src}: cannot be read: {str(error).splitlines()[0]}") from error
