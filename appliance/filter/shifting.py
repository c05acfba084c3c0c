# SPDX-License-Identifier: GPL-2.0-only
"""Words of pcap expressions that move what follows them: `vlan`, `mpls` and the like. Pure.

After such a word libpcap looks for everything that follows, to the end of the text, behind the header that the word
stands for. Where a frame comes to what follows only if the word matched, as in `vlan and tcp port 80`, that is what
people mean. Elsewhere it hardly ever is: in `vlan and tcp port 80 or tcp port 80` the second port is looked for in
tagged frames too, and so is the address in `tcp or vlan and ip`, which libpcap reads as `(tcp or vlan) and ip`. Source:
pcap-filter(7), "the remainder of the expression"; `and` and `or` have equal precedence and associate left to right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

WORDS: Final = {
    "vlan": "tagged frames",
    "mpls": "MPLS frames",
    "pppoes": "PPPoE frames",
    "geneve": "Geneve frames",
    "vxlan": "VXLAN frames",
}
"""The words, and the frames in which what follows is looked for."""

_TOKEN: Final = re.compile(r"\[[^\]]*\]?|[!<>=]=|&&|\|\||[()!]|\\?[^\W_][\w.:\\-]*|\S")
_OR: Final = ("or", "||")
_AND: Final = ("and", "&&")
_NOT: Final = ("not", "!")


class Shift(NamedTuple):
    """A word, and the part of the filter behind it that it moves, most likely unasked. `negated`: it is `not WORD`."""

    word: str
    moved: str
    negated: bool


class _Operand(NamedTuple):
    """Part of a filter: the first word in it that moves what follows, and whether only frames that it matches pass."""

    word: str = ""
    certain: bool = False
    negated: bool = False


@dataclass
class _Group:
    """What stands in one pair of parentheses, as far as it was read."""

    negate: bool = False  # `not` stands before the group
    left: _Operand | None = None
    connective: str = ""

    def take(self, right: _Operand) -> None:
        """One more operand; words that follow each other are one."""
        left = self.left or _Operand()
        if not self.connective:
            self.left = left if left.word or not right.word else right
            return
        word = left.word or right.word
        both = left.certain and right.certain
        certain = both if self.connective in _OR else left.certain or right.certain
        self.left, self.connective = _Operand(word, certain, left.negated or (not left.word and right.negated)), ""


def shifted(text: str) -> Iterator[Shift]:
    """The first part of a filter that is moved by a word before it without being meant for the frames of that word."""
    groups, negate, before = [_Group()], False, ""
    tokens = list(_TOKEN.finditer(text))
    for place, found in enumerate(tokens):
        token, group = found[0], groups[-1]
        if token in _NOT:
            negate = True
            continue
        if token == "(":
            groups.append(_Group(negate))
        elif token == ")":
            if len(groups) > 1:
                groups.pop()
                inner = group.left or _Operand()
                groups[-1].take(inner._replace(certain=False, negated=True) if group.negate else inner)
        elif token in (*_AND, *_OR):
            left = group.left or _Operand()
            if left.word and not (left.certain and token in _AND):
                yield Shift(left.word, _operand(text, tokens[place + 1 :]), left.negated)
                return  # one is enough: the text has to be written anew
            group.connective = token
        elif token in WORDS and before != "proto":
            group.take(_Operand(token, certain=not negate, negated=negate))
        else:
            group.take(_Operand())
        negate, before = False, token


def _operand(text: str, tokens: list[re.Match[str]]) -> str:
    """The text of the next operand: to the next connective on the same level."""
    depth, end = 0, len(text)
    begin = tokens[0].start() if tokens else end
    for found in tokens:
        if (found[0] == ")" and not depth) or (not depth and found[0] in (*_AND, *_OR)):
            end = found.start()
            break
        depth += {"(": 1, ")": -1}.get(found[0], 0)
    return " ".join(text[begin:end].split())
