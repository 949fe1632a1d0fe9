"""Real requests of test users, for timed calls of a model and as JSON for a server."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.fields import TIME
from rbserve.core.requests import is_of_request
from rbserve.core.types import Items
from rbserve.data.columns import Ragged
from rbserve.data.dataset import NO_EXTRAS, CtrSplit, Dataset, Extras, ItemTable, SeqSplit
from rbserve.data.request_set import RequestSet
from rbserve.features.coding import FieldCoder

NO_CODERS: Mapping[str, FieldCoder] = {}
REQUESTS = 256  # varied requests a slate
EXTRA = "_extra."
"""What stands between a name of test rows or a slate and that of a field, in the file that workers read."""


class Requests(NamedTuple):
    """R histories, and candidates int32[R, slate] where a model scores pairs.

    `extras` are the fields of the user and of the context (`core/fields.py`), of data sets that have fields: of each
    request one value, [R, 1, …], or one a candidate, [R, slate, …].
    """

    histories: Ragged
    candidates: Items | None
    extras: Extras = NO_EXTRAS

    def extras_of(self, row: int, entries: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
        """What a request has beside history and candidates: all of it, or those of some entries."""
        chosen = self.extras if entries is None else self.extras.keys() & {*entries}
        return {name: self.extras[name][row] for name in chosen}


def draw(rng: np.random.Generator, test: CtrSplit | SeqSplit, slate: int, catalogue: int) -> Requests:
    """At most 256 requests of a test split.

    A pair-wise request of slate 1 is a test row as it is; a longer slate is a test user's history and that many
    items of the catalogue, drawn without repetition where the catalogue has enough. Where no row has a history, a slate
    is of test rows, each with its context. A list-wise request is a history.
    """
    rows = rng.choice(len(test), size=min(REQUESTS, len(test)), replace=False)
    histories = test.histories.take(rows)
    if isinstance(test, SeqSplit):
        return Requests(histories, None)
    if test.extras and not len(histories.values):
        return _slates_of_rows(rng, test, rows, slate)
    extras = {name: column[rows][:, None] for name, column in test.extras.items()}
    return Requests(histories, _slates(rng, test.candidates[rows], slate, catalogue), extras)


def draw_table(
    rng: np.random.Generator, offsets: NDArray[np.int64], most: int, among: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The numbers of at most `most` requests of a request set, in random order, to be timed with their own candidates.

    They lie at even distances in the requests ordered by size, the smallest and the largest among them: few requests
    have the distribution of sizes of all.
    """
    numbers = _with_candidates(offsets, among)
    shuffled = rng.permutation(numbers)
    by_size = shuffled[np.argsort(offsets[shuffled + 1] - offsets[shuffled], kind="stable")]
    places = np.linspace(0, len(by_size) - 1, min(most, len(by_size))).round().astype(np.int64)
    return rng.permutation(by_size[places])


class RowRequests(NamedTuple):
    """R requests of a request set: their numbers int64[R], and the rows int64[R, slate] of their candidates."""

    requests: NDArray[np.int64]
    rows: NDArray[np.int64]


def draw_rows(
    rng: np.random.Generator, offsets: NDArray[np.int64], slate: int, among: NDArray[np.int64] | None = None
) -> RowRequests:
    """At most 256 requests of a request set with `slate` candidates each, drawn from all requests or `among` some.

    A request keeps its own candidates, or as many of them as the slate holds, in their order; what the slate lacks is
    drawn from all rows of the table.
    """
    numbers = _with_candidates(offsets, among)
    drawn = rng.choice(numbers, size=min(REQUESTS, len(numbers)), replace=False)
    total = int(offsets[-1])
    rows = [
        _slate_rows(rng, int(offsets[number]), int(offsets[number + 1]), slate, total) for number in drawn
    ]
    return RowRequests(drawn, np.stack(rows))


