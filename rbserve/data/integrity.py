"""A second look at a prepared data set: sizes, what was lost, leakage checks, the paper's figures.

Splits are counted from their files; only what these cannot tell (the raw rows) is the manifest's. Columns are gone
through in blocks: a hundred million rows take a few blocks of memory, 40 bytes a user and 3 an item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rbserve.core.errors import DataError
from rbserve.core.tasks import CTR, SEQREC, TASKS, TaskName
from rbserve.core.types import Items
from rbserve.data import columns
from rbserve.data.columns import Ragged, blocks
from rbserve.data.dataset import COLUMNS, NEVER, SPLITS, Dataset, Split
from rbserve.data.integrity_report import (
    Check,
    IntegrityReport,
    PaperLine,
    Reasons,
    SplitFigures,
    TextCoverage,
)

FOREVER = int(np.iinfo(np.int64).max)
WITHOUT_TEXT = "item without text or not in the item file"
FEWEST_STARTS = 100
"""Users of whom it is asked whether they begin together."""
STARTS_TOGETHER = 0.2
"""The share of users who begin at one moment above which times are told as doubtful."""
REPEATED = "repeated item of a user"

# RecBench, Table 2: pair-wise is ctr, list-wise seqrec; finetune is train and valid together.
TABLE_2_LINES = (
    "ctr test rows", "ctr test users", "ctr test items",
    "ctr finetune rows", "ctr finetune users", "ctr finetune items",
    "seqrec test rows", "seqrec test items", "seqrec finetune rows", "seqrec finetune items",
)  # fmt: skip
TABLE_2 = {
    "H&M": (20_000, 5_000, 26_270, 100_000, 25_000, 60_589, 5_000, 15_889, 40_000, 35_344),
    "MIND": (20_006, 1_514, 3_088, 100_000, 8_706, 17_356, 5_000, 10_634, 40_000, 24_451),
    "Micro.": (20_000, 5_000, 15_166, 100_000, 25_000, 19_111, 5_000, 12_273, 40_000, 18_841),
    "Good.": (20_009, 1_736, 26_664, 100_005, 8_604, 74_112, 5_000, 38_868, 40_000, 136_296),
    "CDs": (20_003, 4_930, 36_765, 100_003, 24_618, 113_671, 5_000, 19_684, 40_000, 95_409),
}

CHECKS: dict[str, tuple[str, str]] = {  # what each says, and what it counts
    "user-disjoint": ("no user is in two splits of a task", "users"),
    "candidate-unseen": ("no candidate or target is in its own history", "rows"),
    "history-earlier": ("histories end before their row (seqrec split by users: not after it)", "rows"),
    "in-bounds": ("history offsets rise, items are in the item table", "numbers"),
    "pairs-once": ("no (user, candidate) pair is twice in ctr", "ctr rows"),
    "both-labels": ("every ctr user has rows of both labels in a split", "users"),
    "history-length": ("no history is longer than asked for", "rows"),
    "items-once": ("no item is twice in a history", "rows"),
    "one-sequence": ("every seqrec user has one row in a split", "users"),
    "periods-apart": ("training rows are before validation rows, and these before test rows", "rows"),
}
OF_A_SPLIT = {"user-disjoint": "users", "periods-apart": "time"}
"""Checks of data sets that are divided in one way only, and that way; all others are made of all."""
OF_USERS = ("both-labels", "pairs-once", "one-sequence")
"""Checks that are not made of logs, in which each row has a user of its own."""
OF_HISTORIES = ("candidate-unseen", "history-earlier", "history-length", "items-once")


def inspect(dataset: Dataset, paper: str | None = None) -> IntegrityReport:
    """Counts and checks the files of a data set, and compares it with the column `paper` of TABLE_2.

    DataError when a file is not the one of the manifest, or the columns of a split differ in length.
    """
    manifest, items, findings = dataset.manifest, _item_count(dataset), _Findings()
    looks = [look for task in (CTR, SEQREC) for look in _inspect_task(dataset, task.name, items, findings)]
    split = dataset.judging.split
    left = OF_USERS if dataset.is_log else ()
    checks = [
        findings.check(name) for name in CHECKS if OF_A_SPLIT.get(name, split) == split and name not in left
    ]
    sizes = manifest.counts["source"]
    left_out = {
        reason: count for reason, count in manifest.dropped.items() if reason.startswith(("ctr:", "seqrec:"))
    }
    lost = {reason: count for reason, count in manifest.dropped.items() if reason not in left_out}
    return IntegrityReport(
        name=dataset.name, source=manifest.source, fingerprint=dataset.fingerprint,
        ok=not any(check.passed is False for check in checks), options=manifest.options, sizes=sizes,
        positive_rate=_share(sizes["positives"], sizes["interactions"] - sizes["given"]),
        text=_text_coverage(dataset, items), splits=[figures for figures, _ in looks],
        lost=_reasons(lost), left_out=_reasons(left_out), repaired=_reasons(manifest.repaired),
        checks=checks, paper=paper, table_2=_beside_paper(paper, looks) if paper else [],
    )  # fmt: skip


def shared_start(dataset: Dataset) -> float | None:
    """The share of the users of training rows who begin at one moment, the most frequent one; None of few users.

    Where times are moments, users begin at many of them. Where a source counts days or places of each user's own
    rows, nearly all begin together.
    """
    first = np.full(int(dataset.column("ctr/train", "user").max(initial=-1)) + 1, FOREVER)
    for users, times in zip(
        blocks(dataset.column("ctr/train", "user")), blocks(dataset.column("ctr/train", "time")), strict=True
    ):
        np.minimum.at(first, users, times)
    first = first[first < FOREVER]
    if len(first) < FEWEST_STARTS:
        return None
    return float(np.unique_counts(first).counts.max() / len(first))


@dataclass(frozen=True)
class _Columns:
    """The memory maps of one split; `labels` is None for sequences, `longest` how long histories may be.

    `is_strict`: histories end before the time of their row; else the tie rule may order items of that time.
    """

    where: str
    task: TaskName
    split: Split
    users: NDArray[np.int32]
    items: Items
    labels: NDArray[np.int8] | None
    times: NDArray[np.int64]
    newest: NDArray[np.int64]
    histories: Ragged
    longest: int
    is_strict: bool


_Look = tuple[SplitFigures, NDArray[np.bool_]]  # of a split, and which items of the table are in it


@dataclass
class _Findings:
    """Violations of every check by the place they were found at, and how much was looked at."""

    violations: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in CHECKS})
    checked: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)  # splits whose histories cannot be told apart

    def add(self, name: str, where: str, violations: int, checked: int) -> None:
        self.checked[name] += checked
        if violations:
            self.violations[name][where] = violations

    def check(self, name: str) -> Check:
        meaning, unit = CHECKS[name]
        violations, checked = self.violations[name], self.checked[name]
        passed, detail = True if checked else None, "" if checked else f"there are no {unit}"
        if violations:
            passed, detail = False, ", ".join(f"{where}: {count:,}" for where, count in violations.items())
        elif self.broken and name in OF_HISTORIES:
            passed, detail = None, f"history offsets are broken in {', '.join(self.broken)}"
        return Check(name, meaning, passed, sum(violations.values()), checked, unit, detail)


def _item_count(dataset: Dataset) -> int:
    """Rows of the item table, without reading its texts."""
    return int(pq.read_metadata(dataset.file("items.parquet")).num_rows)


def _text_coverage(dataset: Dataset, items: int) -> TextCoverage:
    counts, dropped = dataset.manifest.counts, dataset.manifest.dropped
    offsets = dataset.column("text", "tokens.offsets")
    with_words = sum(int((steps > 0).sum()) for steps in _steps(offsets))
    with_text = counts["source"]["interactions"] + dropped.get(REPEATED, 0)  # repeats are dropped after it
    return TextCoverage(
        items, with_words, _share(with_words, items), counts["words"], counts["covered"],
        _share(with_text, with_text + dropped.get(WITHOUT_TEXT, 0)))  # fmt: skip


def _inspect_task(dataset: Dataset, task: TaskName, items: int, findings: _Findings) -> list[_Look]:
    """Figures of the three splits of a task; what is wrong goes to `findings`."""
    parts = [_open(dataset, task, split) for split in SPLITS]
    nobody = np.empty(0, np.int32)
    users = reduce(np.union1d, (block for part in parts for block in blocks(part.users)), nobody)
    rows_of, splits_of = np.zeros(len(users), np.int64), np.zeros(len(users), np.int8)
    looks = []
    for part in parts:
        own_rows, own_positives = _rows_of_users(part, users)
        present = own_rows > 0
        rows_of += own_rows
        splits_of += present
        name, wrong = "one-sequence", own_rows > 1
        if part.labels is not None:
            name, wrong = "both-labels", present & ((own_positives == 0) | (own_positives == own_rows))
        findings.add(name, part.where, int(wrong.sum()), int(present.sum()))
        looks.append(_inspect_split(part, items, int(present.sum()), int(own_positives.sum()), findings))
    findings.add("user-disjoint", task, int((splits_of > 1).sum()), len(users))
    _inspect_periods(parts, findings)
    if not TASKS[task].ranks:
        findings.add("pairs-once", task, _repeated_pairs(parts, users, rows_of), int(rows_of.sum()))
    return looks


def _inspect_periods(parts: Sequence[_Columns], findings: _Findings) -> None:
    """Counts rows that are not before all rows of the splits after theirs, which stand in the order of time."""
    next_begins = FOREVER
    for part in reversed(parts):
        late = sum(int((block >= next_begins).sum()) for block in blocks(part.times))
        findings.add("periods-apart", part.where, late, len(part.times))
        next_begins = min([next_begins, *(int(block.min()) for block in blocks(part.times))])


def _open(dataset: Dataset, task: TaskName, split: Split) -> _Columns:
    where = f"{task}/{split}"
    column = partial(dataset.column, where)
    users, items = column("user"), column(TASKS[task].item_column)
    labels = column("label") if "label" in COLUMNS[task] else None
    times, newest = column("time"), column("newest")
    histories = Ragged(column("history.values"), column("history.offsets"))
    if len({len(part) for part in (users, items, times, newest, histories, labels) if part is not None}) > 1:
        raise DataError(f"data set {dataset.name} is damaged: columns of {where} differ in length")
    longest = int(dataset.manifest.options["history"]) - TASKS[task].ranks  # which counts the target
    is_strict = dataset.by_time or not TASKS[task].ranks
    return _Columns(where, task, split, users, items, labels, times, newest, histories, longest, is_strict)


def _rows_of_users(part: _Columns, users: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """How many rows, and how many positive ones, each of `users` has."""
    rows, positives = np.zeros(len(users), np.int32), np.zeros(len(users), np.int32)
    for begin in range(0, len(part.users), columns.BLOCK):
        block = slice(begin, begin + columns.BLOCK)
        index = np.searchsorted(users, part.users[block])
        np.add.at(rows, index, 1)
        if part.labels is not None:
            np.add.at(positives, index[part.labels[block] == 1], 1)
    return rows, positives


def _repeated_pairs(parts: Sequence[_Columns], users: NDArray[np.int32], rows_of: NDArray[np.int64]) -> int:
    """Rows of all splits whose user and candidate another row has already.

    Several passes over the columns, each for as many users as have a few blocks of rows.
    """
    passes = (np.cumsum(rows_of) - rows_of) // (2 * columns.BLOCK)
    repeated = 0
    for number in np.unique(passes):
        first, end = np.searchsorted(passes, (number, number + 1))
        keys = []
        for part in parts:
            for own, candidates in zip(blocks(part.users), blocks(part.items), strict=True):
                chosen = (own >= users[first]) & (own <= users[end - 1])
                keys.append(_pairs(own[chosen], candidates[chosen]))
        repeated += _repeats(np.concatenate(keys))[0]
    return repeated


def _inspect_split(part: _Columns, items: int, users: int, positives: int, findings: _Findings) -> _Look:
    seen = np.zeros(items, bool)
    outside = 0
    for column in (part.items, part.histories.values):
        for block in blocks(column):
            inside = (block >= 0) & (block < items)
            outside += int((~inside).sum())
            seen[block[inside]] = True
    rows, labelled, histories = len(part.users), part.labels is not None, part.histories
    misplaced = sum(int((steps < 0).sum()) for steps in _steps(histories.offsets))
    misplaced += int(histories.offsets[0] != 0) + int(histories.offsets[-1] != len(histories.values))
    checked = rows + len(histories.values) + len(histories.offsets)
    findings.add("in-bounds", part.where, outside + misplaced, checked)
    if misplaced:
        findings.broken.append(part.where)
    lengths = [] if misplaced else _inspect_histories(part, findings)
    figures = SplitFigures(
        task=part.task, split=part.split, rows=rows, users=users, items=int(seen.sum()),
        rows_per_user=_share(rows, users), positives=positives if labelled else None,
        positive_rate=_share(positives, rows) if labelled else None,
        history_mean=_share(len(histories.values), rows) if lengths else None,
        empty=_share(lengths[0], rows) if lengths else None,
        full=_share(lengths[-1], rows) if lengths else None, history_lengths=lengths,
    )  # fmt: skip
    return figures, seen


def _inspect_histories(part: _Columns, findings: _Findings) -> list[int]:
    """Checks the histories row by row; how many rows have 0, 1, ... items of history, the last or more."""
    counts = np.zeros(part.longest + 1, np.int64)
    violations: Counter[str] = Counter()
    for block in _row_blocks(part.histories.offsets):
        offsets = part.histories.offsets[block.start : block.stop + 1]
        values, lengths = part.histories.values[offsets[0] : offsets[-1]], np.diff(offsets)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        counts += np.bincount(np.minimum(lengths, part.longest), minlength=len(counts))
        violations["history-length"] += int((lengths > part.longest).sum())
        violations["candidate-unseen"] += len(np.unique(owner[values == part.items[block][owner]]))
        violations["items-once"] += _repeats(_pairs(owner, values))[1]
        times, newest = part.times[block], part.newest[block]
        too_late = newest >= times if part.is_strict else newest > times
        violations["history-earlier"] += int((too_late | ((newest == NEVER) != (lengths == 0))).sum())
    for name in OF_HISTORIES:
        findings.add(name, part.where, violations[name], len(part.users))
    return [int(count) for count in counts]


def _row_blocks(offsets: NDArray[np.int64]) -> Iterator[slice]:
    """Consecutive rows that have at most BLOCK values together, or one row that has more."""
    begin, rows = 0, len(offsets) - 1
    while begin < rows:
        end = int(np.searchsorted(offsets, offsets[begin] + columns.BLOCK, side="right")) - 1
        end = min(max(end, begin + 1), begin + columns.BLOCK, rows)
        yield slice(begin, end)
        begin = end


def _steps(offsets: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """How far each offset is from the one before, in blocks."""
    for begin, end in zip(blocks(offsets[:-1]), blocks(offsets[1:]), strict=True):
        yield end - begin


def _pairs(owners: NDArray[np.integer], items: Items) -> NDArray[np.int64]:
    """One number for each (owner, item), whatever int32 the item is; the owner is its upper half."""
    return (owners.astype(np.int64) << 32) | (items.astype(np.int64) & 0xFFFFFFFF)


def _repeats(pairs: NDArray[np.int64]) -> tuple[int, int]:
    """How many pairs have occurred before, and how many owners have such; sorts the pairs."""
    pairs.sort()
    again = pairs[1:][pairs[1:] == pairs[:-1]]
    return len(again), len(np.unique(again >> 32))


def _beside_paper(paper: str, looks: Sequence[_Look]) -> list[PaperLine]:
    """Figures of a column of Table 2 beside those of the splits."""
    lines = []
    for title, theirs in zip(TABLE_2_LINES, TABLE_2[paper], strict=True):
        task, stage, figure = title.split()
        chosen = [(figures, seen) for figures, seen in looks
                  if figures.task == task and (figures.split == "test") == (stage == "test")]  # fmt: skip
        here = sum(getattr(figures, figure) for figures, _ in chosen)
        if figure == "items":
            here = int(np.logical_or.reduce([seen for _, seen in chosen]).sum())
        lines.append(PaperLine(title, theirs, here, here / theirs))
    return lines


def _reasons(counts: Mapping[str, int]) -> Reasons:
    ordered = sorted(counts.items(), key=lambda reason: (-reason[1], reason[0]))
    return Reasons(sum(counts.values()), dict(ordered))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
