# SPDX-License-Identifier: GPL-2.0-only
"""The method support.bundle: calls the other methods, runs the collector in a process, and returns the file's path.

The file is in the volatile state and readable only by the caller. There is one at a time: the next bundle and the next
start of bypassd remove it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from appliance.api.rpc import Caller, Params, Registry, RpcError, caller
from appliance.api.schema.guests import Guest
from appliance.api.schema.state import Bundle
from appliance.errors import BypassError, RefusedError, UnreachableError
from appliance.support.items import API

log = logging.getLogger(__name__)

TIME_LIMIT = 180.0  # seconds


class Support:
    """The handler; lives as long as bypassd."""

    def __init__(self, folder: Path, root: Path, registry: Registry, secrets: Callable[[], list[str]]) -> None:
        """`secrets` returns the texts that must not occur in a bundle."""
        self._folder, self._root, self._registry, self._secrets = folder, root, registry, secrets
        self._busy = ""

    async def bundle(self, _: Params) -> Bundle:
        """A new bundle, which the caller may read. RefusedError while another one is being made."""
        who = caller()
        if self._busy:
            raise RefusedError(f"a bundle is already being made, for {self._busy}: try again in a minute")
        self._busy = f"uid {who.uid}"
        try:
            return await self._make(who)
        finally:
            self._busy = ""

    async def _make(self, who: Caller) -> Bundle:
        began = time.monotonic()
        given = {"root": str(self._root), "api": await self._answers(who), "secrets": self._secrets()}
        path = self._folder / f"bundle-{time.monotonic_ns()}.tar.gz"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.chmod(0o711)
            for old in self._folder.glob("bundle-*"):
                old.unlink(missing_ok=True)
        except OSError as error:
            raise RefusedError(f"support bundle: {error.filename}: {error.strerror}") from error
        words = [sys.executable, "-I", "-m", "appliance.support", str(path)]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *words, stdin=pipe, stdout=asyncio.subprocess.DEVNULL, stderr=pipe
        )
        try:
            async with asyncio.timeout(TIME_LIMIT):
                _, said = await process.communicate(msgspec.json.encode(given, enc_hook=str))
        except BaseException as error:
            process.kill()
            await process.wait()
            path.unlink(missing_ok=True)
            if isinstance(error, TimeoutError):
                raise UnreachableError(f"the support bundle was not done within {TIME_LIMIT:g} s") from error
            raise
        if process.returncode != 0:
            path.unlink(missing_ok=True)
            lines = said.decode("utf-8", "replace").strip().splitlines()
            raise RefusedError(f"the support bundle could not be made: {lines[-1] if lines else process.returncode}")
        os.chown(path, who.uid, -1)
        took = round((time.monotonic() - began) * 1000)
        log.info("support bundle for uid %d: %d bytes in %d ms", who.uid, path.stat().st_size, took)
        return Bundle(path=str(path), bytes=path.stat().st_size, took_ms=took)

    async def _answers(self, who: Caller) -> dict[str, object]:
        """The answers of the other methods to an administrator."""
        asker = Caller(who.uid, who.pid, "admin")
        answers: dict[str, object] = {}
        for name in API:
            if name not in self._registry.names():
                continue
            params = {"count": 0} if name in ("transitions.show", "events.show") else {}
            try:
                answers[name] = await self._registry.call(name, params, asker)
            except (BypassError, RpcError) as error:
                answers[name] = {"error": str(error)}
            except Exception as error:  # a bug in a method is what bundles are for
                log.exception("support bundle: %s", name)
                answers[name] = {"error": repr(error)}
        for guest in self._guests(answers.get("guests.show")):
            try:
                answers[f"guest.{guest}"] = await self._registry.call("guest.show", {"name": guest}, asker)
            except (BypassError, RpcError) as error:
                answers[f"guest.{guest}"] = {"error": str(error)}
        return answers

    @staticmethod
    def _guests(rows: object) -> list[str]:
        return [row.name for row in rows if isinstance(row, Guest)] if isinstance(rows, list) else []
