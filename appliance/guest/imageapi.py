# SPDX-License-Identifier: GPL-2.0-only
"""The methods images.show and image.*: what the control socket offers for images. Nothing is kept here."""

from __future__ import annotations

import asyncio

from appliance.guest.imagefile import KINDS
from appliance.guest.images import Images, Job
from appliance.rpc import Param, Params, Registry, caller

LONGEST_WAIT_S = 2.0


def register(registry: Registry, images: Images) -> None:
    """Offer them."""
    name = {"name": Param("string", "the image's name")}
    number = {"job": Param("integer", "the number that image.import gave")}

    def asked(params: Params) -> Job:
        return images.job(params["job"], caller().uid)

    async def show(_: Params) -> object:
        return images.rows()

    async def begin(params: Params) -> object:
        job = await images.start(
            params["file"],
            params["name"],
            caller().uid,
            kind=params.get("kind", "disk"),
            sha256=params.get("sha256", ""),
            replace=params.get("replace", False),
        )
        return job.row()

    async def job(params: Params) -> object:
        found = asked(params)
        if not found.over:
            found.changed.clear()
            try:
                async with asyncio.timeout(LONGEST_WAIT_S):
                    await found.changed.wait()
            except TimeoutError:
                pass  # a slow disk: the same again
        return found.row()

    async def cancel(params: Params) -> object:
        found = asked(params)
        await images.cancel(found)
        return found.row()

    async def undo(params: Params) -> object:
        return {"message": images.undo(params["name"])}

    async def remove(params: Params) -> object:
        return {"message": images.remove(params["name"])}

    registry.add("images.show", show, doc="Every image: size, format, checksum, who uses it. Sizes in bytes.")
    registry.add(
        "image.import",
        begin,
        "operator",
        "Copy a file to the data partition as an image; image.job tells how far it is.",
        {
            "file": Param("string", "whole path of the file, readable for the caller"),
            **name,
            "kind": Param("string", "what it is; disk when left out", False, KINDS),
            "sha256": Param("string", "what its checksum must be, 64 hex digits", False),
            "replace": Param("boolean", "take the place of an image of this name", False),
        },
    )
    doc = f"An import; answers when there is something new, after {LONGEST_WAIT_S:g} s at the latest."
    registry.add("image.job", job, "operator", doc, number)
    registry.add("image.cancel", cancel, "operator", "End an import; nothing of it stays.", number)
    registry.add("image.undo", undo, "operator", "Take the last import of an image back.", name)
    registry.add("image.remove", remove, "operator", "Remove an image that no guest uses.", name)
