# SPDX-License-Identifier: GPL-2.0-only
"""What became of a set of filters: how it was merged and what it costs, for `show rules`. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    load_s: float = 0.0
    straight: dict[int, str] = field(default_factory=dict)  # rule -> why it is tested by itself
    unreachable: tuple[int, ...] = ()  # rules that an earlier equal one hides

    def lines(self) -> list[str]:
        """The same for a person."""
        text = f"{self.method}: {self.rules} rules, {self.programs} programs, {self.instructions} instructions"
        if self.table_bytes:
            text += f", {self.table_bytes} bytes of tables"
        lines = [text]
        if self.states:
            lines.append(f"{self.states} states, {self.leaves} leaves, {self.bit_vector_leaves} with bit vectors")
        if self.why:
            lines.append(f"why: {self.why}")
        by_reason: dict[str, list[int]] = {}
        for rule, reason in self.straight.items():
            by_reason.setdefault(reason, []).append(rule)
        for reason, rules in by_reason.items():
            lines.append(f"straight ({reason}): rules {', '.join(map(str, rules))}")
        if self.unreachable:
            lines.append(f"hidden by an equal rule before: {', '.join(map(str, self.unreachable))}")
        lines.append(f"generated in {self.generate_s * 1000:.0f} ms, loaded in {self.load_s * 1000:.0f} ms")
        return lines
