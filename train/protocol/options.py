"""The paper's protocol as numbers: the options of `rbserve prepare` about splits and texts. Imports no NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from rbserve.core.options import Count, Natural, Options, Share
from rbserve.models.words import MAX_WORDS

Catalogue = Literal["used", "seen", "all"]
SplitKind = Literal["users", "time"]
NegativesBy = Literal["uniform", "popularity"]


@dataclass(frozen=True)
class Protocol(Options):
    """The protocol's numbers. The paper's sizes; a smaller data set keeps their proportions.

    `given_history`: only GIVEN events are history, as in MIND, whose impressions come with a history.
    """

    seed: Annotated[Natural, Meta(description="Seed of every random choice.")] = 2024
    history: Annotated[Count, Meta(description="Items of a history, at most.")] = 20
    min_history: Annotated[Natural, Meta(description="Items of a history, at least.")] = 0
    held_out: Annotated[
        Natural, Meta(description="Last likes of a user that become rows; 0 makes a row of every event.")
    ] = 0
    negatives: Annotated[
        Natural, Meta(description="Random negative items per user; 0 takes the users' own dislikes.")
    ] = 0
    rows_per_label: Annotated[Count, Meta(description="Rows of a label per user, at most.")] = 10
    given_history: Annotated[bool, Meta(description="Take the histories that the source gives.")] = False
    ctr_test_rows: Annotated[Count, Meta(description="Test rows of click prediction.")] = 20_000
    ctr_finetune_rows: Annotated[Count, Meta(description="Finetune rows of click prediction.")] = 100_000
    seqrec_test_rows: Annotated[Count, Meta(description="Test sequences.")] = 5_000
    seqrec_finetune_rows: Annotated[Count, Meta(description="Finetune sequences.")] = 40_000
    valid_users: Annotated[
        Share,
        Meta(description="Share of the finetune users (--split time: of the finetune rows) that validate."),
    ] = 0.1
    max_rows: Annotated[Natural, Meta(description="Raw rows to read; 0 reads all.")] = 0
    split: Annotated[
        SplitKind,
        Meta(
            description="What divides the rows: users, as in the paper, or time: the most recent rows are the test."
        ),
    ] = "users"
    negatives_by: Annotated[
        NegativesBy,
        Meta(description="Draw random negatives with equal chances, or in proportion to the items' likes."),
    ] = "uniform"

    @property
    def keeps_given_history(self) -> bool:
        """Whether GIVEN events alone are history; a split by time has the later likes in it too."""
        return self.given_history and not self.held_out and self.split == "users"

    def most_rows(self, label: int) -> int:
        """How many click-prediction rows of a label a user can give."""
        return (self.held_out if label else self.negatives) or self.rows_per_label


@dataclass(frozen=True)
class WordLimits(Options):
    """Which words of the items' texts are kept."""

    min_count: Annotated[
        Count, Meta(description="Texts that a word must occur in to be learnt, without --vocabulary.")
    ] = 2
    max_words: Annotated[Count, Meta(description="Words of a text that are kept.")] = MAX_WORDS
