# SPDX-License-Identifier: GPL-2.0-only
"""Which configuration bypassd starts with: startup, or a pending one that still holds, or none that is valid."""

from __future__ import annotations

from typing import NamedTuple

from appliance.config.check.load import loads
from appliance.config.commit.store import Pending, Store
from appliance.config.schema.model import Config
from appliance.errors import ConfigError


class Startup(NamedTuple):
    """`config` None: it is not valid, and `errors` says why. `text`: what it was read from; `notes`: for the log."""

    config: Config | None
    errors: list[ConfigError]
    text: str
    pending: Pending | None
    notes: tuple[str, ...]


def read(store: Store, boot: str, monotonic: int) -> Startup:
    """Recover the store and read what holds. A pending configuration that is not valid (any more) is rolled back."""
    begun = store.recover(boot, monotonic)
    notes = begun.notes
    try:
        if begun.error is not None:
            raise begun.error
        try:
            config = loads(begun.text, begun.source)
        except ConfigError as error:
            if begun.pending is None:
                raise
            notes += (f"the pending one is rolled back: {error}",)
            begun = store.give_up_pending()
            config = loads(begun.text, begun.source)
    except ConfigError as error:
        return Startup(None, [error, *error.also], begun.text, begun.pending, notes)
    return Startup(config, [], begun.text, begun.pending, notes)
