# SPDX-License-Identifier: GPL-2.0-only
"""`guest import`: start an import in the daemon and show its progress on standard error.

The daemon's helper opens a file with the rights of the user; standard input is sent to the helper. Ctrl-C cancels the
import and reports when it has been cleaned up. A plain-text terminal gets one line per 10 %.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Iterable
from typing import Any

from appliance.errors import NotFoundError, RefusedError, UnreachableError
from console.client import RemoteError
from console.render import cell
from console.session import Context
from console.terminal.interrupt import Interrupt

STDIN = "-"
_STAGES = {"start": "starting", "read": "reading", "copy": "copying", "check": "checking with qemu-img"}
_SIZED = ("copy", "read")
_WAIT = 10.0  # seconds; the daemon answers within two
_CHUNK = 1 << 18


def import_image(context: Context, file: str, name: str, options: dict[str, object]) -> dict[str, Any]:
    """The finished import; RefusedError with the daemon's reason otherwise."""
    meter = Meter(context)
    if file != STDIN:
        job = context.client.call("image.import", {"file": os.path.abspath(file), "name": name, **options})
        return _follow(context, job, meter)
    if sys.stdin.isatty():
        raise RefusedError(
            f"standard input is a terminal; redirect it: `guest import - --name {name} < FILE`, also over SSH"
        )
    job, link, _ = context.client.take_over("image.receive", {"name": name, **options})
    with link:
        with Interrupt() as stop:
            _send(link, stop, meter)
        if stop.happened:
            _cancel(context, job, meter)
        return _follow(context, job, meter)


def import_stream(
    context: Context, name: str, chunks: Iterable[bytes], size: int, options: dict[str, object]
) -> dict[str, Any]:
    """Import an image of `size` bytes that this process has; the finished import, or RefusedError with the reason."""
    meter = Meter(context)
    job, link, _ = context.client.take_over("image.receive", {"name": name, **options})
    done = 0
    with link:
        with Interrupt() as stop:
            try:
                for data in chunks:
                    link.sendall(data)
                    done += len(data)
                    meter.show("copy", done, size)
                    if stop.happened:
                        break
                else:
                    link.shutdown(socket.SHUT_WR)
            except ConnectionError:
                pass  # the helper has ended, and its job says why
        if stop.happened:
            _cancel(context, job, meter)
        return _follow(context, job, meter)


def _send(link: socket.socket, stop: Interrupt, meter: Meter) -> None:
    """Send standard input to its end, until cancelled, or until the helper closes the connection and reports why."""
    source, done = sys.stdin.fileno(), 0
    ready = select.poll()
    ready.register(source, select.POLLIN)
    ready.register(stop, select.POLLIN)
    ready.register(link, 0)  # its end is always reported
    try:
        while all(fd == source for fd, _ in ready.poll()) and (data := os.read(source, _CHUNK)):
            link.sendall(data)
            done += len(data)
            meter.show("copy", done, 0)
        if not stop.happened:
            link.shutdown(socket.SHUT_WR)
    except OSError as error:
        if not isinstance(error, ConnectionError):
            raise RefusedError(f"standard input: {error.strerror}") from error


def _follow(context: Context, job: dict[str, Any], meter: Meter) -> dict[str, Any]:
    name = job["name"]
    try:
        while job["stage"] not in ("done", "failed"):
            meter.show(str(job["stage"]), int(job["done_bytes"]), int(job["total_bytes"]))
            job = context.client.call("image.job", {"job": job["job"]}, _WAIT)
    except KeyboardInterrupt:
        _cancel(context, job, meter)
    meter.end()
    if job["stage"] == "failed":
        raise RefusedError(f"image {name} was not imported: {job['why']}")
    return job


def _cancel(context: Context, job: dict[str, Any], meter: Meter) -> None:
    """Cancel the import and raise RefusedError to report it."""
    meter.end()
    try:
        context.client.call("image.cancel", {"job": job["job"]}, _WAIT)
    except (UnreachableError, NotFoundError, RemoteError):
        pass  # then bypassd is gone, and the import with it
    raise RefusedError(f"image {job['name']}: import cancelled; nothing was changed")


class Meter:
    """A progress line, overwritten if the terminal supports it; else one line per 10 %, or per 64 MiB."""

    def __init__(self, context: Context) -> None:
        self._err, self._on = context.err, context.err.isatty()
        self._over = self._on and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
        self._said, self._open = "", False

    def show(self, stage: str, done: int, total: int) -> None:
        """Show the progress; sizes in bytes, `total` 0 if unknown."""
        if not self._on:
            return
        text = cell(_STAGES.get(stage, stage))
        if stage in _SIZED and total:
            share = done * 100 // total
            text += f" {share:3d} %  {done >> 20} of {total >> 20} MiB" if self._over else f" {share // 10 * 10} %"
        elif stage in _SIZED:
            text += f" {done >> 20} MiB" if self._over else f" {done >> 26 << 6} MiB"
        if text == self._said:
            return
        self._said, self._open = text, self._over
        print(f"\r{text}\x1b[K" if self._over else text, end="" if self._over else "\n", file=self._err, flush=True)

    def end(self) -> None:
        """Erase the progress line."""
        if self._open:
            print("\r\x1b[K", end="", file=self._err, flush=True)
            self._open = False
