# SPDX-License-Identifier: GPL-2.0-only
"""Copies one image into the appliance, in a process of its own, so that a slow disk cannot block bypassd.

It opens the file with the rights of the requesting user, or reads what a client sends through the socket that is its
standard input. It copies the data next to the final file, computes its SHA-256 on the way, has qemu-img check it as an
unprivileged user, and only then renames it to its final name. Until that rename nothing has changed; an import that
ends earlier leaves at most a partial file, which store.py removes. Progress is reported as JSON lines on standard
output: {"stage": "copy", "done": 1, "total": 2}, and at the end "done", or "failed" with "why".

A sender that has sent everything shuts down its side of the socket and stays connected; one that disconnects counts as
cut off.

    python -m appliance.guest.image.importer \\
        '{"source": .., "uid": .., "images": .., "name": .., "kind": .., "sha256": ..}'
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import pwd
import select
import signal
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from appliance.counted import counted
from appliance.errors import BypassError, RefusedError
from appliance.guest.image import inspect, qcow2, qemu_img
from appliance.system import files

CHUNK = 1 << 20
SYNC_EVERY = 64 << 20
RESERVE = 32 << 20  # bytes that must stay free for records and configuration
SAY_EVERY_S = 0.2
LOOK_EVERY = 8 << 20  # bytes between two checks of the free space, while the total size is unknown
SILENCE_S = 120  # after so long without data the sender is given up
STDIN = "-"
WHAT_HELPS = "`show images` lists what could be removed"
_PR_SET_PDEATHSIG = 1


def say(stage: str, **more: object) -> None:
    """Print one line of progress."""
    print(json.dumps({"stage": stage, **more}), flush=True)


@contextlib.contextmanager
def _rights_of(uid: int) -> Iterator[None]:
    """Act with the rights of the requesting user, who can import only what they can read."""
    if uid == os.geteuid():
        yield
        return
    groups, gid = os.getgroups(), os.getegid()
    try:
        user = pwd.getpwuid(uid)
        theirs, group = os.getgrouplist(user.pw_name, user.pw_gid), user.pw_gid
    except KeyError:
        theirs, group = [], uid
    os.setgroups(theirs)
    os.setegid(group)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)


def _open_source(path: str, uid: int) -> int:
    with _rights_of(uid):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise RefusedError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise RefusedError(f"{path}: not a regular file")
    return fd


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


def free_bytes(images: Path) -> int:
    """How many bytes of the disk images may still use."""
    found = os.statvfs(images)
    return found.f_bavail * found.f_frsize - RESERVE


def check_room(size: int, images: Path) -> None:
    """RefusedError if the image does not fit."""
    free = free_bytes(images)
    if size > free:
        raise RefusedError(
            f"it is too large: it has {_mib(size)}, but only {_mib(max(free, 0))} are free; {WHAT_HELPS}"
        )


def chunks(source: int) -> Iterator[bytes]:
    """The content of a file."""
    while data := os.read(source, CHUNK):
        yield data


def sent(images: Path) -> Iterator[bytes]:
    """The data from the socket that is standard input, while it fits; RefusedError if it does not, or is cut off."""
    link, done, looked, free = select.poll(), 0, 0, free_bytes(images)
    link.register(0, select.POLLIN)
    while True:
        found = link.poll(SILENCE_S * 1000)
        if not found:
            raise RefusedError(f"the sender was silent for {SILENCE_S} s, after {_mib(done)}")
        data = os.read(0, min(CHUNK, max(free - (done - looked), 1)))
        if not data:
            break
        done += len(data)
        yield data
        if done - looked >= min(LOOK_EVERY, free):  # others write too, and the reserve must stay free
            looked = done
            free = free_bytes(images)
            if free <= 0:
                raise RefusedError(f"it is too large: the disk is full after {_mib(done)}; {WHAT_HELPS}")
    if link.poll(0)[0][1] & select.POLLHUP:
        raise RefusedError(f"it was cut off after {_mib(done)}: the sender disconnected")


def copy(source: Iterable[bytes], part: Path, total: int) -> tuple[str, int]:
    """Copy to `part`, synced when this returns; returns SHA-256 and size of the copy. `total` 0: not known."""
    digest, done, said, synced = hashlib.sha256(), 0, 0.0, 0
    with part.open("xb", buffering=0) as target:
        os.fchmod(target.fileno(), 0o644)
        for data in source:
            view = memoryview(data)
            while view:
                view = view[target.write(view) :]
            digest.update(data)
            done += len(data)
            if done - synced >= SYNC_EVERY:
                os.fdatasync(target.fileno())  # notice a full disk now, and leave the page cache to the guests
                synced = done
            if time.monotonic() - said > SAY_EVERY_S:
                said = time.monotonic()
                say("copy", done=done, total=total)
        os.fsync(target.fileno())
    say("copy", done=done, total=total)
    if total and done != total:
        raise RefusedError(f"it changed while it was copied: it had {counted(total, 'byte')}, but {done} were read")
    return digest.hexdigest(), done


def check_whole(image: Path, *, dirty: bool) -> None:
    """RefusedError unless qemu-img finds a qcow2 image intact and self-contained."""
    about = qemu_img.run(["info"], image)
    if about.status:
        raise RefusedError(f"qemu-img rejects it: {about.words}")
    if outside := about.answer.get("backing-filename") or about.answer.get("full-backing-filename"):
        raise RefusedError(f'it needs a backing file ("{outside}"), but an image must be self-contained')
    found = qemu_img.run(["check"], image)
    if found.status not in (0, 3):  # 3 = leaked clusters: harmless
        corruptions, errors = (found.answer.get(key, "?") for key in ("corruptions", "check-errors"))
        what = f"{counted(corruptions, 'corruption')}, {counted(errors, 'error')}"
        why = f"it is damaged: qemu-img check: {what}" + f" ({found.words})" * bool(found.words)
        if dirty:
            why += "; it was copied while in use, or its machine lost power: `qemu-img check -r all FILE` may repair it"
        raise RefusedError(why)


def place(part: Path, final: Path, previous: Path, record: dict[str, object]) -> None:
    """Give the new image its final name; the image that had this name is kept for `undo`, with its record."""
    about, kept = final.with_name(f".{final.name}.json"), final.with_name(f".{final.name}.json~")
    disk = files.Disk()
    files.stage(disk, about, json.dumps(record).encode())  # what may fail fails before anything has changed
    previous.unlink(missing_ok=True)
    kept.unlink(missing_ok=True)
    if final.exists():
        if about.exists():
            os.link(about, kept)
        os.link(final, previous)
    files.publish(disk, about)
    files.put_in_place(part, final)


def _whole_head(stream: Iterator[bytes]) -> Iterator[bytes]:
    """Yield first the beginning of the file, as much as is examined, and then all of it."""
    head = b""
    for data in stream:
        head += data
        if len(head) >= inspect.HEAD_BYTES:
            break
    yield head
    yield head
    yield from stream


def run(asked: dict[str, Any]) -> None:
    """Do the whole import; after a BypassError or OSError nothing of it is left."""
    part = Path(asked["images"]) / f".{asked['name']}.part"
    try:
        _import(asked, part)
    finally:
        part.unlink(missing_ok=True)
        part.with_name(f"{part.name}~").unlink(missing_ok=True)


def _import(asked: dict[str, Any], part: Path) -> None:
    images, name = Path(asked["images"]), str(asked["name"])
    if asked["source"] == STDIN:
        stream = _whole_head(sent(images))
        inspect.examine(next(stream), None, asked["kind"])  # refuse what is obviously wrong before it is all received
        found, size = copy(stream, part, 0)
    else:
        source = _open_source(asked["source"], asked["uid"])
        size = os.fstat(source).st_size
        inspect.examine(os.pread(source, inspect.HEAD_BYTES, 0), size, asked["kind"])
        check_room(size, images)
        found, size = copy(chunks(source), part, size)
    with part.open("rb") as copied:
        head = copied.read(inspect.HEAD_BYTES)
    about = inspect.examine(head, size, asked["kind"])
    if asked["sha256"] and found != asked["sha256"]:
        raise RefusedError(f"its SHA-256 is {found}, not {asked['sha256']}: it was damaged or replaced on the way")
    if about.format == "qcow2":
        say("check", done=0, total=0)
        check_whole(part, dirty=qcow2.judge(head, size).dirty)
    record = {
        "sha256": found,
        "verified": bool(asked["sha256"]),
        "format": about.format,
        "virtual_bytes": about.virtual_bytes,
        "source": "standard input" if asked["source"] == STDIN else asked["source"],
        "imported": time.time(),
    }
    place(part, images / name, images / f".{name}.previous", record)
    say("done", size=size, **record)


def main() -> int:
    """Returns exit status 0, or 1 after a line that says why."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(10)
    asked = json.loads(sys.argv[1])
    try:
        run(asked)
    except BypassError as error:
        source = "standard input" if asked["source"] == STDIN else asked["source"]
        say("failed", why=f"{source}: {str(error).removeprefix(source + ': ')}")
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        say("failed", why="the data partition is full; nothing was imported" if full else f"{error}")
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
