# SPDX-License-Identifier: GPL-2.0-only
"""`guest import`: ask the daemon for an import and follow it, with progress on standard error until it is over.

Ctrl-C ends the import, and says so when nothing of it is left. A terminal that can only print gets a line a tenth.
"""

from __future__ import annotations

import os
from typing import Any

from appliance.errors import RefusedError, UnreachableError
from console.execute import Context
from console.render import cell

_STAGES = {"start": "starting", "copy": "copying", "check": "checking with qemu-img"}
_WAIT = 10.0  # seconds; the daemon answers within two


def import_image(context: Context, file: str, name: str, options: dict[str, object]) -> dict[str, Any]:
    """The finished import; RefusedError with the daemon's reason otherwise."""
    call = context.client.call
    job: dict[str, Any] = call("image.import", {"file": os.path.abspath(file), "name": name, **options})
    number, meter = job["job"], Meter(context)
    try:
        while job["stage"] not in ("done", "failed"):
            meter.show(str(job["stage"]), int(job["done_bytes"]), int(job["total_bytes"]))
            job = call("image.job", {"job": number}, _WAIT)
    except KeyboardInterrupt:
        meter.end()
        try:
            call("image.cancel", {"job": number}, _WAIT)
        except UnreachableError:
            pass  # then bypassd is gone, and the import with it
        raise RefusedError(f"image {name}: the import was stopped; nothing of it is left") from None
    meter.end()
    if job["stage"] == "failed":
        raise RefusedError(f"image {name}: not imported: {job['why']}")
    return job


class Meter:
    """One line of progress, written over itself where the terminal can, else once a tenth."""

    def __init__(self, context: Context) -> None:
        self._err, self._on = context.err, context.err.isatty()
        self._over = self._on and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
        self._said, self._open = "", False

    def show(self, stage: str, done: int, total: int) -> None:
        """How far it is; sizes in bytes."""
        if not self._on:
            return
        share = done * 100 // total if total and stage == "copy" else None
        text = cell(_STAGES.get(stage, stage))
        if share is not None and self._over:
            text += f" {share:3d} %  {done >> 20} of {total >> 20} MiB"
        elif share is not None:
            text += f" {share // 10 * 10} %"
        if text == self._said:
            return
        self._said, self._open = text, self._over
        print(f"\r{text}\x1b[K" if self._over else text, end="" if self._over else "\n", file=self._err, flush=True)

    def end(self) -> None:
        """Leave the line as if it had not been."""
        if self._open:
            print("\r\x1b[K", end="", file=self._err, flush=True)
            self._open = False
