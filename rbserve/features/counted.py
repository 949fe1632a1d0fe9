"""Counted features: what training rows say of a candidate, of a history, and of the two together.

The tables are made of training rows alone (`train/counting.py`) and looked up here, by the same code for training rows,
test rows and requests to a server. The users of a training row are not among those who were counted for it.

    folder of the tables (n items, P pairs, D numbers of a text's vector)
      manifest.json       names, sizes and digests
      likes, shows, in_histories                 int32[n]: training rows that like an item, that ask about it; users
                                                 who have it in their history
      first, last_like                           int64[n]: the first time that an item is asked about, the last like;
                                                 NEVER without one. Only where counts are those before a time
      pairs.keys                                 int64[P], ascending: item of a history * n + another item
      pairs.together, pairs.liked                int32[P]: users with both in their history; users with the first in
                                                 their history who like the second
      vectors                                    float32[n * D]: vectors of length 1 of the items' texts
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.fields import FieldSpec, Layout
from rbserve.core.files import FileDigest
from rbserve.core.manifest import read_manifest
from rbserve.core.types import Items, Vectors
from rbserve.data.dataset import NEVER

SCHEMA = 1
FOLDER = "counted"
"""Where artefacts and data sets keep counted features."""
MANIFEST = "manifest.json"
COUNTS = (
    "likes", "shows", "like_rate", "in_histories", "history_length", "history_popularity",
    "together_sum", "together_max", "together_normalised", "liked_together",
)  # fmt: skip
"""Features of every data set."""
TIMES = ("age", "recency")
"""Features of data sets whose counts are those before a time: since the item was first asked about, and last liked."""
SIMILARITIES = (
    "similarity_max", "similarity_mean", "similarity_last", "similarity_second", "similarity_of_mean",
    "similarity_spread",
)  # fmt: skip
"""Features of data sets with texts: cosines of the vectors of the candidate's text and of the history's."""
Table = NDArray[Any]


def counted_names(times: bool, texts: bool) -> tuple[str, ...]:
    """The names of the features that there are, in the order of their columns."""
    return COUNTS + (TIMES if times else ()) + (SIMILARITIES if texts else ())


def counted_fields(times: bool, texts: bool) -> list[FieldSpec]:
    """The counted features as fields of a data set."""
    return [FieldSpec(name, "counted", "number") for name in counted_names(times, texts)]


def reads_time(layout: Layout) -> bool:
    """Whether the features of a layout depend on the time of a request."""
    return any(spec.name in TIMES for spec in layout.counted)


class CountedManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the folder of counted features is of: the data set's fingerprint and the encoder of its texts, if any.

    `tables` are the files that an artefact takes, `end` the last time that was counted, where times count.
    """

    schema: int
    fingerprint: str
    encoder: str | None
    end: int | None
    names: list[str]
    tables: list[str]
    files: dict[str, FileDigest]


def read_counted_manifest(path: Path) -> CountedManifest:
    """Reads a manifest of counted features; DataError for a file that is none."""
    again = f"delete {path.parent}: training makes it anew"
    return read_manifest(path, CountedManifest, SCHEMA, "a manifest of counted features", again)


class _Pairs(NamedTuple):
    """Of each candidate and item of a history, [N, T]: users who have both, and who like the candidate with it."""

    together: Table
    liked: Table


