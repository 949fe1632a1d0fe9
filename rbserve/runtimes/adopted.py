"""The scorer of an adopted model: the tensors of its signature in, a score for each candidate out, in any runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbserve.core.requests import SLATE, Request, Signature, TensorSpec
from rbserve.core.types import Scores

Outputs = Sequence[NDArray[Any]]
Run = Callable[[Request], Outputs]
"""Tensors by name -> the outputs of the signature, in its order."""


class AdoptedScorer:
    """Scores with any function of named tensors. A graph that takes a fixed number of candidates is called in parts."""

    def __init__(self, run: Run, signature: Signature) -> None:
        self.signature = signature
        self._run = run
        self._place = [output.name for output in signature.outputs].index(signature.score)

    def score(self, request: Request) -> Scores:
        """Scores float32[N]; of a graph with a fixed slate also where N is 0."""
        if self.signature.fixed_slate is not None and not slate_size(request, self.signature):
            return np.zeros(0, np.float32)
        return self.scores_of(self.outputs(request))

    def outputs(self, request: Request) -> Outputs:
        """Every output of the signature, in its order; of a graph with a fixed slate for one candidate at least."""
        if self.signature.fixed_slate is not None:
            return self._outputs_in_parts(request, self.signature.fixed_slate)
        return self._run(request)

    def scores_of(self, outputs: Outputs) -> Scores:
        """The scores float32[N] among the outputs."""
        scores, column = outputs[self._place], self.signature.score_column
        if column is not None:
            scores = scores[..., column]
        return np.asarray(scores, np.float32).reshape(-1)

    def _outputs_in_parts(self, request: Request, size: int) -> Outputs:
        """The outputs of a graph that takes `size` candidates a call; the last part is filled up with its last one."""
        total = slate_size(request, self.signature)
        parts = [
            self._run(self._part(request, np.arange(begin, begin + size), total))
            for begin in range(0, total, size)
        ]
        return [
            _joined([part[place] for part in parts], spec, total)
            for place, spec in enumerate(self.signature.outputs)
        ]

    def _part(self, request: Request, rows: NDArray[np.int64], total: int) -> Mapping[str, NDArray[Any]]:
        rows = np.minimum(rows, total - 1)
        return {
            spec.name: request[spec.name].take(rows, axis=spec.dims.index(SLATE))
            if spec.per_candidate
            else request[spec.name]
            for spec in self.signature.inputs
        }


def _joined(parts: Sequence[NDArray[Any]], spec: TensorSpec, total: int) -> NDArray[Any]:
    """An output of several calls; what belongs to the whole request is that of the first call."""
    if not spec.per_candidate:
        return parts[0]
    axis = spec.dims.index(SLATE)
    return np.concatenate(parts, axis=axis).take(np.arange(total), axis=axis)


def slate_size(request: Request, signature: Signature) -> int:
    """How many candidates a request has."""
    spec = next(spec for spec in signature.inputs if spec.per_candidate)
    return int(request[spec.name].shape[spec.dims.index(SLATE)])
