# SPDX-License-Identifier: GPL-2.0-only
"""What the boot found of the data partition, as `rootfs/etc/init.d/data-partition` recorded it.

Standard library alone: the login at the serial line reads it before bypassd runs. Pure but for `read`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

KEPT, READ_ONLY, ABSENT, UNUSABLE, UNKNOWN = "kept", "read-only", "absent", "unusable", "unknown"
STATES: Final = (KEPT, READ_ONLY, ABSENT, UNUSABLE)


class DataPartition(NamedTuple):
    """`state` is one of STATES, or unknown where no boot script ran (a development machine); `detail` says why."""

    state: str = UNKNOWN
    detail: str = ""

    @property
    def holds_users(self) -> bool:
        """Whether the users of this appliance can be read. If not, a missing user is no proof that there is none."""
        return self.state in (KEPT, READ_ONLY, UNKNOWN)

    @property
    def alarm(self) -> str:
        """What whoever logs in must know; "" when all is well."""
        return "" if self.state in (KEPT, UNKNOWN) else self.detail or f"the data partition is {self.state}"


def parse(text: str) -> DataPartition:
    """From the record's two lines. A word that is not one of STATES counts as unusable."""
    state, _, detail = text.partition("\n")
    if state not in STATES:
        return DataPartition(UNUSABLE, f'the record of the data partition says "{state[:40]}", which is no state')
    return DataPartition(state, detail.strip())


def read(record: Path) -> DataPartition:
    """What holds since this boot."""
    try:
        return parse(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return DataPartition()
    except (OSError, UnicodeDecodeError) as error:
        return DataPartition(UNUSABLE, f"the record of the data partition cannot be read: {error}")
