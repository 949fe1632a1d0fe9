"""A teacher's scores of training users: of their labelled candidates, and of random items without a label.

A teacher that reads counted features is given those of training: without the user's own rows, or those before the row.
Counts of all training rows would tell it the labels that its scores stand beside.

A language model takes long to score them. Scores are saved in a folder, a file for each PIECE of slates, and read from
there: stopped work continues and ends in the same bytes. The seed draws the order of the users, so that a run with
more users continues the files of one with fewer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import Interrupted, RbserveError
from rbserve.core.fields import COUNTED
from rbserve.core.files import optional_write, replacing
from rbserve.core.requests import Request, row_request, slate_of, slate_request
from rbserve.core.types import Items, Progress, Scores, Vectors, no_progress
from rbserve.core.variants import DEFAULT_SERVED, REFERENCE
from rbserve.data.artifact import Artifact
from rbserve.data.columns import Ragged
from rbserve.data.dataset import CtrSplit, Dataset
from rbserve.models.configs import config_from_dict
from rbserve.runtimes.contents import artifact_prompts
from rbserve.runtimes.opening import open_scorer
from rbserve.train.fitting.loop import Rows
from rbserve.train.tasks.fields import read_fields
from rbserve.train.tasks.packing import users_begin

PIECE = 32
DRAWS = 4  # items drawn for each one that is needed, since some are drawn twice and some are excluded


@dataclass(frozen=True)
class Slates:
    """S slates for a teacher to score, each with one history of a training user: labelled candidates, then others.

    Slate s has the training rows `begins[s]` to `ends[s]` and the items `unlabelled[s]`. The slates of a user are
    adjacent, in the order of the rows. `counted` float32[sum of sizes, features] has the counted features that the
    teacher reads, of every pair (`count_pairs`).
    """

    train: CtrSplit
    begins: Rows
    ends: Rows
    unlabelled: Ragged
    users: int
    counted: Vectors | None = None

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The number of candidates of each slate, int64[S]."""
        return self.ends - self.begins + self.unlabelled.lengths

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The place of each slate's first pair among all pairs, int64[S + 1]; the last is their number."""
        return np.concatenate(([0], np.cumsum(self.sizes)))

    @cached_property
    def pair_rows(self) -> Rows:
        """The training row of every pair, int64[sum of sizes]; for items without a label the first of the slate."""
        rows = [np.empty(0, np.int64)]
        for begin, end, others in zip(self.begins, self.ends, self.unlabelled.lengths, strict=True):
            rows += [np.arange(begin, end), np.repeat(begin, others)]
        return np.concatenate(rows)

    def history(self, slate: int) -> Items:
        """The history int32[T] of a slate."""
        return self.train.histories[self.begins[slate]]

    def candidates(self, slate: int) -> Items:
        """The candidates int32[sizes[slate]] of a slate: labelled ones, then others."""
        labelled = self.train.candidates[self.begins[slate] : self.ends[slate]]
        return np.concatenate((labelled, self.unlabelled[slate]))

    def request(self, slate: int, has_fields: bool) -> Request:
        """The request of a slate; `has_fields`: with the fields of its rows, and for other items those of the first."""
        request = slate_request(self.history(slate), self.candidates(slate))
        if not has_fields:
            return request
        places = slice(self.starts[slate], self.starts[slate + 1])
        rows = self.pair_rows[places]
        extras = {name: column[rows] for name, column in self.train.extras.items()}
        if self.counted is not None:
            extras[COUNTED] = self.counted[places]
        return row_request(*slate_of(request), extras, 0, len(rows))


def count_pairs(teacher: Artifact, dataset: Dataset, slates: Slates, progress: Progress) -> Slates:
    """The slates with the counted features that the teacher reads, counted for each pair as for its training row."""
    config: Any = config_from_dict(teacher.manifest.config_kind, teacher.manifest.config)
    fields = read_fields(config, dataset, progress)
    assert fields
    assert fields.counted
    candidates = np.concatenate([slates.candidates(slate) for slate in range(len(slates))])
    counted = fields.extras_of(slates.pair_rows, candidates, progress)[COUNTED]
    names = fields.counted.manifest.names
    return replace(slates, counted=counted[:, [names.index(spec.name) for spec in teacher.layout.counted]])


def draw_slates(train: CtrSplit, pairs: int, seed: int, users: int = 0) -> Slates:
    """The slates of all users of the training split, or of `users` of them (0: all), drawn by `seed`.

    At most `pairs` unlabelled items of a user go with the last history. They are drawn from the candidates of all
    training rows, by frequency: the student will rank such items, and items that training lacks have a blank vector.
    The user's own candidates and histories are excluded.
    """
    begins = users_begin(train)
    owners = np.asarray(train.users)[begins[:-1]]
    everyone = np.unique(owners)
    chosen = np.random.default_rng(seed).permutation(len(everyone))[: users or None]
    place = np.full(len(everyone), len(everyone))
    place[chosen] = np.arange(len(chosen))
    ranks = place[np.searchsorted(everyone, owners)]
    slates = np.argsort(ranks, kind="stable")[: np.count_nonzero(ranks < len(everyone))]
    begin, end, owner = begins[:-1][slates], begins[1:][slates], owners[slates]
    last = np.append(owner[1:] != owner[:-1], True)
    excluded = nothing = np.empty(0, np.int32)
    drawn = [nothing]  # so that the offsets begin with 0
    for slate in range(len(slates)):
        labelled = train.candidates[begin[slate] : end[slate]]
        excluded = np.concatenate((excluded, labelled, train.histories[begin[slate]]))
        if last[slate]:
            drawn.append(_draw_items(train, pairs, (seed, int(owner[slate])), excluded))
            excluded = nothing
        else:
            drawn.append(nothing)
    offsets = np.cumsum([len(items) for items in drawn], dtype=np.int64)
    return Slates(train, begin, end, Ragged(np.concatenate(drawn), offsets), len(chosen))


