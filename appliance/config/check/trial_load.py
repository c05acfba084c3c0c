# SPDX-License-Identifier: GPL-2.0-only
"""What the kernel of this machine says of a configuration's rules, before anybody commits them.

How long the verifier takes cannot be told from a set's size: it follows from how the rules branch. So they are loaded,
attached to nothing, and let go. That takes root; where the kernel cannot be asked, nothing is said.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from appliance.config.check.lint import Finding
from appliance.config.schema.model import Config
from appliance.errors import BypassError

FEW = 6
"""So few rules are loaded in no time."""


def slow_rules(config: Config) -> Iterator[Finding]:
    """Segments whose rules load slowly, or only in a plain form."""
    from appliance.filter.compiler import compile_filter, load_classifier

    if os.geteuid() != 0:
        return
    known: dict[tuple[str, ...], str] = {}
    for segment in config.segment:
        texts = tuple(rule.match.strip() for rule in config.rule if rule.segment in ("", segment.name))
        if len(texts) <= FEW:
            continue
        if texts not in known:
            try:
                loaded = load_classifier([compile_filter(text) for text in texts], kind="xdp")
            except BypassError:
                return  # the kernel cannot be asked, or not about so many rules in one program
            loaded.close()
            known[texts] = loaded.report.remark()
        if known[texts]:
            yield Finding("note", f"segment {segment.name}", known[texts])
