# SPDX-License-Identifier: GPL-2.0-only
"""The state of the data partition at boot, as recorded by `rootfs/etc/init.d/data-partition`.

Standard library only: the login at the serial line reads it before bypassd runs. Pure except for `read`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

KEPT, READ_ONLY, ABSENT, UNUSABLE, UNKNOWN = "kept", "read-only", "absent", "unusable", "unknown"
STATES: Final = (KEPT, READ_ONLY, ABSENT, UNUSABLE)


class DataPartition(NamedTuple):
    """`state` is one of STATES, or unknown if no boot script ran (on a development machine); `detail` says why."""

    state: str = UNKNOWN
    detail: str = ""

    @property
    def holds_users(self) -> bool:
        """Whether the users can be read. If not, a missing record does not mean that there are no users."""
        return self.state in (KEPT, READ_ONLY, UNKNOWN)

    @property
    def alarm(self) -> str:
        """The warning to show at login; "" if all is well."""
        return "" if self.state in (KEPT, UNKNOWN) else self.detail or f"the data partition is {self.state}"


def parse(text: str) -> DataPartition:
    """Parse the record's two lines. A word that is not one of STATES counts as unusable."""
    state, _, detail = text.partition("\n")
    if state not in STATES:
        return DataPartition(UNUSABLE, f'the record of the data partition has the unknown state "{state[:40]}"')
    return DataPartition(state, detail.strip())


def read(record: Path) -> DataPartition:
    """The state found at this boot."""
    try:
        return parse(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return DataPartition()
    except (OSError, UnicodeDecodeError) as error:
        return DataPartition(UNUSABLE, f"the record of the data partition cannot be read: {error}")
