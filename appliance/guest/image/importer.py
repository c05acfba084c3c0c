# SPDX-License-Identifier: GPL-2.0-only
"""Copies one image into the appliance: a process of its own beside bypassd, which no slow disk can hold up.

It opens the file with the rights of who asked for it, or takes what a client sends through the socket that is its
standard input, copies it beside its place, adds up its SHA-256 on the way, has qemu-img check it as a user without
rights, and only then lets it take its name, by one rename. Until that rename nothing has changed; whatever ends it
before leaves nothing but a partial file, which images.py removes. What it does it says as JSON lines on standard
output: {"stage": "copy", "done": 1, "total": 2}, at last "done" or "failed" with "why".

A sender shuts its side of the socket down when it has sent all, and stays; one that is gone was cut off.

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
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from appliance.counted import counted
from appliance.errors import BypassError, RefusedError
from appliance.guest.image import inspect
from appliance.system import files

CHUNK = 1 << 20
SYNC_EVERY = 64 << 20
RESERVE = 32 << 20  # bytes that stay free for records and configuration
SAY_EVERY_S = 0.2
LOOK_EVERY = 8 << 20  # bytes, while it is not known how many come
SILENCE_S = 120  # a sender from whom nothing comes for so long is given up
STDIN = "-"
WHAT_HELPS = "`show images` says what could be removed"
WORDS = 300  # characters of what qemu-img says that are shown
NOBODY = 199_999  # the user that qemu-img runs as, below those of the guests
_PR_SET_PDEATHSIG = 1


def say(stage: str, **more: object) -> None:
    """One line of progress."""
    print(json.dumps({"stage": stage, **more}), flush=True)


@contextlib.contextmanager
def _rights_of(uid: int) -> Iterator[None]:
    """Act as the user who asked: what they cannot read they cannot have imported."""
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
        raise RefusedError(f"{path}: it is not a file")
    return fd


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


def free_bytes(images: Path) -> int:
    """What images may still use of the disk."""
    found = os.statvfs(images)
    return found.f_bavail * found.f_frsize - RESERVE


def check_room(size: int, images: Path) -> None:
    """RefusedError when the image does not fit."""
    free = free_bytes(images)
    if size > free:
        raise RefusedError(f"it is too large: it has {_mib(size)}, and {_mib(max(free, 0))} can be used; {WHAT_HELPS}")


def chunks(source: int) -> Iterator[bytes]:
    """What a file holds."""
    while data := os.read(source, CHUNK):
        yield data


def sent(images: Path) -> Iterator[bytes]:
    """What comes through the socket that is standard input, while it fits; RefusedError when it is cut off."""
    link, done, looked, free = select.poll(), 0, 0, free_bytes(images)
    link.register(0, select.POLLIN)
    while True:
        found = link.poll(SILENCE_S * 1000)
        if not found:
            raise RefusedError(f"nothing more came for {SILENCE_S} s, after {_mib(done)}")
        data = os.read(0, min(CHUNK, max(free - (done - looked), 1)))
        if not data:
            break
        done += len(data)
        yield data
        if done - looked >= min(LOOK_EVERY, free):  # others write, too; and nothing of the reserve is used
            looked = done
            free = free_bytes(images)
            if free <= 0:
                raise RefusedError(f"it is too large: {_mib(done)} of it came, and no more fits; {WHAT_HELPS}")
    if link.poll(0)[0][1] & select.POLLHUP:
        raise RefusedError(f"it was cut off after {_mib(done)}: who sent it is gone")


def copy(source: Iterable[bytes], part: Path, total: int) -> tuple[str, int]:
    """Copy to `part`, on the disk when this returns; SHA-256 and size of what was copied. `total` 0: not known."""
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
                os.fdatasync(target.fileno())  # a full disk is told now, and the page cache stays with the guests
                synced = done
            if time.monotonic() - said > SAY_EVERY_S:
                said = time.monotonic()
                say("copy", done=done, total=total)
        os.fsync(target.fileno())
    say("copy", done=done, total=total)
    if total and done != total:
        raise RefusedError(f"it changed while it was copied: {counted(total, 'byte')} at first, {done} at last")
    return digest.hexdigest(), done


def qemu_img(words: list[str], image: Path) -> tuple[int, dict[str, Any], str]:
    """Run qemu-img on a qcow2 image as nobody in particular; status, its JSON, its words."""
    with image.open("rb") as file:
        command = ["qemu-img", *words, "--output=json", "-f", "qcow2", f"/proc/self/fd/{file.fileno()}"]
        rights: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        try:
            ran = subprocess.run(
                command, capture_output=True, text=True, check=False, cwd="/", pass_fds=[file.fileno()], **rights
            )
        except FileNotFoundError as error:
            raise RefusedError("qemu-img is not installed, so the image cannot be checked") from error
        name = f"/proc/self/fd/{file.fileno()}"
    try:
        found = json.loads(ran.stdout)
    except ValueError:
        found = {}
    return ran.returncode, found, _brief(ran.stderr.replace(name, "the image"))


def _brief(text: str) -> str:
    """On one line, and not longer than a person reads: a damaged image has thousands of complaints."""
    words = " ".join(text.split())
    return words if len(words) <= WORDS else f"{words[:WORDS]} ..."


def check_whole(image: Path) -> None:
    """RefusedError unless qemu-img finds a qcow2 image whole and made of nothing but itself."""
    status, about, words = qemu_img(["info"], image)
    if status:
        raise RefusedError(f"qemu-img does not take it: {words}")
    if outside := about.get("backing-filename") or about.get("full-backing-filename"):
        raise RefusedError(f'it needs a backing file ("{outside}"), and an image must be whole')
    status, found, words = qemu_img(["check"], image)
    if status not in (0, 3):  # 3 = space that nobody uses: harmless
        corruptions, errors = (found.get(key, "?") for key in ("corruptions", "check-errors"))
        what = f"{counted(corruptions, 'corruption')}, {counted(errors, 'error')}"
        raise RefusedError(f"it is damaged: qemu-img check: {what}" + f" ({words})" * bool(words))


def place(part: Path, final: Path, previous: Path, record: dict[str, object]) -> None:
    """Let the new image take its name; the one that had it is kept for `undo`, and what is known of it, too."""
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
    """First what the file begins with, as much as is looked at; then all of it."""
    head = b""
    for data in stream:
        head += data
        if len(head) >= inspect.HEAD_BYTES:
            break
    yield head
    yield head
    yield from stream


def run(asked: dict[str, Any]) -> None:
    """The whole import; BypassError or OSError when there is none, and nothing of it is left then."""
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
        inspect.examine(next(stream), None, asked["kind"])  # what is wrong at sight is told before all of it came
        found, size = copy(stream, part, 0)
    else:
        source = _open_source(asked["source"], asked["uid"])
        size = os.fstat(source).st_size
        inspect.examine(os.pread(source, inspect.HEAD_BYTES, 0), size, asked["kind"])
        check_room(size, images)
        found, size = copy(chunks(source), part, size)
    with part.open("rb") as copied:
        about = inspect.examine(copied.read(inspect.HEAD_BYTES), size, asked["kind"])
    if asked["sha256"] and found != asked["sha256"]:
        raise RefusedError(f"its SHA-256 is {found}, and not {asked['sha256']}: it was damaged or exchanged on its way")
    if about.format == "qcow2":
        say("check", done=0, total=0)
        check_whole(part)
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
    """Exit status 0, or 1 after a line that says why not."""
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