class CountedTables:
    """The tables of `files` by name, each an array; `end` is the time at which the counts end, where times count."""

    def __init__(self, files: Mapping[str, Table], end: int | None = None) -> None:
        self._likes, self._shows, self._seen = (files[name] for name in ("likes", "shows", "in_histories"))
        self._keys, self._together, self._liked = (
            files[f"pairs.{name}"] for name in ("keys", "together", "liked")
        )
        self._times = (files["first"], files["last_like"]) if "first" in files else None
        self._end = end
        vectors = files.get("vectors")
        self._vectors = None if vectors is None else vectors.reshape(len(self._likes), -1)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The features, in the order of their columns."""
        return counted_names(self._times is not None, self._vectors is not None)

    def features(self, history: Items, candidates: Items, time: int | None = None) -> Vectors:
        """float32[N, features] of candidates int32[N] for history int32[T].

        NaN: no history to be similar to; a time that never was. Items beyond the tables were never seen; their texts
        have no vectors.
        """
        n = len(self._likes)
        history = history[history < n]
        known = candidates < n
        if not known.all():
            features = np.full((len(candidates), len(self.names)), np.nan, np.float32)
            features[known] = self.features(history, candidates[known], time)
            features[~known, : len(COUNTS)] = self._of_unseen(history)
            return features
        columns = self._counts(history, candidates)
        if self._times is not None:
            columns += self._ages(candidates, self._end if time is None else time)
        if self._vectors is not None:
            columns += self._similarities(history, candidates)
        return np.stack(columns, axis=1).astype(np.float32) if len(candidates) else _no_rows(self.names)

    def _of_unseen(self, history: Items) -> Table:
        """The counts of an item that no training row has."""
        row = dict.fromkeys(COUNTS, 0.0) | {"like_rate": 0.5}
        row |= {"history_length": float(len(history)), "history_popularity": self._popularity(history)}
        return np.array([*row.values()])

    def _popularity(self, history: Items) -> float:
        return float(np.log1p(self._seen[history]).mean()) if len(history) else 0.0

    def _counts(self, history: Items, candidates: Items) -> list[Table]:
        likes, shows, seen = (
            table[candidates].astype(float) for table in (self._likes, self._shows, self._seen)
        )
        pairs = self._pairs(history, candidates)
        expected = np.sqrt((seen[:, None] + 1) * (self._seen[history] + 1.0))
        same = np.ones(len(candidates))
        return [
            likes, shows, (likes + 1) / (shows + 2), seen, same * len(history), same * self._popularity(history),
            pairs.together.sum(axis=1), pairs.together.max(axis=1, initial=0),
            _row_sums(pairs.together / expected), pairs.liked.sum(axis=1),
        ]  # fmt: skip

    def _pairs(self, history: Items, candidates: Items) -> _Pairs:
        keys = history.astype(np.int64) * len(self._likes) + candidates[:, None]
        if not len(self._keys):
            return _Pairs(np.zeros(keys.shape, np.int32), np.zeros(keys.shape, np.int32))
        places = np.minimum(np.searchsorted(self._keys, keys.ravel()), len(self._keys) - 1).reshape(
            keys.shape
        )
        there = self._keys[places] == keys
        return _Pairs(self._together[places] * there, self._liked[places] * there)

    def _ages(self, candidates: Items, time: int | None) -> list[Table]:
        assert self._times is not None
        assert time is not None
        moments = (table[candidates] for table in self._times)
        return [np.where(moment == NEVER, np.nan, np.maximum(time - moment, 0)) for moment in moments]

    def _similarities(self, history: Items, candidates: Items) -> list[Table]:
        assert self._vectors is not None
        if not len(history):
            return [np.full(len(candidates), np.nan)] * len(SIMILARITIES)
        of_history, of_candidates = self._vectors[history], self._vectors[candidates]
        # A product for each pair: of a matrix product the last bit would depend on the other candidates.
        alike = np.vecdot(of_candidates[:, None], of_history).astype(float)
        centre = of_history.sum(axis=0)
        centre /= max(float(np.linalg.norm(centre)), 1e-9)
        mean = _row_sums(alike) / len(history)
        spread = np.sqrt(np.maximum(_row_sums(alike**2) / len(history) - mean**2, 0))
        ordered = np.sort(alike, axis=1)
        second = ordered[:, -2] if len(history) > 1 else np.full(len(candidates), np.nan)
        return [ordered[:, -1], mean, alike[:, -1], second, np.vecdot(of_candidates, centre), spread]


def _row_sums(values: Table) -> Table:
    """The sum of each row of float64[N, T], added up from left to right whatever N is."""
    total = np.zeros(len(values))
    for column in values.T:
        total = total + column
    return total


def _no_rows(names: tuple[str, ...]) -> Vectors:
    return np.zeros((0, len(names)), np.float32)