def _draw_items(train: CtrSplit, most: int, seed: tuple[int, int], excluded: Items) -> Items:
    """At most `most` different items that are not excluded, in the order in which they are drawn."""
    rows = np.random.default_rng(seed).integers(len(train), size=DRAWS * (most + len(excluded)))
    items = np.asarray(train.candidates[rows])
    different = items[np.sort(np.unique(items, return_index=True)[1])]
    return different[~np.isin(different, excluded)][:most]


def fastest_variant(teacher: Artifact) -> str:
    """The fastest fp32 variant of a teacher: its ONNX graph if it was exported, else torch."""
    return DEFAULT_SERVED if DEFAULT_SERVED in teacher.variants else REFERENCE


def scores_name(teacher: Artifact, variant: str, dataset: Dataset, pairs: int, seed: int) -> str:
    """The name of the folder of a teacher's scores; another for each input that scores depend on."""
    depends: list[object] = [teacher.model_digest, variant, dataset.fingerprint, pairs, seed]
    if teacher.layout.counted:
        depends.append("counted without the user")  # earlier versions counted by all training rows
    return f"{teacher.name}.{variant}.{hashlib.sha256(msgspec.json.encode(depends)).hexdigest()[:16]}"


def score_slates(
    teacher: Artifact,
    variant: str,
    slates: Slates,
    folder: Path,
    threads: int = 1,
    progress: Progress = no_progress,
) -> Scores:
    """The teacher's click probabilities float32[sum of sizes], slate by slate; those saved in `folder` are read.

    Raises Interrupted on Ctrl-C, which loses one piece at most.
    """
    ends = slates.starts[1:].tolist()
    scorer, pieces = None, [np.empty(0, np.float32)]
    line = f"pairs scored by {teacher.name}"
    try:
        for file, places, pairs in _pieces(slates, folder):
            scores = _read(file, pairs)
            if scores is None:
                scorer = scorer or open_scorer(teacher, variant, threads)
                parts = []
                for place in places:
                    parts.append(scorer.score(slates.request(place, bool(teacher.layout))))
                    progress(ends[place], ends[-1], line)
                scores = np.concatenate(parts)
                _write(file, scores)
            progress(ends[places[-1]], ends[-1], line)
            pieces.append(scores)
    except KeyboardInterrupt:
        saved = sum(map(len, pieces))
        raise Interrupted(
            f"stopped after {saved:,} of {ends[-1]:,} pairs", "the same command continues"
        ) from None
    return np.concatenate(pieces)


def unscored(slates: Slates, folder: Path) -> list[int]:
    """The slates whose scores are not saved in the folder."""
    return [
        place
        for file, places, pairs in _pieces(slates, folder)
        if _read(file, pairs) is None
        for place in places
    ]


def describe_work(teacher: Artifact, variant: str, slates: Slates, folder: Path) -> str:
    """One line that says how many pairs the teacher will score, and how many were scored before."""
    todo = unscored(slates, folder)
    pairs, missing = int(slates.sizes.sum()), int(slates.sizes[todo].sum())
    labelled = int((slates.ends - slates.begins).sum())
    line = (
        f"{teacher.name} {variant} scores {pairs:,} pairs of {slates.users:,} training users: {labelled:,} labelled, "
        f"{pairs - labelled:,} not"
    )
    if missing < pairs:
        line += f"; {pairs - missing:,} were scored before"
    if teacher.is_language_model and todo:
        line += f"; about {_count_tokens(teacher, slates, todo):,} tokens to read"
    return f"{line}. Ctrl-C keeps what is scored."


def _count_tokens(teacher: Artifact, slates: Slates, places: list[int]) -> int:
    """The tokens of the prompts of slates; a history counts once if the model shares it among candidates.

    Candidates that meet the history behind the last layer are looked up, not read.
    """
    prompts, total = artifact_prompts(teacher), 0
    for place in places:
        candidates = slates.candidates(place)
        prefix, suffixes = prompts.sizes(slates.history(place), candidates)
        total += prefix * (1 if prompts.pieces.shared else len(candidates))
        total += 0 if prompts.pieces.pooled else suffixes
    return total


def _pieces(slates: Slates, folder: Path) -> Iterator[tuple[Path, range, int]]:
    """The file, the places of the slates and the number of pairs of each piece."""
    for begin in range(0, len(slates), PIECE):
        places = range(begin, min(begin + PIECE, len(slates)))
        yield folder / f"{begin // PIECE:06}.npy", places, int(slates.sizes[begin : places.stop].sum())


def _read(file: Path, pairs: int) -> Scores | None:
    """The first `pairs` scores of a saved piece; None if the file is missing, damaged or shorter."""
    try:
        scores: Scores = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = scores.ndim == 1 and len(scores) >= pairs and scores.dtype == np.float32
    return scores[:pairs] if whole else None


def _write(file: Path, scores: Scores) -> None:
    if not np.isfinite(scores).all():
        raise RbserveError("the teacher's scores are not finite", "train it again, or choose another variant")
    with optional_write("a teacher's scores"), replacing(file) as partial, partial.open("wb") as opened:
        np.save(opened, scores, allow_pickle=False)
