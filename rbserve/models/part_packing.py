"""Parts of prompts for one call of a model that attends by parts (`part_attention.py`). NumPy alone.

A part is a run of tokens that attend to what was read before and, from left to right, to one another: a prefix with
its first suffix, or a suffix behind a prefix that is in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rbserve.models.prompts import Tokens


class PackedParts:
    """N parts end to end, L tokens in all, after P tokens that were read before; S tokens has the longest part.

    tokens int64[L]; positions int64[L]; own int64[N, S], the tokens of each part, its last one again where it is
    shorter; place int64[L], where each token stands among those N * S; read int64[N], where the answers stand, one for
    each part.
    """

    rows = 1

    def __init__(
        self, tokens: Tokens, positions: Tokens, own: NDArray[np.int64], place: Tokens, read: Tokens
    ) -> None:
        self.tokens, self.positions, self.own, self.place, self.read = tokens, positions, own, place, read

    @property
    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """By the names that the model's graph gives them."""
        return {
            "tokens": self.tokens, "positions": self.positions, "own": self.own, "place": self.place,
            "read": self.read,
        }  # fmt: skip


def pack_parts(parts: Sequence[Tokens], before: int, read_from_end: int = 0) -> PackedParts:
    """Lays out parts int64[T], at positions that begin at `before`, the number of tokens in the cache.

    Each answer stands before the last `read_from_end` tokens of its part.
    """
    lengths = np.array([len(part) for part in parts])
    begins, longest = np.cumsum(lengths) - lengths, int(lengths.max())
    within = np.arange(lengths.sum()) - np.repeat(begins, lengths)
    steps = np.minimum(np.arange(longest), lengths[:, None] - 1)
    return PackedParts(
        tokens=np.concatenate(parts),
        positions=before + within,
        own=begins[:, None] + steps,
        place=np.repeat(np.arange(len(parts)) * longest, lengths) + within,
        read=begins + lengths - 1 - read_from_end,
    )
