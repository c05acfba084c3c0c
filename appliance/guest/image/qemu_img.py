# SPDX-License-Identifier: GPL-2.0-only
"""Runs qemu-img on an image that is not trusted, with limits on all resources that the image can make it use.

A qcow2 image of a megabyte can describe a billion damaged clusters: qemu-img checks each of them, for hours, and
reports each, in gigabytes. So its processor time, its run time, its memory and its output are limited, and its output
is cut while it is read. It runs as a user that owns nothing, and gets the image as an open file.
"""

from __future__ import annotations

import json
import os
import resource
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from appliance.errors import RefusedError

PROCESSOR_S: Final = 60  # 2 s are enough for an intact image of 1 TiB, so a slow machine has plenty
TIME_S: Final = 600.0  # for a slow disk, or while no processor is free
MEMORY: Final = 1 << 30  # bytes of address space; the refcounts of 16 TiB need half of it
MOST_COMPLAINTS: Final = 256 << 10  # bytes; an image with so many error messages is damaged
MOST_ANSWER: Final = 4 << 20  # bytes of JSON: snapshots and bitmaps are listed
SHOWN: Final = 300  # characters of its messages
NOBODY: Final = 199_999  # the user that it runs as, below those of the guests
_CHUNK: Final = 1 << 16


class Ran(NamedTuple):
    """How it ended: exit status, its JSON answer, its messages on one line."""

    status: int
    answer: dict[str, Any]
    words: str


def run(words: list[str], image: Path) -> Ran:
    """Run qemu-img on a qcow2 image; RefusedError if it cannot be run, or if the image makes it exceed a limit."""
    with image.open("rb") as file:
        name = f"/proc/self/fd/{file.fileno()}"
        rights: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        try:
            process = subprocess.Popen(
                ["qemu-img", *words, "--output=json", "-f", "qcow2", name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                pass_fds=[file.fileno()],
                preexec_fn=_limit,  # noqa: PLW1509  the helper has one thread
                **rights,
            )
        except OSError as error:
            raise RefusedError(f"qemu-img cannot be run, so the image cannot be checked: {error.strerror}") from error
    with process:
        try:
            answer, complaints, over = _output(process)
            if over:
                process.kill()
            process.wait(PROCESSOR_S)  # its pipes are closed: it has nothing more to do
        except BaseException:
            process.kill()
            raise
    said = _brief(complaints.decode("utf-8", "replace").replace(name, "the image"))
    if not over and process.returncode < 0:
        used_up = process.returncode == -signal.SIGXCPU
        over = f"it used {PROCESSOR_S} s of processor time" if used_up else "it crashed, perhaps for lack of memory"
    if over:
        about = f" ({said})" if said else ""
        raise RefusedError(f"it is damaged, or made to exhaust its reader: qemu-img {words[0]}: {over}{about}")
    try:
        found = json.loads(answer)
    except ValueError:
        found = {}
    return Ran(process.returncode, found, said)


def _limit() -> None:
    """Set the limits, in the child before it becomes qemu-img."""
    resource.setrlimit(resource.RLIMIT_CPU, (PROCESSOR_S, PROCESSOR_S + 5))  # SIGXCPU names the limit, SIGKILL does not
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _output(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes, str]:
    """Its answer and the beginning of its error messages, up to the end or a limit; and which limit ("" = none)."""
    assert process.stdout is not None
    assert process.stderr is not None
    answer, complaints, complained = bytearray(), bytearray(), 0
    end, over = time.monotonic() + TIME_S, ""
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        ready.register(process.stderr, selectors.EVENT_READ)
        while ready.get_map() and not over:
            found = ready.select(max(0.0, end - time.monotonic()))
            if not found:
                over = f"it did not end within {TIME_S:g} s"
            for key, _ in found:
                data = os.read(key.fd, _CHUNK)
                if not data:
                    ready.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    answer += data
                else:
                    complained += len(data)
                    complaints += data[: SHOWN * 8 - len(complaints)]
            if len(answer) > MOST_ANSWER or complained > MOST_COMPLAINTS:
                over = "its output exceeds the limit"
    return bytes(answer), bytes(complaints), over


def _brief(text: str) -> str:
    """The text on one line, shortened for display: a damaged image causes thousands of messages."""
    words = " ".join(text.split())
    return words if len(words) <= SHOWN else f"{words[:SHOWN]} ..."
