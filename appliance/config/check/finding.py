# SPDX-License-Identifier: GPL-2.0-only
"""One fault of a configuration, as the checks report it. Pure data."""

from __future__ import annotations

from typing import NamedTuple

from appliance.errors import BypassError, ConfigError, Place
from appliance.system.toml_lines import Path


class Finding(NamedTuple):
    """One fault: `where` for a person, `path` to find its line, `what` is wrong; for a filter with its place."""

    where: str
    path: Path
    what: str
    pointer: str = ""
    place: Place | None = None

    def error(self, source: str, line: int | None = None) -> ConfigError:
        """As the error that is raised or shown."""
        places = [f"line {line}"] * (line is not None) + [str(self.place)] * (self.place is not None)
        between = "; " if self.place is not None and self.place.lines > 1 else ", "
        error = ConfigError(self.where, f"{self.what} ({between.join(places)})" if places else self.what, source)
        error.line, error.pointer, error.place = line, self.pointer, self.place
        return error


def facts(error: BypassError) -> dict[str, object]:
    """What is known of an error, for JSON: where, what, and the places that are known."""
    if not isinstance(error, ConfigError):
        return {"where": "", "what": str(error)}
    found: dict[str, object] = {"where": error.where, "what": error.what}
    if error.pointer:
        found["pointer"] = error.pointer
    if error.line is not None:
        found["line"] = error.line
    if error.place is not None:
        found |= {"filter_line": error.place.line, "filter_column": error.place.column}
    return found
