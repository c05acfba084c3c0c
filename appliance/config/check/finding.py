# SPDX-License-Identifier: GPL-2.0-only
"""One fault of a configuration, as the checks report it. Pure data."""

from __future__ import annotations

from typing import NamedTuple

from appliance.config.check.toml_lines import Path
from appliance.errors import ConfigError


class Finding(NamedTuple):
    """One fault: `where` for a person, `path` to find its line, `what` is wrong; for a filter with its caret."""

    where: str
    path: Path
    what: str
    pointer: str = ""

    def error(self, source: str, line: int | None = None) -> ConfigError:
        """As the error that is raised or shown."""
        error = ConfigError(self.where, self.what if line is None else f"{self.what} (line {line})", source)
        error.pointer = self.pointer
        return error
