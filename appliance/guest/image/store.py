# SPDX-License-Identifier: GPL-2.0-only
"""The images of guests on the data partition: imported, listed, undone, removed.

An import is a helper process (importer.py) and a `Job` here that follows it; the client asks the job for its progress.
What an import replaced is kept until the next import of that name, so that it can be undone. A running guest keeps the
file with which it was started: a new image counts from its next start. Partial files of imports that were cut off are
removed at every start of bypassd; the helpers end with bypassd.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import UNSET, Struct, UnsetType

from appliance.access.groups import GROUPS
from appliance.api.schema import guests
from appliance.config.check.verify_machine import image_key
from appliance.config.schema import model
from appliance.errors import GuestError, NotFoundError, RefusedError
from appliance.guest.image import inspect
from appliance.guest.image.disk_format import Record, read_record
from appliance.system import files
from appliance.system.threads import to_the_end

log = logging.getLogger(__name__)

AT_ONCE = 2
KEPT_JOBS = 16
STOPPED = "it was stopped; nothing was imported"


class _Line(Struct):
    """A line from the import helper: its progress, and at the end what was imported."""

    stage: str
    done: int | UnsetType = UNSET
    total: int | UnsetType = UNSET
    why: str = ""
    size: int | UnsetType = UNSET
    sha256: str | UnsetType = UNSET
    verified: bool | UnsetType = UNSET
    format: str | UnsetType = UNSET
    virtual_bytes: int | UnsetType = UNSET
    source: str | UnsetType = UNSET
    imported: float | UnsetType = UNSET


@dataclass
class Job:
    """One import, from its start until it is forgotten."""

    number: int
    name: str
    owner: int  # user id
    stage: str = "start"
    done: int = 0
    total: int = 0
    why: str = ""
    result: _Line = field(default_factory=lambda: _Line("start"))
    process: asyncio.subprocess.Process | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        """Whether it ended."""
        return self.stage in ("done", "failed")

    def take(self, line: bytes) -> None:
        """Process one line from the helper."""
        with contextlib.suppress(msgspec.DecodeError):
            told = msgspec.json.decode(line, type=_Line)
            self.stage = told.stage
            self.done = self.done if told.done is UNSET else told.done
            self.total = self.total if told.total is UNSET else told.total
            self.why = told.why or self.why
            self.result = told
        self.changed.set()

    def end(self, why: str) -> None:
        """The helper has ended; if its last line was not the end of the import, the import failed with `why`."""
        if not self.over:
            self.stage, self.why = "failed", why
        self.process = None
        self.changed.set()

    def row(self) -> guests.Job:
        """The job as the API shows it."""
        told = self.result
        return guests.Job(
            job=self.number,
            name=self.name,
            stage=self.stage,
            why=self.why,
            done_bytes=self.done,
            total_bytes=self.total,
            size=told.size,
            sha256=told.sha256,
            verified=told.verified,
            format=told.format,
            virtual_bytes=told.virtual_bytes,
            source=told.source,
            imported=told.imported,
        )


def images_used(config: model.Config) -> dict[str, list[str]]:
    """Which guests use each imported image, by its name, however the configuration writes it (pure)."""
    used: dict[str, list[str]] = {}
    for guest in config.guest:
        for name in (guest.image, guest.kernel, guest.initrd, *(disk.image for disk in guest.disks)):
            if name and not (key := image_key(name)).startswith("/"):
                used.setdefault(key, []).append(guest.name)
    return used


class Images:
    """The folder of images. `used` says which guests use an image, by its name."""

    def __init__(self, folder: Path, used: Callable[[], Mapping[str, list[str]]]) -> None:
        self._folder, self._used = folder, used
        self._jobs: dict[int, Job] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0

    def tidy(self) -> None:
        """Remove what cut-off imports left, and let only administrators and users into the folder.

        Guests' processes get images as open descriptors, so that no guest's QEMU can open another's.
        """
        with contextlib.suppress(OSError):  # it does not exist yet, or a test is not root
            self._folder.chmod(0o750)
            os.chown(self._folder, -1, GROUPS["bypass"])
        for path in (*self._folder.glob(".*.part"), *self._folder.glob(".*.json.new")):
            if not any(f".{job.name}." in path.name for job in list(self._jobs.values()) if not job.over):
                path.unlink(missing_ok=True)

    # Existing images

    def rows(self) -> list[guests.Image]:
        """Every image: name, size, format, who uses it, whether its import can be undone."""
        if not self._folder.is_dir():
            return []
        used = self._used()
        return [self._row(path, used) for path in sorted(self._folder.iterdir()) if inspect.NAME.fullmatch(path.name)]

    def _row(self, path: Path, used: Mapping[str, list[str]]) -> guests.Image:
        record = read_record(self._folder, path.name)
        found = record or Record()
        return guests.Image(
            name=path.name,
            size_bytes=path.stat().st_size,
            format=found.format,
            virtual_bytes=found.virtual_bytes,
            sha256=found.sha256,
            verified=found.verified,
            imported=found.imported,
            source=found.source,
            used_by=used.get(path.name, []),
            undo="previous" if self._previous(path.name).exists() else "remove" if self._first(record) else "",
        )

    @staticmethod
    def _first(record: Record | None) -> bool:
        """Whether an image was imported, and not an earlier one restored: then there is an import to undo."""
        return record is not None and not record.restored

    def _previous(self, name: str) -> Path:
        return self._folder / f".{name}.previous"

    def _path(self, name: str) -> Path:
        path = self._folder / name
        if not inspect.NAME.fullmatch(name) or not path.exists():
            known = ", ".join(row.name for row in self.rows()) or "none"
            raise NotFoundError(f'there is no image "{name[:70]}"; there is: {known}')
        return path

    # Imports

    async def start(
        self, source: str, name: str, owner: int, *, kind: str = "disk", sha256: str = "", replace: bool = False
    ) -> Job:
        """Begin an import of a file; RefusedError if its arguments are wrong."""
        if not source.startswith("/"):
            raise RefusedError(f"{source}: give the absolute path, from /")
        job = self.begin(name, owner, sha256=sha256, replace=replace)
        await self.feed(job, source, kind, sha256, asyncio.subprocess.DEVNULL)
        return job

    def begin(self, name: str, owner: int, *, sha256: str = "", replace: bool = False) -> Job:
        """Create a job, which `feed` starts; RefusedError if its arguments are wrong."""
        inspect.check_name(name)
        inspect.check_sum(sha256)
        if (self._folder / name).exists() and not replace:
            raise RefusedError(f'an image "{name}" already exists: --replace replaces it, which can be undone')
        running = [job for job in self._jobs.values() if not job.over]
        if any(job.name == name for job in running):
            raise RefusedError(f'an image "{name}" is already being imported')
        if len(running) >= AT_ONCE:
            raise RefusedError(f"{AT_ONCE} images are already being imported: wait for one of them")
        self._count += 1
        job = self._jobs[self._count] = Job(self._count, name, owner)
        for old in [number for number, each in self._jobs.items() if each.over][:-KEPT_JOBS]:
            del self._jobs[old]
        return job

    async def feed(self, job: Job, source: str, kind: str, sha256: str, stdin: int) -> None:
        """Start the helper. `source` "-": the data that arrives through the socket `stdin`."""
        asked = {"source": source, "uid": job.owner, "images": str(self._folder), "name": job.name, "kind": kind}
        asked["sha256"] = inspect.check_sum(sha256)
        try:
            await to_the_end(self._make_ready)
            job.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-m", "appliance.guest.image.importer", json.dumps(asked)),
                stdin=stdin,
                stdout=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            job.end(f"the import cannot be started: {error.strerror}")
            raise GuestError(job.why) from error
        task = asyncio.get_running_loop().create_task(self._follow(job), name=f"import {job.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _make_ready(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.tidy()

    async def finished(self, job: Job) -> None:
        """Wait until the import has ended."""
        while not job.over:
            job.changed.clear()
            await job.changed.wait()

    async def _follow(self, job: Job) -> None:
        process = job.process
        assert process is not None
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                job.take(line)
        except ValueError:  # a line without end, which our helper never writes
            process.kill()
        status = await process.wait()
        job.end(STOPPED if status < 0 else f"the import ended with status {status}; see the system log")
        await to_the_end(self.tidy)
        log.info("import of image %s: %s%s", job.name, job.stage, f": {job.why}" if job.why else "")

    def job(self, number: int, owner: int) -> Job:
        """An import of this user; NotFoundError otherwise (an earlier bypassd's imports ended with it)."""
        job = self._jobs.get(number)
        if job is None or owner not in (0, job.owner):
            raise NotFoundError(f"there is no import {number}: it ended with a restart of bypassd, or long ago")
        return job

    async def cancel(self, job: Job) -> None:
        """Cancel a running import; nothing of it is kept."""
        if job.process is not None:
            with contextlib.suppress(ProcessLookupError):
                job.process.kill()
        await self.finished(job)

    # Undo

    def undo(self, name: str) -> str:
        """Undo the last import of this name: the previous image is restored, or the image is removed if it was new."""
        path, previous = self._path(name), self._previous(name)
        try:
            if previous.exists():
                self._restore_record(name)
                previous.replace(path)
                return f"image {name} from before its last import is restored; guests use it from their next start on"
        except OSError as error:
            raise GuestError(f"image {name}: {error.strerror}") from error
        if not self._first(read_record(self._folder, name)):
            raise RefusedError(f"image {name}: there is no import to undo; `image {name} remove` removes it")
        self.remove(name)
        return f"image {name} is removed: there was none before its import"

    def _restore_record(self, name: str) -> None:
        """Restore the record of the previous image, which has its format; earlier versions did not keep it."""
        record, kept = self._folder / f".{name}.json", self._folder / f".{name}.json~"
        try:
            files.replace(record, json.dumps({**json.loads(kept.read_bytes()), "restored": True}), synced=False)
            kept.unlink()
        except (FileNotFoundError, ValueError):
            record.unlink(missing_ok=True)

    def remove(self, name: str) -> str:
        """Remove an image that no guest is configured to use, with its record and its previous version."""
        path = self._path(name)
        if users := self._used().get(name):
            raise RefusedError(
                f"image {name} is used by guest {', '.join(users)}: remove it from the configuration first"
            )
        try:
            hidden = (self._folder / f".{name}.{what}" for what in ("previous", "json", "json~"))
            for each in (path, *hidden):
                each.unlink(missing_ok=True)
        except OSError as error:
            raise GuestError(f"image {name}: {os.strerror(error.errno or 0)}") from error
        return f"image {name} is removed"
