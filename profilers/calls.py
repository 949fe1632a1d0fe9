"""What one timed call is, and the requests it is called with: for each task and scope.

| | forward | end_to_end |
|---|---|---|
| ctr | rows of history and candidates -> scores | raw ids -> scores |
| seqrec | rows of history, k -> rows and scores | raw ids, k -> raw ids and scores |

The server makes the same calls of the same `Scorer` or `Ranker`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from rbserve.core.dataset import ItemTable
from rbserve.core.types import Items, Ranker, Scorer, Scores, StagedRanker
from rbserve.endpoint import EndpointScorer
from rbserve.profilers.latency import Request
from rbserve.runtime import recommend

Call = Callable[..., object]


class Exercise(NamedTuple):
    """A function to time, and what to call it with."""

    call: Call
    requests: list[Request]


def pair_wise(
    scorer: Scorer, histories: Sequence[Items], slates: Sequence[Items], items: ItemTable | None = None
) -> Exercise:
    """Scoring a slate: of rows of the item table, or end to end of the raw ids that `items` knows."""
    requests = list(zip(histories, slates, strict=True))
    call = scorer.score_anew if isinstance(scorer, EndpointScorer) else scorer.score
    if items is None:
        return Exercise(call, [*requests])

    def score(history: list[str], candidates: list[str]) -> Scores:
        return call(items.lookup(history), items.lookup(candidates))

    return Exercise(score, [(items.names(history), items.names(slate)) for history, slate in requests])


def list_wise(
    ranker: Ranker, histories: Sequence[Items], k: int, exclude_seen: bool, items: ItemTable | None = None
) -> Exercise:
    """Ranking the catalogue: from rows of the item table to such rows, or end to end from raw ids to raw ids."""
    if items is None:
        ranked = partial(recommend, ranker, exclude_seen=exclude_seen)
        return Exercise(ranked, [(history, k) for history in histories])

    def recommended(history: list[str], k: int) -> tuple[list[str], Scores]:
        found, scores = recommend(ranker, items.lookup(history), k, exclude_seen)
        return items.names(found), scores

    return Exercise(recommended, [(items.names(history), k) for history in histories])


def staged(ranker: StagedRanker, histories: Sequence[Items], k: int, exclude_seen: bool) -> Exercise:
    """The same rankings from rows to rows, by a call that takes an observer of stages as well."""
    return Exercise(
        ranker.top_k_staged, [(history, k + exclude_seen * len(history)) for history in histories]
    )
