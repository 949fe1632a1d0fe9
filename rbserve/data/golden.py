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
from rbserve.core.requests import Request, slate_request
from rbserve.core.types import Items, Scores

SCHEMA = 1
ENOUGH = 0.8
"""Of a list's items so many must come again: near the end of it, another processor's rounding may change places."""


class GoldenAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A history, the items that were scored or came back as the best, and their scores. Items are rows of the table."""

    history: list[int]
    items: list[int]
    scores: list[float]

    @classmethod
    def of(cls, history: Items, items: Items, scores: Scores) -> GoldenAnswer:
        """From arrays int32[T], int32[N] and float32[N]."""
        return cls(history.tolist(), items.tolist(), scores.tolist())


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
        now = score(slate_request(np.array(check.history, np.int32), np.array(check.items, np.int32)))
        if (difference := _differs(now, before, checks.tolerance)) is not None:
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