def _with_candidates(offsets: NDArray[np.int64], among: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The numbers of the requests, of all or `among` some, that have candidates."""
    numbers = np.arange(len(offsets) - 1) if among is None else among
    return numbers[offsets[numbers] < offsets[numbers + 1]]


def _slate_rows(rng: np.random.Generator, begin: int, end: int, slate: int, total: int) -> NDArray[np.int64]:
    own = np.arange(begin, end)
    if len(own) > slate:
        return np.sort(rng.choice(own, slate, replace=False))
    return np.concatenate([own, rng.integers(total, size=slate - len(own))])


def bodies(
    requests: Requests,
    items: ItemTable,
    k: int,
    model: str,
    coders: Mapping[str, FieldCoder] = NO_CODERS,
    timed: bool = False,
) -> list[bytes]:
    """Requests as JSON bodies for POST /v1/score, or, with `k` items, for POST /v1/recommend, of a server's model.

    `coders` are those of the fields of the user and of the context that the model reads, by entry (`request_coders`).
    `timed`: the model reads the time of a request.
    """
    messages: list[dict[str, object]] = []
    for row in range(len(requests.histories)):
        history = items.names(requests.histories[row])
        if requests.candidates is None:
            messages.append({"model": model, "history": history, "k": k})
        else:
            candidates = items.names(requests.candidates[row])
            fields = request_values(requests.extras_of(row), coders, timed)
            messages.append({"model": model, "history": history, "candidates": candidates, **fields})
    return [msgspec.json.encode(body) for body in messages]


def request_coders(dataset: Dataset, names: Collection[str]) -> dict[str, FieldCoder]:
    """By entry, what codes the fields of the user and of the context among `names`."""
    sent = (spec for spec in dataset.manifest.fields if spec.scope in ("user", "context"))
    return {spec.entry: FieldCoder(spec, dataset.field_values(spec)) for spec in sent if spec.name in names}


def request_values(
    extras: Extras, coders: Mapping[str, FieldCoder], timed: bool = False
) -> dict[str, dict[str, object] | int]:
    """The fields of a request as a server takes them, {"user": {…}, "context": {…}}, and its time where it is `timed`.

    `extras` has one value of each, or of the context one for each candidate.
    """
    body: dict[str, Any] = {TIME: int(extras[TIME].flat[0])} if timed and TIME in extras else {}
    for entry, coder in coders.items():
        scope, _, name = entry.partition(".")
        values = [coder.raw(value) for value in extras[entry].reshape(-1, coder.spec.width)]
        body.setdefault(scope, {})[name] = values[0] if len(values) == 1 else values
    return body


def feature_bodies(
    requests: RequestSet, features: Sequence[str], drawn: RowRequests, model: str
) -> list[bytes]:
    """Requests as JSON bodies for POST /v1/score of an adopted model, by the columns that are its named features."""
    named = (
        requests.named_values(features, rows, number)
        for number, rows in zip(drawn.requests.tolist(), drawn.rows, strict=True)
    )
    return [msgspec.json.encode({"model": model, "features": values}) for values in named]


def _slates_of_rows(
    rng: np.random.Generator, test: CtrSplit, rows: NDArray[np.int64], slate: int
) -> Requests:
    """Requests of test rows, filled up with other test rows."""
    drawn = np.column_stack([rows, rng.integers(len(test), size=(len(rows), slate - 1))])
    extras = {
        name: column[drawn[:, :1] if is_of_request(name) else drawn] for name, column in test.extras.items()
    }
    return Requests(test.histories.take(rows), np.ascontiguousarray(test.candidates[drawn]), extras)


def _slates(rng: np.random.Generator, candidates: Items, slate: int, catalogue: int) -> Items:
    """Candidates int32[R, slate] of R requests."""
    if slate == 1:
        return candidates[:, None]
    drawn = [rng.choice(catalogue, slate, replace=slate > catalogue) for _ in candidates]
    return np.ascontiguousarray(np.stack(drawn), np.int32)
