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

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
OF_ITEM = ("likes", "shows", "like_rate", "in_histories")
OF_HISTORY = ("history_length", "history_popularity")
TOGETHER = (
    "together_sum", "together_max", "together_normalised", "liked_together", "liked_normalised", "liked_recent",
)  # fmt: skip
_LIKED = frozenset(("liked_together", "liked_normalised", "liked_recent"))
RECENCY = 0.7
"""What an item of a history weighs in `liked_recent`, for each step back, against the one after it."""
COUNTS = (*OF_ITEM, *OF_HISTORY, *TOGETHER)
"""Features of every data set."""
UNSEEN_COUNTS = dict.fromkeys(COUNTS, 0.0) | {"like_rate": 0.5}
"""The counts of an item that no training row has."""
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


class CountedTables:
    """The tables of `files` by name, each an array; `end` is the time at which the counts end, where times count.

    `chosen` are the features that are computed, in this order; left out, all that there are.
    """

    def __init__(
        self, files: Mapping[str, Table], end: int | None = None, chosen: Sequence[str] | None = None
    ) -> None:
        tables = {
            name: np.asarray(table) for name, table in files.items()
        }  # a memory map costs at each look-up
        self._likes, self._shows, self._in_histories = (
            tables[name] for name in ("likes", "shows", "in_histories")
        )
        self._keys, self._together, self._liked = (
            tables[f"pairs.{name}"] for name in ("keys", "together", "liked")
        )
        self._times = {"age": tables["first"], "recency": tables["last_like"]} if "first" in tables else {}
        self._end = end
        vectors = tables.get("vectors")
        self._vectors = None if vectors is None else vectors.reshape(len(self._likes), -1)
        self.names = tuple(chosen or counted_names(bool(self._times), vectors is not None))
        """The features, in the order of their columns."""
        groups = {
            OF_ITEM: self._item_counts, OF_HISTORY: self._history_counts, TOGETHER: self._pair_counts,
            TIMES: self._ages, SIMILARITIES: self._similarities,
        }  # fmt: skip
        self._groups = [
            group for names, group in groups.items() if not {*names}.isdisjoint(self.names)
        ]  # what no feature is chosen of is not computed

    def features(self, history: Items, candidates: Items, time: int | None = None) -> Vectors:
        """float32[N, len(names)] of candidates int32[N] for history int32[T].

        NaN: no history to be similar to; a time that never was. Items beyond the tables were never seen; their texts
        have no vectors.
        """
        n = len(self._likes)
        if len(history) and history.max() >= n:
            history = history[history < n]
        if len(candidates) and candidates.max() >= n:
            return self._with_unseen(history, candidates, time)
        features = np.empty((len(candidates), len(self.names)), np.float32)
        if len(candidates):
            columns: dict[str, Table | float] = {}
            for group in self._groups:
                columns |= group(history, candidates, time)
            for place, name in enumerate(self.names):
                features[:, place] = columns[name]
        return features

    def _with_unseen(self, history: Items, candidates: Items, time: int | None) -> Vectors:
        """The features of candidates of which no training row has some."""
        known = candidates < len(self._likes)
        features = np.empty((len(candidates), len(self.names)), np.float32)
        features[known] = self.features(history, candidates[known], time)
        unseen = UNSEEN_COUNTS | self._history_counts(history, candidates, time)
        features[~known] = [unseen.get(name, np.nan) for name in self.names]
        return features

    def _item_counts(self, history: Items, candidates: Items, time: int | None) -> dict[str, Table | float]:
        del history, time
        likes, shows = self._likes.take(candidates), self._shows.take(candidates)
        rate = (likes + 1.0) / (shows + 2.0)
        return {
            "likes": likes, "shows": shows, "like_rate": rate, "in_histories": self._in_histories.take(candidates)
        }  # fmt: skip

    def _history_counts(
        self, history: Items, candidates: Items, time: int | None
    ) -> dict[str, Table | float]:
        del candidates, time
        logarithms = np.log1p(self._in_histories.take(history).astype(np.float64))
        popularity = float(np.add.reduce(logarithms)) / max(len(history), 1)
        return {"history_length": float(len(history)), "history_popularity": popularity}

    def _pair_counts(self, history: Items, candidates: Items, time: int | None) -> dict[str, Table | float]:
        """Features of the users who have both an item of the history and the candidate."""
        del time
        if not (len(self._keys) and len(history)):
            return dict.fromkeys(TOGETHER, 0.0)
        keys = history.astype(np.int64)[:, None] * len(self._likes) + candidates
        places = self._keys.searchsorted(keys.ravel())  # of one item after another: neighbours in the table
        places[places == len(self._keys)] = 0
        there = self._keys.take(places) == keys.ravel()
        together = (self._together.take(places) * there).reshape(keys.shape)
        columns: dict[str, Table | float] = {
            "together_sum": together.sum(axis=0), "together_max": together.max(axis=0)
        }  # fmt: skip
        if not _LIKED.isdisjoint(self.names):
            columns |= self._liked_counts(history, (self._liked.take(places) * there).reshape(keys.shape))
        if "together_normalised" in self.names:
            of_history, of_candidates = (
                self._in_histories.take(history) + 1.0,
                self._in_histories.take(candidates) + 1.0,
            )
            expected = np.sqrt(of_history[:, None] * of_candidates)
            columns["together_normalised"] = _sums(together / expected)
        return columns

    def _liked_counts(self, history: Items, liked: Table) -> dict[str, Table | float]:
        """Features of the users int32[T, N] who have an item of the history and like the candidate."""
        shares = liked / np.sqrt(self._in_histories.take(history) + 1.0)[:, None]
        weights = RECENCY ** np.arange(len(history) - 1, -1, -1.0)[:, None]
        return {
            "liked_together": liked.sum(axis=0),
            "liked_normalised": _sums(shares),
            "liked_recent": _sums(shares * weights),
        }

    def _ages(self, history: Items, candidates: Items, time: int | None) -> dict[str, Table | float]:
        del history
        now = self._end if time is None else time
        assert now is not None
        moments = {name: table.take(candidates) for name, table in self._times.items()}
        return {
            name: np.where(moment == NEVER, np.nan, np.maximum(now - moment, 0))
            for name, moment in moments.items()
        }

    def _similarities(self, history: Items, candidates: Items, time: int | None) -> dict[str, Table | float]:
        del time
        assert self._vectors is not None
        columns: dict[str, Table | float] = dict.fromkeys(SIMILARITIES, np.nan)
        if not len(history):
            return columns
        of_history, of_candidates = self._vectors[history], self._vectors[candidates]
        # A product for each pair: of a matrix product the last bit would depend on the other candidates.
        alike = np.vecdot(of_history[:, None], of_candidates).astype(np.float64)
        mean = _sums(alike) / len(history)
        columns |= {
            "similarity_max": alike.max(axis=0),
            "similarity_mean": mean,
            "similarity_last": alike[-1],
        }
        if len(history) > 1 and "similarity_second" in self.names:
            columns["similarity_second"] = np.partition(alike, -2, axis=0)[-2]
        if "similarity_of_mean" in self.names:
            centre = of_history.sum(axis=0)
            centre /= max(float(np.linalg.norm(centre)), 1e-9)
            columns["similarity_of_mean"] = np.vecdot(of_candidates, centre)
        if "similarity_spread" in self.names:
            columns["similarity_spread"] = np.sqrt(np.maximum(_sums(alike**2) / len(history) - mean**2, 0))
        return columns


def _sums(values: Table) -> Table:
    """The sums float64[N] over the first axis of float64[T, N], added up from the first to the last whatever N is."""
    sums: Table = np.add.accumulate(values, axis=0)[-1]
    return sums
