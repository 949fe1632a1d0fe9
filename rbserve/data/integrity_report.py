"""What a second look at a prepared data set reports: its figures, its losses and its checks (`integrity.py`)."""

from __future__ import annotations

from typing import Any

import msgspec

from rbserve.core.fields import FieldKind, FieldScope
from rbserve.core.tasks import TaskName
from rbserve.data.dataset import Split

LEAK = 0.99
"""A field that alone orders labels with a higher AUC is told as a leak."""


class TextCoverage(msgspec.Struct, frozen=True):
    """How much of the data set has words.

    From the files: `items` of the item table, and `items_with_words`, those that have a word of the vocabulary.
    From the manifest: `vocabulary`, the number of its words; `tokens_in_vocabulary`, the share of all words of the
    texts that are in it; `interactions_with_text`, the share of readable interactions whose item has a text.
    """

    items: int
    items_with_words: int
    items_with_words_rate: float | None
    vocabulary: int
    tokens_in_vocabulary: float
    interactions_with_text: float | None


class SplitFigures(msgspec.Struct, frozen=True):
    """One split, from its files. `items` are distinct, as candidate, target or in a history.

    `history_lengths[n]` rows have n items of history; the last entry is the longest history asked for, and counts
    longer ones too. `empty` and `full` are the shares of the first and the last. None: `positives` of sequences,
    and what describes histories whose offsets are broken.
    """

    task: TaskName
    split: Split
    rows: int
    users: int
    items: int
    rows_per_user: float | None
    positives: int | None
    positive_rate: float | None
    history_mean: float | None
    empty: float | None
    full: float | None
    history_lengths: list[int]


class Check(msgspec.Struct, frozen=True):
    """One leakage check: of `checked` `unit`, so many are `violations`.

    `passed` is None where the check does not apply or could not be made; `detail` says why, or where it failed.
    """

    name: str
    meaning: str
    passed: bool | None
    violations: int
    checked: int
    unit: str
    detail: str


class FieldFigures(msgspec.Struct, frozen=True):
    """A field of the user's own tables, over the rows of click prediction.

    `values` is how many values have a code of their own, or how many hashes there are; None: a number. `missing` is the
    share of training rows without a value, `unseen` that of test rows with a value that has no code (None: a number or
    hashes). `auc` says how well the field alone orders the labels of the training rows, from 0.5; above LEAK it leaks.
    """

    name: str
    scope: FieldScope
    kind: FieldKind
    values: int | None
    width: int
    hashed: bool
    missing: float
    unseen: float | None
    auc: float | None


class PaperLine(msgspec.Struct, frozen=True):
    """A figure of the paper's Table 2 beside the same figure here; `ratio` is here / paper."""

    what: str
    paper: int
    here: int
    ratio: float


class Reasons(msgspec.Struct, frozen=True):
    """Counts by reason, the most frequent first, and their sum."""

    total: int
    reasons: dict[str, int]


class IntegrityReport(msgspec.Struct, frozen=True):
    """What `inspect` found; `ok` when no check failed.

    `sizes` are those of the clean source, from the manifest: users, items, items_with_text, interactions,
    positives, and given, which are history only and have no label. `positive_rate` is positives / (interactions -
    given). `lost` are raw rows and items that did not become clean ones, `left_out` what the protocol did not use
    (rows, but users where the reason counts users), `repaired` what was kept after something was mended.
    `fields` are those of the user's own tables. `table_2` compares with the column `paper` of the paper's table.
    """

    name: str
    source: str
    fingerprint: str
    ok: bool
    options: dict[str, Any]
    sizes: dict[str, int]
    positive_rate: float | None
    text: TextCoverage
    splits: list[SplitFigures]
    lost: Reasons
    left_out: Reasons
    repaired: Reasons
    checks: list[Check]
    paper: str | None
    table_2: list[PaperLine]
    fields: list[FieldFigures] = []
