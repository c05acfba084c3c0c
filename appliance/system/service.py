# SPDX-License-Identifier: GPL-2.0-only
"""A program that outlives bypassd: the SSH server, the DHCP client. Started, found again, watched, started again.

It runs in a session of its own and appends its words to a log. `pid` file and start time identify it beyond doubt for
the next bypassd. When it ends though it is wanted, it is started again, with a back-off that a minute of life resets.
The object lives as long as the part; the program as long as it is wanted, or the machine runs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from appliance.guest.qemu.process import last_words, start_time

log = logging.getLogger(__name__)

FIRST_DELAY, LAST_DELAY, GOOD_LIFE = 0.5, 30.0, 60.0  # seconds
END_WAIT = 3.0


class Program:
    """See the module. All calls come from the event loop."""

    def __init__(self, name: str, folder: Path, log_file: Path, changed: Callable[[], None] = lambda: None) -> None:
        self.name, self._folder, self._log, self._changed = name, folder, log_file, changed
        self.words: list[str] | None = None  # what is wanted; None = nothing
        self.pid = 0
        self.detail = ""  # why it does not run
        self._child: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._since = 0.0
        self._delay = FIRST_DELAY
        self._again: asyncio.TimerHandle | None = None
        self._looked = False  # for one that an earlier bypassd started

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self.pid != 0

    async def want(self, words: list[str] | None) -> None:
        """Have it run with this command line, or not at all. One that runs with another is ended first."""
        if not self._looked:
            self._looked = True
            self._adopt(words)
        if words == self.words and (self.running or self._again is not None or words is None):
            return
        self._forget_timer()
        self.words = words
        await self._end()
        self._delay = FIRST_DELAY
        self.detail = ""
        if words is not None:
            self._start()

    def leave(self) -> None:
        """bypassd ends: stop watching, and let it run."""
        self._forget_timer()
        self._unwatch()

    @property
    def _record(self) -> Path:
        return self._folder / f"{self.name}.json"

    def _adopt(self, words: list[str] | None) -> None:
        """Find the one that an earlier bypassd started; `self.words` says afterwards what it runs with."""
        try:
            data = json.loads(self._record.read_text(encoding="utf-8"))
            pid, started, old = int(data["pid"]), int(data["started"]), [str(word) for word in data["words"]]
        except (OSError, ValueError, KeyError, TypeError):
            return
        if start_time(pid) != started:
            return
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            return
        self.pid, self.words = pid, old
        self._watch()
        if words == old:
            log.info("%s: goes on as pid %d", self.name, pid)

    def _start(self) -> None:
        assert self.words is not None
        self._again = None
        try:
            with self._log.open("ab") as out:
                self._child = subprocess.Popen(
                    self.words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd="/"
                )
            self._pidfd = os.pidfd_open(self._child.pid)
        except OSError as error:
            self.detail = f"{self.words[0]}: {error.strerror}"
            log.error("%s: %s", self.name, self.detail)
            self._later()
            return
        self.pid, self._since, self.detail = self._child.pid, time.monotonic(), ""
        record = {"pid": self.pid, "started": start_time(self.pid) or 0, "words": self.words}
        try:
            self._record.write_text(json.dumps(record), encoding="utf-8")
        except OSError as error:
            log.warning("%s: a later bypassd will not find it: %s", self.name, error)
        self._watch()
        log.info("%s: runs as pid %d", self.name, self.pid)
        self._changed()

    def _watch(self) -> None:
        asyncio.get_running_loop().add_reader(self._pidfd, self._ended)

    def _unwatch(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _ended(self) -> None:
        """It ended by itself: say so and start it again."""
        self._gone()
        self.detail = last_words(self._log) or "it ended without a word"
        log.error("%s ended: %s; it is started again in %.1f s", self.name, self.detail, self._delay)
        if time.monotonic() - self._since > GOOD_LIFE:
            self._delay = FIRST_DELAY
        self._later()
        self._changed()

    def _gone(self) -> None:
        self._unwatch()
        if self._child is not None:
            self._child.wait()
            self._child = None
        self.pid = 0
        self._record.unlink(missing_ok=True)

    def _later(self) -> None:
        self._again = asyncio.get_running_loop().call_later(self._delay, self._start)
        self._delay = min(2 * self._delay, LAST_DELAY)

    def _forget_timer(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    async def _end(self) -> None:
        if not self.running:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        ended = asyncio.Event()
        loop.add_reader(self._pidfd, ended.set)
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                break
            try:
                async with asyncio.timeout(END_WAIT):
                    await ended.wait()
                break
            except TimeoutError:
                continue
        self._gone()
