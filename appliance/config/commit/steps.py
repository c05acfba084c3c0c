# SPDX-License-Identifier: GPL-2.0-only
"""What the parts do in a commit: each has a step, and the steps are executed in order."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

from appliance.config.check import lint
from appliance.config.schema.model import Config
from appliance.errors import BypassError

log = logging.getLogger(__name__)

_SWITCH_S: Final = 0.0005  # how long one thread may compute while the health checks wait


async def _nothing(_: Config) -> None:
    return None


def _no_trace() -> None:
    return None


def _always() -> bool:
    return True


class Step(NamedTuple):
    """One part's share in a commit.

    `prepare` may fail before anything is changed; `forget` drops what it made. `apply` converges to the given
    configuration from any state; it is left out, and not named, unless `due`. `finish` does what cannot be undone, when
    the commit is final. `remarks`: findings about what was prepared. A failure is a BypassError of one line.
    """

    name: str
    apply: Callable[[Config], Awaitable[None]]
    prepare: Callable[[Config], Awaitable[None]] = _nothing
    forget: Callable[[], None] = _no_trace
    finish: Callable[[Config], Awaitable[None]] = _nothing
    remarks: Callable[[], Sequence[lint.Finding]] = tuple
    due: Callable[[], bool] = _always


async def prepare(steps: Sequence[Step], config: Config) -> list[lint.Finding]:
    """Do everything that can fail without touching the appliance; returns the remarks. `forget` must follow."""
    for step in steps:
        await step.prepare(config)
    return [remark for step in steps for remark in step.remarks()]


def forget(steps: Sequence[Step]) -> None:
    """Drop what was prepared and is not in use."""
    for step in steps:
        step.forget()


async def apply(steps: Sequence[Step], config: Config, progress: Callable[[str], None]) -> None:
    """Apply step by step. Meanwhile computing threads yield quickly, so that leases are still renewed."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        for step in steps:
            if step.due():
                progress(f"applying: {step.name}")
                await step.apply(config)
    finally:
        sys.setswitchinterval(interval)


async def finish(steps: Sequence[Step], config: Config) -> None:
    """Do what cannot be undone. A failure is logged, and the commit stays."""
    for step in steps:
        try:
            await step.finish(config)
        except BypassError as error:
            log.error("commit, %s: %s", step.name, error)
