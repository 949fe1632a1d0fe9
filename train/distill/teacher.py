"""A teacher's scores of training users: of their labelled rows, and of items that nobody asked them about.

Asking a language model is long work. Scores are kept in a folder, a file for each PIECE of slates, and what is there
is not asked again: work that was stopped goes on where it was, and ends in the same bytes. Users are asked in an order
that the seed draws, so more of them continue what fewer began.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import Interrupted, RbserveError
from rbserve.core.files import optional_write, replacing
from rbserve.core.types import Items, Progress, Scores, no_progress
from rbserve.core.variants import DEFAULT_SERVED, REFERENCE
from rbserve.data.artifact import Artifact
from rbserve.data.columns import Ragged
from rbserve.data.dataset import CtrSplit, Dataset
from rbserve.runtimes.opening import artifact_prompts, open_scorer
from rbserve.train.loop import Rows
from rbserve.train.tasks.language import users_begin

PIECE = 32
DRAWS = 4  # how many items are drawn for each that is wanted: some are drawn twice, some are known


@dataclass(frozen=True)
class Questions:
    """S slates, each of one training user with one history: the candidates that were labelled with it, then others.

    Slate s has the training rows `begins[s]` to `ends[s]` and the items `unlabelled[s]`. Slates of one user stand
    together, in the order of the rows.
    """

    train: CtrSplit
    begins: Rows
    ends: Rows
    unlabelled: Ragged
    users: int

    def __len__(self) -> int:
        return len(self.begins)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Candidates int64[S] of each slate."""
        return self.ends - self.begins + self.unlabelled.lengths

    def history(self, slate: int) -> Items:
        """int32[T]"""
        return self.train.histories[self.begins[slate]]

    def candidates(self, slate: int) -> Items:
        """int32[sizes[slate]]"""
        labelled = self.train.candidates[self.begins[slate] : self.ends[slate]]
        return np.concatenate((labelled, self.unlabelled[slate]))


def questions(train: CtrSplit, pairs: int, seed: int, users: int = 0) -> Questions:
    """What a teacher is asked of all users of the training split, or of so many of them.

    A user's unlabelled items go with the last of his histories. They are drawn from the training rows' candidates, as
    often as these have them: the student is to rank what people are asked about, and an item that training does not
    have keeps its blank vector. None is an item that he was asked about, or of his history.
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
    known = nothing = np.empty(0, np.int32)
    drawn = [nothing]  # so that the offsets begin with 0
    for slate in range(len(slates)):
        labelled = train.candidates[begin[slate] : end[slate]]
        known = np.concatenate((known, labelled, train.histories[begin[slate]]))
        if last[slate]:
            drawn.append(_others(train, pairs, (seed, int(owner[slate])), known))
            known = nothing
        else:
            drawn.append(nothing)
    offsets = np.cumsum([len(items) for items in drawn], dtype=np.int64)
    return Questions(train, begin, end, Ragged(np.concatenate(drawn), offsets), len(chosen))


def _others(train: CtrSplit, most: int, seed: tuple[int, int], known: Items) -> Items:
    """At most so many different items that are not known, in the order in which they are drawn."""
    rows = np.random.default_rng(seed).integers(len(train), size=DRAWS * (most + len(known)))
    items = np.asarray(train.candidates[rows])
    different = items[np.sort(np.unique(items, return_index=True)[1])]
    return different[~np.isin(different, known)][:most]


def fastest_variant(teacher: Artifact) -> str:
    """Of what a teacher has in fp32: the graph where it was exported, else torch."""
    return DEFAULT_SERVED if DEFAULT_SERVED in teacher.variants else REFERENCE


def scores_name(teacher: Artifact, variant: str, dataset: Dataset, pairs: int, seed: int) -> str:
    """The folder that such scores are kept in: whatever they depend on, they have one of their own."""
    depends = [teacher.model_digest, variant, dataset.fingerprint, pairs, seed]
    return f"{teacher.name}.{variant}.{hashlib.sha256(msgspec.json.encode(depends)).hexdigest()[:16]}"


def ask(
    teacher: Artifact,
    variant: str,
    asked: Questions,
    folder: Path,
    threads: int = 1,
    progress: Progress = no_progress,
) -> Scores:
    """The teacher's click probabilities float32[sum of sizes], slate by slate, those in `folder` as they are.

    Raises Interrupted on Ctrl-C, which loses a piece at most.
    """
    ends = np.cumsum(asked.sizes).tolist()
    scorer, found = None, [np.empty(0, np.float32)]
    done = f"pairs scored by {teacher.name}"
    try:
        for file, slates, pairs in _pieces(asked, folder):
            scores = _read(file, pairs)
            if scores is None:
                scorer = scorer or open_scorer(teacher, variant, threads)
                parts = []
                for slate in slates:
                    parts.append(scorer.score(asked.history(slate), asked.candidates(slate)))
                    progress(ends[slate], ends[-1], done)
                scores = np.concatenate(parts)
                _write(file, scores)
            progress(ends[slates[-1]], ends[-1], done)
            found.append(scores)
    except KeyboardInterrupt:
        kept = sum(map(len, found))
        raise Interrupted(
            f"stopped after {kept:,} of {ends[-1]:,} pairs", "the same command continues"
        ) from None
    return np.concatenate(found)


def what_it_takes(teacher: Artifact, variant: str, asked: Questions, folder: Path) -> str:
    """One line of what is still to be scored, before it is."""
    todo = [
        slate
        for file, slates, pairs in _pieces(asked, folder)
        if _read(file, pairs) is None
        for slate in slates
    ]
    pairs, missing = int(asked.sizes.sum()), int(asked.sizes[todo].sum())
    labelled = int((asked.ends - asked.begins).sum())
    line = (
        f"{teacher.name} {variant} scores {pairs:,} pairs of {asked.users:,} training users: {labelled:,} labelled, "
        f"{pairs - labelled:,} not"
    )
    if missing < pairs:
        line += f"; {pairs - missing:,} were scored before"
    if teacher.is_language_model and todo:
        line += f"; about {_tokens(teacher, asked, todo):,} tokens to read"
    return f"{line}. Ctrl-C keeps what is scored."


def _tokens(teacher: Artifact, asked: Questions, slates: list[int]) -> int:
    """Tokens of some slates' prompts; a history is read once for all candidates where the model shares it."""
    prompts, total = artifact_prompts(teacher), 0
    for slate in slates:
        candidates = asked.candidates(slate)
        prefix, suffixes = prompts.sizes(asked.history(slate), candidates)
        total += prefix * (1 if prompts.pieces.shared else len(candidates)) + suffixes
    return total


def _pieces(asked: Questions, folder: Path) -> Iterator[tuple[Path, range, int]]:
    """File, slates and number of pairs of one piece after another."""
    for begin in range(0, len(asked), PIECE):
        slates = range(begin, min(begin + PIECE, len(asked)))
        yield folder / f"{begin // PIECE:06}.npy", slates, int(asked.sizes[begin : slates.stop].sum())


def _read(file: Path, pairs: int) -> Scores | None:
    """The first scores of a kept piece; None when it is not there, not whole, or of fewer users."""
    try:
        scores: Scores = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = scores.ndim == 1 and len(scores) >= pairs and scores.dtype == np.float32
    return scores[:pairs] if whole else None


def _write(file: Path, scores: Scores) -> None:
    if not np.isfinite(scores).all():
        raise RbserveError("the teacher's scores are not finite", "train it again, or choose another variant")
    kept = optional_write("a teacher's scores")
    with kept, replacing(file) as partial, partial.open("wb") as opened:
        np.save(opened, scores, allow_pickle=False)
