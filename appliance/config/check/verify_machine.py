# SPDX-License-Identifier: GPL-2.0-only
"""Rules among the keys of a guest's machine, and between guests that wait for each other. Pure.

`faults` gives (key, what is wrong); verify.py turns them into findings with file, table and line.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence

from appliance.config.schema import limits
from appliance.config.schema.model import Guest
from appliance.counted import counted
from appliance.paths import Paths

Fault = tuple[str, str]

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)


def image_key(value: str) -> str:
    """The same for all ways to write one file: the name of an image in the folder of images, or a path from /."""
    images = str(Paths().images)
    whole = value if value.startswith("/") else f"{images}/{value}"
    return ("/" + posixpath.normpath(whole).lstrip("/")).removeprefix(images + "/")


def faults(guest: Guest) -> Iterator[Fault]:
    """What is wrong with one guest's machine."""
    if guest.name == "import":
        yield "name", "is a word of the command `guest import`: choose another name"
    if guest.firmware == "uefi" and guest.kernel:
        yield "firmware", "a kernel is started without firmware: leave out kernel or firmware"
    if guest.pin and len(guest.pin) != guest.cpus:
        yield "pin", f"names {counted(len(guest.pin), 'processor')} for {guest.cpus} of the guest: name one for each"
    if len(set(guest.pin)) != len(guest.pin):
        yield "pin", "names a processor twice"
    yield from _queues(guest)
    if len(guest.disks) > limits.MAX_DISKS:
        yield "disks", f"{len(guest.disks)} are more than MAX_DISKS = {limits.MAX_DISKS}"
    for key in ("image", "kernel", "initrd"):
        if value := getattr(guest, key):
            yield from ((key, what) for what in file_faults(value))
    yield from (("disks", what) for disk in guest.disks for what in file_faults(disk.image))
    used = [image_key(image) for image in (*(disk.image for disk in guest.disks), guest.image) if image]
    for name in sorted({name for name in used if used.count(name) > 1}):
        yield "disks", f'"{name}" is listed twice: two disks must not share an image'
    for key in ("lan_mac", "wan_mac", "management_mac"):
        yield from ((key, what) for what in address_faults(getattr(guest, key)))
    if guest.management_mac and guest.management == "off":
        yield "management_mac", 'is used only with a third port: management = "isolated" or "bridged"'
    if guest.lan_mac and guest.lan_mac.lower() == guest.wan_mac.lower():
        yield "wan_mac", "is also the other port's: each port needs its own"
    yield from _restart(guest)


def _queues(guest: Guest) -> Iterator[Fault]:
    if guest.queues > guest.cpus:
        have = counted(guest.cpus, "processor")
        yield "queues", f"{guest.queues} are more than its {have}: a queue without one is never used"
    if guest.queue_pin and len(guest.queue_pin) != guest.queues:
        names = counted(len(guest.queue_pin), "processor")
        yield "queue_pin", f"names {names} for {counted(guest.queues, 'queue')}: name one for each"
    if len(set(guest.queue_pin)) != len(guest.queue_pin):
        yield "queue_pin", "names a processor twice"


def file_faults(value: str) -> Iterator[str]:
    """A relative name is that of an imported image, without a folder."""
    if not value.startswith("/") and ({"", ".."} & set(value.split("/")) or posixpath.normpath(value) == "."):
        yield f'"{value}" is not the name of an image: give the name of an imported one, or an absolute path'


def address_faults(text: str) -> Iterator[str]:
    """Why this is not the MAC address of a port."""
    if not text:
        return
    if not _MAC.fullmatch(text):
        yield f'"{text}" is not a MAC address such as 02:54:58:01:00:01'
    elif int(text[:2], 16) & 1:
        yield f'"{text}" is a group address: a port needs an individual one (second digit even)'
    elif not int(text.replace(":", ""), 16):
        yield f'"{text}" is not an address of a station'


def _restart(guest: Guest) -> Iterator[Fault]:
    if guest.restart.first > guest.restart.longest:
        yield "restart", f"first {guest.restart.first} is longer than longest {guest.restart.longest}"


def between(guests: Sequence[Guest]) -> Iterator[tuple[int, str, str]]:
    """(index of the guest, key, what is wrong) where guests wait for each other, or write to one image."""
    after = {guest.name: guest.after for guest in guests}
    told: set[str] = set()  # guests of a loop that was reported
    for index, guest in enumerate(guests):
        for name in guest.after:
            if name not in after:
                yield index, "after", f'no guest is named "{name}"'
            elif name == guest.name:
                yield index, "after", "a guest cannot wait for itself"
        loop = _loop(guest.name, after)
        if loop and guest.name not in told:
            told.update(loop)
            yield index, "after", f"waits for itself: {' after '.join(loop)}"
    yield from _shared(guests)


def _shared(guests: Sequence[Guest]) -> Iterator[tuple[int, str, str]]:
    """Images that one guest writes to while another one uses them: their contents would be damaged."""
    users: dict[str, tuple[str, bool]] = {}  # image_key -> who uses it first, whether it is written to
    for index, guest in enumerate(guests):
        kept = guest.storage == "persistent"
        uses = [("image", guest.image, kept)] * bool(guest.image)
        uses += [("disks", disk.image, kept and not disk.readonly) for disk in guest.disks]
        for key, image, writes in uses:
            other, written = users.setdefault(image_key(image), (guest.name, writes))
            if other != guest.name and (writes or written):
                what = f'"{image}" is also an image of guest {other}: give each its own, or both storage = "snapshot"'
                yield index, key, what


def _loop(start: str, after: dict[str, tuple[str, ...]]) -> list[str]:
    """The chain of waits from a guest back to itself; empty when there is none. A guest alone is not a chain."""
    ways = [[start]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for name in after.get(way[-1], ()):
            if name == start and len(way) > 1:
                return [*way, name]
            if name not in seen and name != start:
                seen.add(name)
                ways.append([*way, name])
    return []
