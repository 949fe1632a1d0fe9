"""Scores of requests of a user's table, and in one line what keeps a user's model from giving them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import RbserveError, UsageError, first_line, memory_told
from rbserve.core.requests import Request, Signature
from rbserve.core.types import Scorer, Scores
from rbserve.data.request_set import RequestSet

PLACES = (
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : ",
    r"^Load model from .*? failed: ?",
    r"^.*Status Message: ",
    r"^\[[\d:]+\] ",
    r"^\S+\.(cc|cpp|h):\d+:? ",
)
"""What libraries put before their message: codes, times, and lines of their own source."""


def score_request(
    scorer: Scorer,
    signature: Signature,
    requests: RequestSet,
    number: int,
    rows: NDArray[np.int64] | None = None,
) -> Scores:
    """The scores float32[N] of request `number`, with its own candidates or those of `rows` int64[N].

    Raises UsageError where the columns do not fill the model's inputs, where the model fails, and where it does not
    give each candidate a finite score.
    """
    rows = np.arange(*requests.offsets[number : number + 2]) if rows is None else rows
    where = f"request {number} of {requests.manifest.source}"
    request = _request(signature, requests, rows, number, where)
    with failures_told(f"{where} ({len(rows)} candidates)"):
        scores = scorer.score(request)
    if scores.shape != (len(rows),):
        raise UsageError(
            f"the output {signature.score} has {scores.size} values for the {len(rows)} candidates of {where}, not "
            "one a candidate",
            "name the output with --score, the dimension of the candidates with --slate-dim",
        )
    if not np.isfinite(scores).all():
        place = int(np.argmax(~np.isfinite(scores)))
        raise UsageError(
            f"the score of candidate {place} of {where} is {scores[place]}",
            _missing_values(signature, requests, int(rows[place]), number)
            or "a score must be finite: see what the model was exported with",
        )
    return scores


@contextmanager
def failures_told(where: str) -> Iterator[None]:
    """Turns whatever a user's model raises into UsageError, which says in one line why; `where` names the request."""
    try:
        with memory_told(
            f"scoring {where}", "see how large the model's tensors are, or take a smaller request"
        ):
            yield
    except RbserveError:
        raise
    except Exception as error:
        raise UsageError(
            f"the model fails on {where}: {reason_of(error)}",
            "see that its inputs are filled with the columns that it was trained with: --map",
        ) from error


def reason_of(error: BaseException) -> str:
    """The first line of a library's error, without codes and places in the library's source."""
    text = first_line(error)
    for place in PLACES:
        text = re.sub(place, "", text)
    return text or type(error).__name__


def _request(
    signature: Signature, requests: RequestSet, rows: NDArray[np.int64], number: int, where: str
) -> Request:
    try:
        return requests.request_of(signature, rows, number)
    except ValueError as error:
        filled = ", ".join(f"{spec} from {', '.join(spec.columns)}" for spec in signature.inputs)
        raise UsageError(
            f"{where} does not fill the inputs {filled}: {reason_of(error)}",
            "--map INPUT=COLUMN,… names the columns of an input",
        ) from error


def _missing_values(signature: Signature, requests: RequestSet, row: int, number: int) -> str | None:
    """Which column of a row has no finite value, as a hint."""
    for name in signature.columns:
        column = requests.column(name)
        value = column.one(row if column.record.scope == "candidate" else number)
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            return f"the column {name} is {value[~np.isfinite(value)].flat[0]} there, which the model cannot take"
    return None
