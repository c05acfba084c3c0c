# SPDX-License-Identifier: GPL-2.0-only
"""A row of questions: each is explained on ?, asked again until its answer is valid, and < leads back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from console.terminal.prompt import Asker

HELP, BACK = "?", "<"


class _BackError(Exception):
    """The user goes back to the question before."""


class Questions:
    """Asks by `asker`. A step may ask nothing, or several questions that belong together."""

    def __init__(self, asker: Asker) -> None:
        self.asker = asker
        self._asked = False

    def run(self, steps: Sequence[Callable[[], None]]) -> None:
        """Run the steps in order; from a question, < leads to the step before that asked something."""
        at, before = 0, list[int]()
        while at < len(steps):
            self._asked = False
            try:
                steps[at]()
            except _BackError:
                at = before.pop() if before else 0
                continue
            if self._asked:
                before.append(at)
            at += 1

    def until(self, trouble: Callable[[str], str], question: str, default: str, about: str) -> str:
        """The first answer without `trouble`, which says why an answer is invalid; `about` explains the question."""
        while True:
            answer = self.asker.line(question, default)
            self._asked = True
            if answer == BACK:
                raise _BackError
            if answer == HELP:
                self.asker.say(about)
                continue
            why = trouble(answer)
            if not why:
                return answer
            self.asker.say(f"Invalid: {why}.")

    def yes(self, question: str, default: bool, about: str) -> bool:
        """The same for yes or no."""

        def trouble(text: str) -> str:
            return "" if text and any(word.startswith(text.lower()) for word in ("yes", "no")) else "answer yes or no"

        answer = self.until(trouble, f"{question} (yes/no)", "yes" if default else "no", about)
        return "yes".startswith(answer.lower())
