# SPDX-License-Identifier: GPL-2.0-only
"""A service that outlives bypassd (SSH server, DHCP client): started, found again, watched, restarted.

Its record, `NAME.json`, lets the next bypassd find it (process.py). If it ends unexpectedly, it is restarted, with a
back-off that is reset after a minute of running. The object lives as long as the part; the program as long as it is
wanted and the machine runs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from appliance.system import files
from appliance.system.process import Process, last_words

log = logging.getLogger(__name__)

FIRST_DELAY, LAST_DELAY, GOOD_LIFE = 0.5, 30.0, 60.0  # seconds
END_WAIT = 3.0


class Program:
    """See the module. Call it from the event loop only."""

    def __init__(self, name: str, folder: Path, log_file: Path, changed: Callable[[], None] = lambda: None) -> None:
        self.name, self._folder, self._log, self._changed = name, folder, log_file, changed
        self.words: list[str] | None = None  # the wanted command line; None = not wanted
        self.detail = ""  # why it does not run
        self._process: Process | None = None
        self._since = 0.0
        self._delay = FIRST_DELAY
        self._again: asyncio.TimerHandle | None = None
        self._looked = False  # whether a program of an earlier bypassd has been looked for

    @property
    def running(self) -> bool:
        """Whether it runs now."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Its process id; 0 if it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def adopted(self) -> bool:
        """Whether an earlier bypassd started it."""
        return self._process is not None and not self._process.child

    async def want(self, words: list[str] | None) -> None:
        """Run it with this command line, or end it (None). A program with another command line is ended first."""
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
        """bypassd ends: stop watching the program, which continues to run."""
        self._forget_timer()
        if (process := self._unwatch()) is not None:
            process.let_go()

    @property
    def _record(self) -> Path:
        return self._folder / f"{self.name}.json"

    def _adopt(self, words: list[str] | None) -> None:
        """Find a program that an earlier bypassd started; `self.words` is then its command line."""
        try:
            data = json.loads(self._record.read_text(encoding="utf-8"))
            pid, started, old = int(data["pid"]), int(data["started"]), [str(word) for word in data["words"]]
        except (OSError, ValueError, KeyError, TypeError):
            return
        self._process = Process.find(pid, started)
        if self._process is None:
            return
        self.words = old
        self._watch()
        if words == old:
            log.info("%s: still running as pid %d", self.name, pid)

    def _start(self) -> None:
        assert self.words is not None
        self._again = None
        try:
            self._process = Process.start(self.words, {}, self._log, os.environ)
        except OSError as error:
            self.detail = f"{self.words[0]}: {error.strerror}"
            log.error("%s: %s", self.name, self.detail)
            self._later()
            return
        self._since, self.detail = time.monotonic(), ""
        record = {"pid": self.pid, "started": self._process.started, "words": self.words}
        try:
            files.replace(self._record, json.dumps(record), synced=False)
        except OSError as error:
            log.warning("%s: a later bypassd will not find it: %s", self.name, error)
        self._watch()
        log.info("%s: started as pid %d", self.name, self.pid)
        self._changed()

    def _watch(self) -> None:
        assert self._process is not None
        asyncio.get_running_loop().add_reader(self._process.pidfd, self._ended)

    def _unwatch(self) -> Process | None:
        process, self._process = self._process, None
        if process is not None:
            asyncio.get_running_loop().remove_reader(process.pidfd)
        return process

    def _ended(self) -> None:
        """It ended unexpectedly: report that and restart it."""
        self._gone()
        self.detail = last_words(self._log) or "it ended without a message"
        log.error("%s ended unexpectedly: %s; restarting it in %.1f s", self.name, self.detail, self._delay)
        if time.monotonic() - self._since > GOOD_LIFE:
            self._delay = FIRST_DELAY
        self._later()
        self._changed()

    def _gone(self) -> None:
        if (process := self._unwatch()) is not None:
            process.reap()
        self._record.unlink(missing_ok=True)

    def _later(self) -> None:
        self._again = asyncio.get_running_loop().call_later(self._delay, self._start)
        self._delay = min(2 * self._delay, LAST_DELAY)

    def _forget_timer(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    async def _end(self) -> None:
        if self._process is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._process.pidfd)
        ended = asyncio.Event()
        loop.add_reader(self._process.pidfd, ended.set)
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._process.send(number)
            try:
                async with asyncio.timeout(END_WAIT):
                    await ended.wait()
                break
            except TimeoutError:
                continue
        self._gone()
