# SPDX-License-Identifier: GPL-2.0-only
"""Building blocks of the answer types: names for units, and the base struct."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class Answer(Struct, forbid_unknown_fields=True):
    """An object with these fields and no others; a field with a default may be missing."""


Cause = Annotated[str, Meta(description="why: one of the values in appliance/causes.py")]
Count = Annotated[int, Meta(ge=0, description="how many since the datapath was loaded or bypassd started")]
Detail = Annotated[str, Meta(description="one line for display; may be empty")]
Ms = Annotated[float, Meta(description="milliseconds")]
Seconds = Annotated[float, Meta(description="seconds")]
When = Annotated[str, Meta(description="a time in ISO 8601 format, in UTC")]
Relay = Annotated[str, Meta(description="inline, bypass, disconnect or unknown")]
Side = Annotated[str, Meta(description="lan or wan")]


class Done(Answer):
    """What was done, for display."""

    message: str
