# SPDX-License-Identifier: GPL-2.0-only
"""The text of a crash report: what is known about the run that crashed, then the evidence, section by section. Pure.

It is stored, shown and exported as it is, and can be read without any program.
"""

from __future__ import annotations

from typing import Final, NamedTuple

HEAD: Final = "Throughwire crash report "
_RULE: Final = "===="


class About(NamedTuple):
    """The head of a report. `when`: when it was found, after the reset; the clock at the crash is not known.

    `version`: of the run that crashed; empty if unknown. `ran_s`: how long the machine had run; None if unknown.
    """

    number: int
    kind: str
    cause: str
    when: str
    version: str = ""
    boot: str = ""
    ran_s: int | None = None


class Section(NamedTuple):
    """One piece of evidence and where it was found."""

    title: str
    source: str
    text: str


def compose(about: About, sections: list[Section]) -> str:
    """The text of a report."""
    ran = "unknown" if about.ran_s is None else f"{about.ran_s} s"
    head = (
        ("reset", about.kind),
        ("cause", about.cause),
        ("found", about.when),
        ("version", about.version or "unknown"),
        ("boot", about.boot or "unknown"),
        ("uptime", ran),
    )
    lines = [f"{HEAD}{about.number}", *(f"{name + ':':<9}{' '.join(value.split())}" for name, value in head)]
    for section in sections:
        lines += ["", f"{_RULE} {section.title} ({section.source}) {_RULE}", section.text.rstrip("\n")]
    return "\n".join(lines) + "\n"


def parse(text: str) -> About | None:
    """The head of a report; None if the text is none, or the file is damaged."""
    first, *lines = text.partition("\n\n")[0].splitlines() or [""]
    number = first.removeprefix(HEAD)
    if number == first or not number.isdigit():
        return None
    said = dict(line.split(":", 1) for line in lines if ":" in line)
    value = {name: "" if text.strip() == "unknown" else text.strip() for name, text in said.items()}
    ran = value.get("uptime", "").removesuffix(" s")
    return About(
        int(number),
        value.get("reset", "") or "unknown",
        value.get("cause", ""),
        value.get("found", ""),
        value.get("version", ""),
        value.get("boot", ""),
        int(ran) if ran.isdigit() else None,
    )
