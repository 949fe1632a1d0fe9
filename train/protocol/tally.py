"""Counts of the raw rows that reading dropped or repaired, by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts that every reader adds to, so that nothing is lost or changed silently.

    `dropped` counts raw rows and items that were left out, `repaired` those that were kept after a repair, by reason.
    `examples` has the first case of each reason, to be shown in an error; it may hold personal data and is never saved.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict, compare=False)

    def drop(self, reason: str, example: str) -> None:
        """Counts a row or item that is dropped."""
        self.dropped[reason] += 1
        self.examples.setdefault(reason, example)

    def mend(self, reason: str, example: str) -> None:
        """Counts a row or item that is kept after a repair."""
        self.repaired[reason] += 1
        self.examples.setdefault(reason, example)

    def add(self, other: Tally) -> None:
        """Adds the counts of another part of the raw rows."""
        self.dropped.update(other.dropped)
        self.repaired.update(other.repaired)
        for reason, example in other.examples.items():
            self.examples.setdefault(reason, example)

    def clear(self) -> None:
        """Forgets all counts, before the rows are read again."""
        for counts in (self.dropped, self.repaired, self.examples):
            counts.clear()
