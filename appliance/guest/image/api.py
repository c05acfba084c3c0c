# SPDX-License-Identifier: GPL-2.0-only
"""The control socket's methods for images, images.show and image.*. Keeps no state."""

from __future__ import annotations

import asyncio
from functools import partial

from appliance.api.connection import at_end, take_over
from appliance.api.rpc import Param, Params, Registry, caller
from appliance.api.schema import guests as answer
from appliance.api.schema import methods
from appliance.api.schema.base import Done
from appliance.errors import GuestError
from appliance.guest.image.importer import STDIN
from appliance.guest.image.inspect import KINDS
from appliance.guest.image.store import STOPPED, Images, Job
from appliance.system.threads import to_the_end

LONGEST_WAIT_S = 2.0


def register(registry: Registry, images: Images) -> None:
    """Add the methods to `registry`."""
    name = {"name": Param("string", "the image's name")}
    number = {"job": Param("integer", "the number that image.import gave")}

    def asked(params: Params) -> Job:
        return images.job(params["job"], caller().uid)

    async def show(_: Params) -> list[answer.Image]:
        return await asyncio.to_thread(images.rows)

    async def begin(params: Params) -> answer.Job:
        job = await images.start(
            params["file"],
            params["name"],
            caller().uid,
            kind=params.get("kind", "disk"),
            sha256=params.get("sha256", ""),
            replace=params.get("replace", False),
        )
        return job.row()

    async def receive(params: Params) -> answer.Job:
        words = {key: params[key] for key in ("sha256", "replace") if key in params}
        found = images.begin(params["name"], caller().uid, **words)

        async def stream(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """The helper reads from the client itself, so that no image passes through bypassd."""
            link = writer.get_extra_info("socket").dup()
            try:
                link.setblocking(True)
                with link:
                    await images.feed(found, STDIN, params.get("kind", "disk"), params.get("sha256", ""), link.fileno())
                await images.finished(found)
            except GuestError:
                pass  # the job reports it

        at_end(lambda: found.end(STOPPED))  # the answer may not even reach the client
        take_over(stream, unread=True)
        return found.row()

    async def job(params: Params) -> answer.Job:
        found = asked(params)
        if not found.over:
            found.changed.clear()
            try:
                async with asyncio.timeout(LONGEST_WAIT_S):
                    await found.changed.wait()
            except TimeoutError:
                pass  # a slow disk: report the same again
        return found.row()

    async def cancel(params: Params) -> answer.Job:
        found = asked(params)
        await images.cancel(found)
        return found.row()

    async def undo(params: Params) -> Done:
        return Done(await to_the_end(partial(images.undo, params["name"])))

    async def remove(params: Params) -> Done:
        return Done(await to_the_end(partial(images.remove, params["name"])))

    registry.add(methods.IMAGES_SHOW, show, doc="Every image: size, format, checksum, who uses it. Sizes in bytes.")
    what = {
        **name,
        "kind": Param("string", "what the file is; disk by default", False, KINDS),
        "sha256": Param("string", "the expected checksum, 64 hex digits", False),
        "replace": Param("boolean", "replace an existing image of this name", False),
    }
    registry.add(
        methods.IMAGE_IMPORT,
        begin,
        "operator",
        "Copy a file to the data partition as an image; image.job reports the progress.",
        {"file": Param("string", "absolute path of the file, which the caller must be able to read"), **what},
    )
    doc = "Then send the image's bytes, shut down your side, and stay connected until image.job reports the end."
    registry.add(methods.IMAGE_RECEIVE, receive, "operator", doc, what)
    doc = f"The progress of an import; answers when it changes, after {LONGEST_WAIT_S:g} s at the latest."
    registry.add(methods.IMAGE_JOB, job, "operator", doc, number)
    registry.add(methods.IMAGE_CANCEL, cancel, "operator", "Cancel an import; nothing of it is kept.", number)
    registry.add(methods.IMAGE_UNDO, undo, "operator", "Undo the last import of an image.", name)
    registry.add(methods.IMAGE_REMOVE, remove, "operator", "Remove an image that no guest uses.", name)
