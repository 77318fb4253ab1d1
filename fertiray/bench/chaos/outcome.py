"""What became of an attempt at a door."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What became of an attempt.

    Attributes:
        files: that were tried.
        kinds: of them, counted.
        pictures: that came out whole.
        rejects: by reason.
        answers: by HTTP status, or by what became of an archive.
        wrong: what must not happen, in words.
    """

    files: int = 1
    kinds: Counter[str] = field(default_factory=Counter)
    pictures: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def check(self, holds: bool, otherwise: str) -> None:
        """Notes what is wrong where something does not hold."""
        if not holds:
            self.wrong.append(otherwise)


Attempt = Callable[[int], Outcome]
