# SPDX-License-Identifier: GPL-2.0-only
"""`restore`: the configuration, SSH host keys and images of a file that `backup` wrote, all or nothing.

Images are imported first, as `guest import` does, and undone when the backup turns out to be damaged or its
configuration is refused. Without a terminal the passphrase is the first line of standard input, before the backup if
that is read from there too.
"""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from appliance.counted import counted
from appliance.errors import BypassError, RefusedError
from console.commands import backup_file, sealed
from console.commands.backup_file import CONFIG, KEYS, Image, Reader
from console.commands.image_import import Meter, import_stream
from console.commands.one_commit import COMMIT_WAIT, commit
from console.commands.private_file import STDOUT
from console.line.outcome import GOOD, REFUSED, Outcome
from console.line.parse import Parsed, seconds
from console.render import cell
from console.session import Context
from console.terminal.prompt import Asker

RESERVE: Final = 32 << 20  # bytes that an import leaves free (guest/image/importer.py)


def restore(parsed: Parsed, context: Context) -> Outcome:
    """`restore FILE [--configuration-only] [--confirmed TIME]`."""
    name = parsed.args["FILE"]
    if name == STDOUT and sys.stdin.isatty():
        raise RefusedError(
            "standard input is a terminal: name a file, or send the passphrase, a newline and the backup"
        )
    with _source(name) as source:
        phrase = backup_file.passphrase(again=False)
        with sealed.opening(phrase, source) as opened:
            return _restore(parsed, context, Reader(opened), name)


@contextmanager
def _source(name: str) -> Iterator[int]:
    """The descriptor to read from. RefusedError: the file cannot be read."""
    if name == STDOUT:
        yield sys.stdin.fileno()
        return
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RefusedError(f"{name}: cannot be read: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _restore(parsed: Parsed, context: Context, reader: Reader, source: str) -> Outcome:
    about = reader.about
    only = "--configuration-only" in parsed.options
    what = f"backup of {cell(about.get('hostname'))} from {cell(about.get('when'))}"
    wanted = [] if only else _wanted(context, reader.images)
    if not wanted:
        reader.finish()
    _ask(context, what, wanted)
    params: dict[str, object] = {"comment": f"restored from the {what}"}
    if "--confirmed" in parsed.options:
        params["confirmed_s"] = seconds(parsed.options["--confirmed"][0])

    def load() -> None:
        text = reader.files[CONFIG].decode()
        loaded: dict[str, object] = {"text": text, "mode": "replace", "source": source}
        context.client.call("config.load", loaded, COMMIT_WAIT)

    imported: list[str] = []
    try:
        for image, content in reader.contents() if wanted else ():
            if image in wanted:
                asked = {"sha256": image.sha256, "kind": image.kind, "replace": True}
                import_stream(context, image.name, content, image.size, asked)
                imported.append(image.name)
        if wanted:
            reader.finish()
        done = commit(context.client, load, params)
    except BaseException:
        for name in imported:
            with suppress(BypassError):  # it is used by a guest, and does no harm
                context.client.call("image.undo", {"name": name})
        raise
    said, code = [cell(done.get("message"))], GOOD
    said += [f"image {cell(name)} restored; a running guest uses it from its next start on" for name in imported]
    keys = {path.removeprefix(KEYS): data for path, data in reader.files.items() if path.startswith(KEYS)}
    if keys and not only:
        pairs = [f"{name} {base64.b64encode(data).decode()}" for name, data in keys.items()]
        try:
            said.append(cell(context.client.call("host-keys.replace", {"keys": pairs}, 60.0).get("message")))
        except BypassError as error:  # the configuration is in force already
            context.say(f"error: {cell(error)}")
            code = REFUSED
    here = {str(row.get("name")) for row in context.client.call("images.show")}
    missing = [image for image in about.get("images", []) if image not in here]
    said += [f"image {cell(image)} is not on this appliance: `guest import` brings it" for image in missing]
    summary: dict[str, Any] = {"message": "; ".join(said), "commit": done.get("number", 0)}
    summary |= {"missing_images": missing, "images": imported}
    return Outcome(summary if "--json" in parsed.options else said, "lines", code)


def _ask(context: Context, what: str, wanted: list[Image]) -> None:
    """Ask on a terminal. RefusedError: no."""
    asker = Asker(style=context.style if context.terminal is not None else None)
    if not asker.terminal:
        return
    with_images = f" and {counted(len(wanted), 'image')}" if wanted else ""
    asker.say(f"This is the {what}. It replaces the whole configuration{with_images}; sessions may end.")
    if not asker.yes("Restore it?", False):
        raise RefusedError("nothing was changed")


def _wanted(context: Context, images: list[Image]) -> list[Image]:
    """The images that the appliance lacks, or has with other content. RefusedError: there is no room for them."""
    folder, meter, wanted = backup_file.FOLDER, Meter(context), []
    here = {str(row["name"]) for row in context.client.call("images.show")}
    try:
        for image in images:
            path = folder / image.name
            same = False
            with suppress(OSError):
                if image.name in here and path.stat().st_size == image.size:
                    same = backup_file.digest(path, meter.show)[1] == image.sha256
            if not same:
                wanted.append(image)
    finally:
        meter.end()
    size = sum(image.size for image in wanted)
    with suppress(FileNotFoundError):  # the first import makes the folder
        room = os.statvfs(folder)
        free = room.f_bavail * room.f_frsize - RESERVE
        if size > free:
            raise RefusedError(
                f"the images have {size >> 20} MiB, but only {max(free, 0) >> 20} MiB are free: `show images` lists"
                " what could be removed; --configuration-only restores no images"
            )
    return wanted
