"""Tries a model on a few of its requests before it is kept: one finite score a candidate, of values that fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import UsageError
from rbserve.core.requests import TEXT, Signature
from rbserve.core.types import Scorer
from rbserve.data.request_set import RequestSet
from rbserve.runtimes.request_scores import score_request

BLOCK = 1 << 20
SAME = 1e-4
"""Scores of a candidate alone and in a slate that differ by more, relative to the larger of 1 and themselves, depend
on the slate: rounding differs less."""


def check_scores(scorer: Scorer, signature: Signature, requests: RequestSet) -> list[str]:
    """Scores the first request, the last, the largest and a single candidate.

    Returns a line where the score of a candidate depends on the others of its request. Raises UsageError where values
    of a column do not fit the input that they fill, where the model fails, and where its scores are not one finite
    number for each candidate.
    """
    check_values(signature, requests)
    largest = int(np.argmax(np.diff(requests.offsets)))
    scores = {
        number: score_request(scorer, signature, requests, number)
        for number in dict.fromkeys((0, largest, len(requests) - 1))
    }[largest]
    (alone,) = score_request(scorer, signature, requests, largest, requests.offsets[[largest]])
    if signature.fixed_slate == 1 or abs(alone - scores[0]) <= SAME * max(1.0, abs(scores[0])):
        return []
    return [
        f"The score of a candidate depends on the others of its request: {alone:.4g} alone, {scores[0]:.4g} among "
        f"{len(scores)}."
    ]


def check_values(signature: Signature, requests: RequestSet) -> None:
    """Raises UsageError for a column of fractions, missing or too large values that fills an input of whole numbers."""
    for spec in signature.inputs:
        if spec.dtype == TEXT or spec.dtype.startswith("float"):
            continue
        low, high = (0, 1) if spec.dtype == "bool" else _limits(spec.dtype)
        for name in spec.columns:
            values = requests.column(name).values
            if (bad := _first_bad(values, low, high)) is not None:
                raise UsageError(
                    f"the column {name} has the value {bad}, and the input {spec} takes whole numbers "
                    f"from {low} to {high}",
                    f"--map {spec.name}=COLUMN,… names other columns",
                )


def _limits(dtype: str) -> tuple[int, int]:
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _first_bad(values: NDArray[Any], low: int, high: int) -> Any | None:
    """The first value that is no whole number between two limits."""
    for block in _blocks(values):
        with np.errstate(invalid="ignore"):
            fits = (block >= low) & (block <= high) & (block == np.trunc(block))
        if not fits.all():
            return block[np.argmax(~fits)].item()
    return None


def _blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    flat = values.reshape(-1)
    for begin in range(0, len(flat), BLOCK):
        yield np.asarray(flat[begin : begin + BLOCK])
