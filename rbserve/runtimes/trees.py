"""Trees of a zoo row, scored by LightGBM or as an ONNX graph: both are functions of one matrix of all fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbserve.core.fields import CODES, NUMBERS, USER_CODES, USER_NUMBERS, Layout, columns_of
from rbserve.core.requests import CANDIDATES, Request
from rbserve.core.types import Scores, Vectors
from rbserve.data.artifact import Artifact

MATRIX = "features"
"""The name of the input of an ONNX graph of trees."""
ORDER = (NUMBERS, CODES, USER_NUMBERS, USER_CODES)
"""The tensors of a layout in the order of the columns. A code is a number there: the more frequent, the lower."""
Function = Callable[[Vectors], NDArray[Any]]
"""The matrix float32[N, columns], C-contiguous -> scores [N], or a column for each class [N, classes]."""


class TreeScorer:
    """Scores requests that have the tensors of a layout with a function of their matrix.

    `ranks`: what the trees give is no probability, and is brought between 0 and 1.
    """

    def __init__(self, function: Function, layout: Layout, ranks: bool) -> None:
        self._function, self._tensors, self._ranks = function, [*layout.tensors], ranks

    def score(self, request: Request) -> Scores:
        """Scores float32[N]: click probabilities, or, of trees that rank, numbers in the same order."""
        candidates = len(request[CANDIDATES])
        if not candidates:
            return np.zeros(0, np.float32)
        scores = np.asarray(self._function(tree_matrix(request, self._tensors, candidates)))
        if scores.ndim > 1:
            scores = scores[:, -1]  # of two classes, the probability of the second
        if self._ranks:
            scores = 1 / (1 + np.exp(-scores.astype(np.float64)))
        return scores.astype(np.float32)


def tree_scorer(artifact: Artifact, function: Function) -> TreeScorer:
    """The scorer of a row of trees with a function of their matrix."""
    return TreeScorer(function, artifact.layout, artifact.manifest.config["objective"] == "lambdarank")


def tree_matrix(tensors: Mapping[str, NDArray[Any]], names: list[str], rows: int) -> Vectors:
    """The tensors of a layout side by side, float32[rows, columns]; what has one row is repeated."""
    parts = [tensors[name] for name in ORDER if name in names]
    if len(parts) == 1 and len(parts[0]) == rows:
        return np.ascontiguousarray(parts[0], np.float32)
    return np.concatenate(
        [np.broadcast_to(part, (rows, part.shape[1])) for part in parts], axis=1, dtype=np.float32
    )


def column_names(layout: Layout) -> list[str]:
    """The name of each column of the matrix."""
    sides = (layout.numbers, layout.codes, layout.user_numbers, layout.user_codes)
    return [
        spec.name if spec.width == 1 else f"{spec.name}.{place}"
        for side in sides
        for spec in side
        for place in range(columns_of([spec]))
    ]
