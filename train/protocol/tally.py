"""What reading raw files left out and what it mended, by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts that every reader adds to, so that nothing is lost or changed without a word.

    `dropped` counts raw rows and items that were left out, `repaired` those that were kept after
    something in them was mended; each by the named reason. `examples` has the first case of a reason, to be
    shown in an error: it may hold what the user's rows hold, and is written nowhere.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict, compare=False)

    def drop(self, reason: str, example: str) -> None:
        """Counts a row or item that is left out."""
        self.dropped[reason] += 1
        self.examples.setdefault(reason, example)

    def mend(self, reason: str, example: str) -> None:
        """Counts a row or item that is kept, though not as it stands in the file."""
        self.repaired[reason] += 1
        self.examples.setdefault(reason, example)
