"""What an exported variant answered when it was made: a few requests, by which a server knows the model again.

They stand beside the graph, `onnx/<precision>.checks.json`. Parity with the reference is judged once, at export, on
many rows; this is for whoever loads the file later, on another machine, and has no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError
from rbserve.core.files import write_bytes
from rbserve.core.manifest import read_manifest
from rbserve.core.requests import TEXT, Request, slate_request
from rbserve.core.types import Items, Scores

SCHEMA = 1
ENOUGH = 0.8
"""Of a list's items so many must come again: near the end of it, another processor's rounding may change places."""


class GoldenTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A tensor of a request, to the bit: little-endian numbers, or texts."""

    dtype: str
    shape: list[int]
    data: bytes = b""
    texts: list[str] = []

    @classmethod
    def of(cls, array: NDArray[Any]) -> GoldenTensor:
        """From an array of numbers, or of objects that are strings."""
        if array.dtype == object:
            return cls(TEXT, [*array.shape], texts=array.ravel().tolist())
        return cls(str(array.dtype), [*array.shape], array.astype(array.dtype.newbyteorder("<")).tobytes())

    @property
    def array(self) -> NDArray[Any]:
        """The array that it was made from."""
        if self.dtype == TEXT:
            return np.array(self.texts, object).reshape(self.shape)
        stored = np.frombuffer(self.data, np.dtype(self.dtype).newbyteorder("<"))
        return stored.astype(self.dtype).reshape(self.shape)


class GoldenAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A history, the items that were scored or came back as the best, and their scores. Items are rows of the table.

    Of a model that was made elsewhere, `inputs` has the tensors of the request; there are no history and items.
    """

    history: list[int]
    items: list[int]
    scores: list[float]
    inputs: dict[str, GoldenTensor] = {}

    @classmethod
    def of(cls, history: Items, items: Items, scores: Scores) -> GoldenAnswer:
        """From arrays int32[T], int32[N] and float32[N]."""
        return cls(history.tolist(), items.tolist(), scores.tolist())

    @classmethod
    def of_request(cls, request: Request, scores: Scores) -> GoldenAnswer:
        """From the tensors of a request and its scores float32[N]."""
        inputs = {name: GoldenTensor.of(array) for name, array in request.items()}
        return cls([], [], scores.tolist(), inputs)

    @property
    def request(self) -> Request:
        """The request that a model which scores candidates answered."""
        if self.inputs:
            return {name: tensor.array for name, tensor in self.inputs.items()}
        return slate_request(np.array(self.history, np.int32), np.array(self.items, np.int32))


class Checks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The checks of one variant. `tolerance` is for scores, of those above 1 in size relative to them."""

    schema: int
    tolerance: float
    checks: list[GoldenAnswer]


def write_checks(path: Path, checks: Sequence[GoldenAnswer], tolerance: float) -> None:
    """Writes them, atomically."""
    write_bytes(path, msgspec.json.encode(Checks(SCHEMA, tolerance, list(checks))))


def read_checks(path: Path) -> Checks:
    """Reads them; ArtifactError for a file that is none."""
    return read_manifest(
        path, Checks, SCHEMA, "a variant's checks", "rbserve export makes it anew", ArtifactError
    )


def scored_otherwise(checks: Checks, score: Callable[[Request], Scores]) -> str | None:
    """How a pair-wise model answers otherwise than it did, if it does."""
    for check in checks.checks:
        before = np.array(check.scores)
        if (difference := _differs(score(check.request), before, checks.tolerance)) is not None:
            return difference
    return None


def ranked_otherwise(checks: Checks, top_k: Callable[[Items, int], tuple[Items, Scores]]) -> str | None:
    """How a list-wise model answers otherwise than it did, if it does."""
    again = among = 0
    for check in checks.checks:
        items, scores = top_k(np.array(check.history, np.int32), len(check.items))
        now, before = (
            dict(zip(own, of, strict=True))
            for own, of in ((items.tolist(), scores), (check.items, check.scores))
        )
        both = sorted(now.keys() & before.keys())
        again, among = again + len(both), among + len(before)
        difference = _differs(
            np.array([now[i] for i in both]), np.array([before[i] for i in both]), checks.tolerance
        )
        if difference is not None:
            return difference
    return f"only {again} of {among} items are the best again" if again < ENOUGH * among else None


def _differs(now: NDArray[Any], before: NDArray[Any], tolerance: float) -> str | None:
    difference = np.abs(now - before)
    if (difference <= tolerance * np.maximum(1, np.abs(before))).all():
        return None
    return f"a score differs by {np.max(difference):.2g}, and {tolerance:g} is allowed"
