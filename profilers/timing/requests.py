"""Real requests of test users, for timed calls of a model and as JSON for a server."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np

from rbserve.core.types import Items
from rbserve.data.columns import Ragged
from rbserve.data.dataset import CtrSplit, ItemTable, SeqSplit

REQUESTS = 256  # varied requests a slate


class Requests(NamedTuple):
    """R histories, and candidates int32[R, slate] where a model scores pairs."""

    histories: Ragged
    candidates: Items | None


def draw(rng: np.random.Generator, test: CtrSplit | SeqSplit, slate: int, catalogue: int) -> Requests:
    """At most 256 requests of a test split.

    A pair-wise request of slate 1 is a test row as it is; a longer slate is a test user's history and that many
    items of the catalogue, drawn without repetition where the catalogue has enough. A list-wise one is a history.
    """
    rows = rng.choice(len(test), size=min(REQUESTS, len(test)), replace=False)
    histories = test.histories.take(rows)
    if isinstance(test, SeqSplit):
        return Requests(histories, None)
    return Requests(histories, _slates(rng, test.candidates[rows], slate, catalogue))


def bodies(requests: Requests, items: ItemTable, k: int, model: str) -> list[bytes]:
    """Requests as JSON bodies for POST /v1/score, or, with `k` items, for POST /v1/recommend, of a server's model."""
    messages: list[dict[str, object]] = []
    for row in range(len(requests.histories)):
        history = items.names(requests.histories[row])
        if requests.candidates is None:
            messages.append({"model": model, "history": history, "k": k})
        else:
            candidates = items.names(requests.candidates[row])
            messages.append({"model": model, "history": history, "candidates": candidates})
    return [msgspec.json.encode(body) for body in messages]


def _slates(rng: np.random.Generator, candidates: Items, slate: int, catalogue: int) -> Items:
    """Candidates int32[R, slate] of R requests."""
    if slate == 1:
        return candidates[:, None]
    drawn = [rng.choice(catalogue, slate, replace=slate > catalogue) for _ in candidates]
    return np.ascontiguousarray(np.stack(drawn), np.int32)
