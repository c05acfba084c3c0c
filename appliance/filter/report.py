# SPDX-License-Identifier: GPL-2.0-only
"""How a set of filters was merged and what it costs, for `show rules`. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Report:
    """How one set was generated."""

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
    load_s: float = 0.0
    expected_ns: int = 0  # estimated time of the search for the rule, for the choice of the flow cache
    cached: bool = False  # behind the flow cache
    joined: bool = False  # with the core, in one program
    why_cached: str = ""  # or why not
    not_keyed: int | None = None  # the first rule that a flow's key does not decide
    straight: dict[int, str] = field(default_factory=dict)  # rule -> why it is tested by itself
    unreachable: tuple[int, ...] = ()  # rules that an earlier equal one hides
