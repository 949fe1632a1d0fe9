"""The tensors of a model that reads fields (`core/fields.py`), made of a request by one code in training and serving.

A request has history and candidates and, where the data set has such fields, an entry for each field of the user and of
the context: of the user one value, of the context one value or one a candidate. An entry of a field of the items
(`item.price`) has a value for each candidate, which counts for candidates without a row. What is left out is missing.
`tensors` takes R rows of training as well: R candidates, with R values of each entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rbserve.core.fields import (
    CODES,
    COUNTED,
    MISSING,
    NUMBERS,
    TIME,
    USER_CODES,
    USER_NUMBERS,
    FieldSpec,
    Layout,
)
from rbserve.core.requests import Request, slate_of
from rbserve.core.types import Items, Vectors

NO_ROW = np.iinfo(np.int32).max
"""The number of a candidate, or of an item of a history, that has no row in any table."""


class Counter(Protocol):
    """Counts of training rows, as features of a history and its candidates."""

    @property
    def names(self) -> Sequence[str]:
        """The features, in the order of their columns."""
        ...

    def features(self, history: Items, candidates: Items, time: int | None) -> Vectors:
        """float32[N, len(names)] of candidates int32[N] for history int32[T]; NaN where nothing is known.

        A row depends on the history, its own candidate and `time` alone: not on the other candidates, to the bit.
        `time` is that of the request in the unit of the data set; None: when the counts end.
        """
        ...


class FeatureMaker:
    """Makes the tensors of a layout. `items` has the values of each of its item fields: a row an item of the table."""

    def __init__(
        self, layout: Layout, items: Mapping[str, NDArray[Any]], counter: Counter | None = None
    ) -> None:
        self.layout, self._items, self._counter = layout, items, counter
        names = [*counter.names] if counter else []
        self._counted = [names.index(spec.name) for spec in layout.counted]

    def tensors(self, request: Request) -> dict[str, NDArray[Any]]:
        """The tensors of `Layout.tensors`; those of the user [1, columns], or [R, columns] of R rows of training.

        An entry COUNTED has the counted features of the candidates, float32[N, all of them], where they are known.
        """
        _, candidates = slate_of(request)
        made = {}
        if self.layout.numbers:
            made[NUMBERS] = self._candidate_numbers(request, candidates)
        if self.layout.codes:
            columns = [self._of_candidates(spec, request, candidates) for spec in self.layout.codes]
            made[CODES] = _side_by_side(columns, len(candidates), np.int32)
        if self.layout.user_numbers:
            made[USER_NUMBERS] = _of_user(self.layout.user_numbers, request, np.float32)
        if self.layout.user_codes:
            made[USER_CODES] = _of_user(self.layout.user_codes, request, np.int32)
        return made

    def _candidate_numbers(self, request: Request, candidates: Items) -> Vectors:
        columns = [
            self._of_candidates(spec, request, candidates)
            for spec in self.layout.numbers
            if spec.scope != "counted"
        ]
        if self._counted:
            counts = self._counts(request)
            in_order = self._counted == [*range(counts.shape[1])]
            columns.append(counts if in_order else counts[:, self._counted])
        return _side_by_side(columns, len(candidates), np.float32)

    def _counts(self, request: Request) -> Vectors:
        known = request.get(COUNTED)
        if known is not None:
            return known
        assert self._counter is not None
        time = request.get(TIME)
        return self._counter.features(*slate_of(request), None if time is None else int(time[0]))

    def _of_candidates(self, spec: FieldSpec, request: Request, candidates: Items) -> NDArray[Any]:
        """A field of an item or of the context, [N, width]; [1, width] where it is the same of all candidates."""
        if spec.scope == "item":
            values = self._items[spec.name]
            known = candidates < len(values)  # items that were added since have no fields
            own = values[np.where(known, candidates, 0)].reshape(len(candidates), -1)
            return own if known.all() else np.where(known[:, None], own, _of_request(spec, request))
        return _of_request(spec, request)


def _of_user(fields: Sequence[FieldSpec], request: Request, dtype: type[np.generic]) -> NDArray[Any]:
    columns = [_of_request(spec, request) for spec in fields]
    return _side_by_side(columns, max(map(len, columns)), dtype)


def _of_request(spec: FieldSpec, request: Request) -> NDArray[Any]:
    """A field that is an entry of the request, [1 or more, width]."""
    values = request.get(spec.entry)
    return _nothing(spec) if values is None else np.asarray(values).reshape(-1, spec.width)


def _nothing(spec: FieldSpec) -> NDArray[Any]:
    """The value [1, width] of a field of which nothing is known."""
    if spec.is_number:
        return np.full((1, 1), np.nan, np.float32)
    return np.full((1, spec.width), MISSING, np.int32)


def _side_by_side(columns: Sequence[NDArray[Any]], rows: int, dtype: type[np.generic]) -> NDArray[Any]:
    """The columns [1 or `rows`, width] as one tensor of so many rows; filling it is cheaper than NumPy's joining."""
    if len(columns) == 1 and len(columns[0]) == rows:
        return columns[0].astype(dtype, copy=False)
    made = np.empty((rows, sum(column.shape[1] for column in columns)), dtype)
    end = 0
    for column in columns:
        begin, end = end, end + column.shape[1]
        made[:, begin:end] = column
    return made
