# SPDX-License-Identifier: GPL-2.0-only
"""`backup`: configuration with its secrets, SSH host keys and, if asked for, images in one encrypted file.

The file is described in backup_file.py; restore.py reads it. Without a terminal the passphrase is the first line of
standard input.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from appliance.config.check.verify_machine import image_key
from appliance.counted import counted
from appliance.errors import RefusedError
from console.commands import backup_file, sealed
from console.commands.backup_file import ABOUT, CONFIG, FORMAT, KEYS, Image
from console.commands.image_import import Meter
from console.commands.one_commit import running
from console.commands.private_file import STDOUT, whole
from console.line.outcome import Outcome
from console.line.parse import Parsed
from console.session import Context

KINDS: Final = {"qcow2": "disk", "raw": "raw", "kernel": "kernel", "initrd": "initrd"}  # format: kind of an import
LOW_BYTES, LOW_SHARE = 256 << 20, 20  # guests are paused when less is left of their partition (guest/disk_space.py)


def backup(parsed: Parsed, context: Context) -> Outcome:
    """`backup FILE [--images]`."""
    name, folder = parsed.args["FILE"], backup_file.FOLDER
    if name == STDOUT and context.out.isatty():
        raise RefusedError("a backup is binary: use `ssh USER@BOX backup - < PASSPHRASE-FILE > box.backup`")
    phrase = backup_file.passphrase(again=True)
    now = running(context.client)
    needed = needed_images(now)
    meter = Meter(context)
    try:
        images = _images(context, needed, folder, meter) if "--images" in parsed.options else []
        with _target(context, name) as out:
            if name != STDOUT:
                _check_room(Path(name), images, folder)
            files = _collect(context, now, needed, images)
            with sealed.sealing(phrase, out) as stream:
                backup_file.write(stream, files, images, folder, meter.show)
    finally:
        meter.end()
    left_out = ", ".join(sorted(needed - {image.name for image in images}))
    inside = f"configuration, SSH host keys and {counted(len(images), 'image')}"
    said = inside if images else "configuration and SSH host keys"
    said += f"; images are not included: {left_out}" if left_out else "" if images else "; no guest uses an image"
    if name == STDOUT:
        context.say(said)
        return Outcome([], "lines")
    size = Path(name).stat().st_size
    about = {"message": f"{name}: {counted(size, 'byte')}: {said}", "file": name, "bytes": size}
    return Outcome({**about, "images": [image.name for image in images]}, "done")


@contextmanager
def _target(context: Context, name: str) -> Iterator[int]:
    """The descriptor to write to; a file that is not finished is removed."""
    if name == STDOUT:
        context.out.flush()
        yield context.out.fileno()
        return
    with whole(Path(name)) as out:
        yield out.fileno()


def needed_images(config: dict[str, Any]) -> set[str]:
    """The images that the guests of a configuration boot from and use."""
    guests = [guest for guest in config.get("guest", []) if isinstance(guest, dict)]
    named = [guest.get(key) for guest in guests for key in ("image", "kernel", "initrd")]
    named += [disk.get("image") for guest in guests for disk in guest.get("disks", []) if isinstance(disk, dict)]
    keys = {image_key(str(name)) for name in named if name}
    return {key for key in keys if not key.startswith("/")}  # the others are of the firmware


def _images(context: Context, needed: set[str], folder: Path, meter: Meter) -> list[Image]:
    """The images to include, with their checksums. RefusedError: one cannot be read."""
    found = []
    for row in context.client.call("images.show"):
        name = str(row["name"])
        if name not in needed:
            continue
        try:
            size, sha256 = backup_file.digest(folder / name, meter.show)
        except OSError as error:
            raise RefusedError(f"image {name}: {error.strerror}") from error
        found.append(Image(name, size, sha256, KINDS.get(str(row.get("format")), "disk")))
    return found


def _check_room(path: Path, images: list[Image], folder: Path) -> None:
    """RefusedError: the images do not fit beside the new file `path`, or what is left would pause guests."""
    there = path.parent.stat()
    size = sum(min(image.size, (folder / image.name).stat().st_blocks * 512) for image in images)
    if not size:
        return
    room = os.statvfs(path.parent)
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    if there.st_dev == folder.stat().st_dev:
        free -= min(LOW_BYTES, total // LOW_SHARE)
    if size > free:
        raise RefusedError(
            f"{path}: the images have {size >> 20} MiB, but only {max(free, 0) >> 20} MiB may be used there;"
            " `ssh USER@BOX backup - --images < PASSPHRASE-FILE > box.backup` needs no room on the appliance"
        )


def _collect(context: Context, now: dict[str, Any], needed: set[str], images: list[Image]) -> dict[str, bytes]:
    """The files of a backup but for the images, by path."""
    text = context.client.call("config.show", {"of": "running", "secrets": True})["text"]
    files = {CONFIG: text.encode()}
    for row in context.client.call("host-keys.read")["keys"]:
        name, _, data = row.partition(" ")
        files[f"{KEYS}{name}"] = base64.b64decode(data)
    about: dict[str, Any] = {
        "format": FORMAT,
        "hostname": now.get("system", {}).get("hostname", "bypass"),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "version": context.client.call("version.show").get("version", ""),
        "images": sorted(needed),
        "included": [{key: getattr(image, key) for key in image.__struct_fields__} for image in images],
    }
    return {ABOUT: json.dumps(about, indent=2).encode(), **files}
