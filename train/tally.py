"""What reading raw files left out and what it mended, by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Counts that every reader adds to, so that nothing is lost or changed without a word.

    `dropped` counts raw rows and items that were left out, `repaired` those that were kept after
    something in them was mended; each by the named reason.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
