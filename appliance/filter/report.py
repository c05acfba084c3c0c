# SPDX-License-Identifier: GPL-2.0-only
"""What became of a set of filters: how it was merged and what it costs, for `show rules`. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

SLOW_S: Final = 1.0
"""A set that takes longer to load is worth a remark: a commit waits for it, and so does the start of bypassd."""


@dataclass
class Report:
    """How one generated set came out."""

    rules: int
    method: str  # "chain" | "merged" | "several graphs"
    why: str = ""  # why not merged, or merged in several graphs
    programs: int = 0
    instructions: int = 0  # of the way that ordinary frames take
    other_instructions: int = 0  # of the programs for frames in pieces, or with the VLAN tag beside them
    table_bytes: int = 0
    states: int = 0
    leaves: int = 0
    bit_vector_leaves: int = 0
    generate_s: float = 0.0
    load_s: float = 0.0  # with what was tried in vain
    refused: str = ""  # why the kernel did not take a better form
    expected_ns: int = 0  # what the search for the rule is thought to take, for the choice of the flow cache
    cached: bool = False  # behind the flow cache
    joined: bool = False  # with the core, in one program
    why_cached: str = ""  # or why not
    not_keyed: int | None = None  # the first rule that a flow's key does not decide
    straight: dict[int, str] = field(default_factory=dict)  # rule -> why it is tested by itself
    unreachable: tuple[int, ...] = ()  # rules that an earlier equal one hides

    def remark(self) -> str:
        """What somebody should know before these rules are committed; "" when there is nothing."""
        slow = f"its rules take {self.load_s:.1f} s to load" if self.load_s > SLOW_S else ""
        if not self.refused:
            return slow
        how = "rule by rule" if self.method == "chain" else "apart from the rest of the datapath"
        plain = f"its rules are tested {how}, which takes longer for each frame: {self.refused}"
        return f"{slow}; {plain}" if slow else plain
