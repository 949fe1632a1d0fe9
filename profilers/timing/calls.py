"""What one timed call is, and the requests it is called with: for each task and scope.

| | forward | end_to_end |
|---|---|---|
| ctr | rows of history and candidates -> scores | raw ids -> scores |
| seqrec | rows of history, k -> rows and scores | raw ids, k -> raw ids and scores |
| an adopted model | its tensors -> scores | Python values by column -> scores |

Scope `warm` is forward of a language model that has read the user's history at an earlier request.

The server makes the same calls of the same `Scorer` or `Ranker`. Each can also be made with an observer of its stages:
`lookup` of the raw ids and their `names`, and the `tensors` of an adopted model, are told here, what lies between by
the model, or is its `forward`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from rbserve.core.requests import Request as Tensors
from rbserve.core.requests import Signature, slate_request
from rbserve.core.types import Items, Observe, Ranker, Scorer, Scores, StagedRanker, StagedScorer
from rbserve.data.dataset import ItemTable
from rbserve.data.request_set import tensors_of
from rbserve.profilers.timing.latency import Request
from rbserve.runtimes.endpoint_scorer import EndpointScorer
from rbserve.runtimes.evaluate import recommend, without_seen

Call = Callable[..., Any]
Ranked = tuple[Items, Scores]


class Exercise(NamedTuple):
    """A function to time and its requests. `observed` is that function with an observer as its last argument."""

    call: Call
    requests: list[Request]
    observed: Call


def pair_wise(
    scorer: Scorer,
    histories: Sequence[Items],
    slates: Sequence[Items],
    items: ItemTable | None = None,
    extras: Sequence[Tensors] = (),
) -> Exercise:
    """Scoring a slate: rows of the item table in, or, end to end, raw ids that are looked up in `items`.

    `extras` has the fields that each request has as well: codes and numbers, in both scopes.
    """
    call = scorer.score_anew if isinstance(scorer, EndpointScorer) else scorer.score
    staged = _staged(scorer, call)
    fields = extras or [{}] * len(histories)
    if items is None:
        slate_requests = map(slate_request, histories, slates)
        requests = [{**request, **more} for request, more in zip(slate_requests, fields, strict=True)]
        return Exercise(call, [(request,) for request in requests], staged)

    def score(history: list[str], candidates: list[str], more: Tensors) -> Scores:
        return call({**slate_request(items.lookup(history), items.lookup(candidates)), **more})

    def observed(history: list[str], candidates: list[str], more: Tensors, observe: Observe) -> Scores:
        request = {**slate_request(items.lookup(history), items.lookup(candidates)), **more}
        observe("lookup")
        scores: Scores = staged(request, observe)
        return scores

    named = [
        (items.names(history), items.names(slate), more)
        for history, slate, more in zip(histories, slates, fields, strict=True)
    ]
    return Exercise(score, [*named], observed)


def adopted(scorer: Scorer, requests: Sequence[Tensors]) -> Exercise:
    """Scoring requests of an adopted model: the tensors of its signature in."""
    return Exercise(scorer.score, [(request,) for request in requests], _staged(scorer, scorer.score))


def adopted_end_to_end(
    scorer: Scorer, signature: Signature, requests: Sequence[tuple[Mapping[str, Any], int]]
) -> Exercise:
    """Scoring requests of an adopted model, from Python values by column, as JSON has them, and the slate's size."""
    staged = _staged(scorer, scorer.score)

    def score(values: Mapping[str, Any], slate: int) -> Scores:
        return scorer.score(tensors_of(signature, values, slate))

    def observed(values: Mapping[str, Any], slate: int, observe: Observe) -> Scores:
        request = tensors_of(signature, values, slate)
        observe("tensors")
        scores: Scores = staged(request, observe)
        return scores

    return Exercise(score, [*requests], observed)


def list_wise(
    ranker: Ranker, histories: Sequence[Items], k: int, exclude_seen: bool, items: ItemTable | None = None
) -> Exercise:
    """Ranking the catalogue: from rows of the item table to such rows, or end to end from raw ids to raw ids."""
    ranked = partial(recommend, ranker, exclude_seen=exclude_seen)
    staged = partial(_recommend_staged, ranker, exclude_seen)
    if items is None:
        return Exercise(ranked, [(history, k) for history in histories], staged)

    def recommended(history: list[str], k: int) -> tuple[list[str], Scores]:
        rows, scores = ranked(items.lookup(history), k)
        return items.names(rows), scores

    def observed(history: list[str], k: int, observe: Observe) -> tuple[list[str], Scores]:
        rows = items.lookup(history)
        observe("lookup")
        best, scores = staged(rows, k, observe)
        names = items.names(best)
        observe("names")
        return names, scores

    return Exercise(recommended, [(items.names(history), k) for history in histories], observed)


def _staged(scorer: Scorer, call: Call) -> Call:
    """A scorer's call with an observer as its last argument."""
    return scorer.score_staged if isinstance(scorer, StagedScorer) else partial(_one_stage, call)


def _recommend_staged(ranker: Ranker, exclude_seen: bool, history: Items, k: int, observe: Observe) -> Ranked:
    """The k best items; leaving out those of the history is a stage of its own."""
    wanted = k + len(history) if exclude_seen else k
    staged = ranker.top_k_staged if isinstance(ranker, StagedRanker) else partial(_one_stage, ranker.top_k)
    ranked_items: Ranked = staged(history, wanted, observe)
    if exclude_seen:
        ranked_items = without_seen(history, k, *ranked_items)
        observe("exclude_seen")
    return ranked_items


def _one_stage(call: Call, *arguments: Any) -> Any:
    """A call that has no stages of its own; the observer is its last argument."""
    *request, observe = arguments
    result = call(*request)
    observe("forward")
    return result
