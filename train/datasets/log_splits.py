"""A log of clicks as a data set: divided in the order of time, its fields coded by the training rows.

Test rows are the last tenth, validation rows the tenth before it, unless numbers of rows are given; rows of one time
are in one split. The vocabulary of a category has the values of training rows that occur often enough, counted by
DuckDB in bounded memory; all others are UNSEEN. Where they are too many for a vocabulary, codes are hashes. A column is
coded at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import DataError
from rbserve.core.fields import FIRST, FieldSpec
from rbserve.core.files import replacing_directory, scratch
from rbserve.core.ids import id_sql
from rbserve.core.loss import is_too_much
from rbserve.core.types import Progress
from rbserve.data.columns import BLOCK, Ragged
from rbserve.data.dataset import NEVER, CtrSplit, Dataset, Split, open_dataset
from rbserve.data.dataset_writer import DatasetWriter
from rbserve.features.coding import FieldCoder
from rbserve.train.datasets.click_log import ClickLog, StagedLog, stage
from rbserve.train.datasets.options import Reading
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.tally import Tally

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ITEM = "ad"
"""The id of the one item, which every row is about."""
EVERY_ROW = 1 << 62
"""A number of test or finetune rows that stands for a share of the file: a tenth, and all before it."""
TENTH = 10

Parts = Mapping[Split, slice]


@dataclass(frozen=True)
class ValueLimits:
    """`min_count`: training rows that a value needs for a code. `most_values`: codes of a vocabulary, at most."""

    min_count: int
    most_values: int


def write_log(
    log: ClickLog,
    source: str,
    path: Path,
    raw: Path,
    protocol: Protocol,
    reading: Reading,
    memory: int,
    temporary: Path,
    progress: Progress,
) -> Dataset:
    """Reads a log and writes the data set at `path`, atomically; DuckDB uses at most `memory` bytes."""
    tally, file = Tally(), log.locate(raw)
    limits = ValueLimits(reading.min_count_value, reading.most_values)
    with scratch(temporary, path.name) as work, replacing_directory(path) as partial:
        staged = stage(log, file, work / "rows", tally, protocol.max_rows, reading.allow_loss, progress)
        parts = divided(staged.times, protocol, file)
        writer = DatasetWriter(partial)
        with closing(writer), _database(work / "counts", memory) as database:
            for split, rows in parts.items():
                _write_rows(writer, split, staged, rows)
            for done, spec in enumerate(log.fields):
                progress(done, len(log.fields), f"field {spec.name}")
                coder = _coder(database, staged, spec, parts["train"], limits)
                _write_field(writer, coder, staged, parts)
                _check_numbers(coder, file, reading.allow_loss, tally)
        _write_tables(writer, parts)
        writer.seal(
            name=path.name,
            source=source,
            seed=protocol.seed,
            options=_options(protocol, limits),
            counts={
                "items": 1,
                "words": 0,
                "covered": 0.0,
                "items_without_words": 1,
                "source": _sizes(staged),
            },
            dropped=tally.dropped,
            repaired=tally.repaired,
        )
    return open_dataset(path)


def divided(times: NDArray[np.int64], protocol: Protocol, file: Path) -> Parts:
    """The rows of each split, by times int64[n] that rise; rows of one time are in one split.

    Raises DataError where a split would have no rows.
    """

    def begin_of_time(row: int) -> int:
        return int(np.searchsorted(times, times[row])) if 0 < row < len(times) else row

    wanted = protocol.ctr_test_rows
    test = begin_of_time(len(times) - (len(times) // TENTH if wanted == EVERY_ROW else wanted))
    finetune = min(max(test, 0), protocol.ctr_finetune_rows)
    valid = begin_of_time(test - round(finetune * protocol.valid_users))
    parts: Parts = {
        "train": slice(test - finetune, valid), "valid": slice(valid, test), "test": slice(test, len(times))
    }  # fmt: skip
    for split, rows in parts.items():
        if rows.start < 0 or rows.start >= rows.stop:
            raise DataError(
                f"{file} has {len(times):,} rows of {len(np.unique(times)):,} times: none are left for {split}",
                "take more rows, or fewer for the test: --ctr-test",
            )
    return parts


@contextmanager
def _database(folder: Path, memory: int) -> Iterator[DuckDBPyConnection]:
    """A database in memory that spills into `folder`."""
    import duckdb  # imported here: listing the sources does not need it

    with duckdb.connect() as database:
        database.execute(f"set memory_limit = '{memory >> 20}MiB'")
        database.execute("set temp_directory = ?", [str(folder)])
        database.execute("set threads = 1")
        yield database


def _coder(
    database: DuckDBPyConnection, staged: StagedLog, spec: FieldSpec, train: slice, limits: ValueLimits
) -> FieldCoder:
    """The coder of a field, by its values in the training rows."""
    if spec.is_number:
        return FieldCoder(spec)
    values = _values(database, staged, spec.name, train, limits)
    if len(values) > limits.most_values:
        return FieldCoder(msgspec.structs.replace(spec, size=FIRST + limits.most_values, hashed=True))
    return FieldCoder(msgspec.structs.replace(spec, size=FIRST + len(values)), values)


def _values(
    database: DuckDBPyConnection, staged: StagedLog, name: str, train: slice, limits: ValueLimits
) -> list[str]:
    """The values that are frequent enough, the most frequent first, ties by text; one more than allowed at most."""
    rows = database.execute(
        f"""select value from (
                select {id_sql("raw")} as value, sum(rows) as rows from (
                    select "{name}" as raw, count(*) as rows from read_parquet(?, file_row_number = true)
                    where file_row_number >= ? and file_row_number < ? group by raw)
                group by value)
            where value <> '' and rows >= ? order by rows desc, value limit ?""",
        [str(staged.table), train.start, train.stop, limits.min_count, limits.most_values + 1],
    )
    return [value for (value,) in rows.fetchall()]


def _write_rows(writer: DatasetWriter, split: Split, staged: StagedLog, rows: slice) -> None:
    """Writes the rows of a split: each of a user of its own, about the one item, with an empty history."""
    for begin in range(rows.start, rows.stop, BLOCK):
        piece = slice(begin, min(begin + BLOCK, rows.stop))
        users = np.arange(piece.start, piece.stop, dtype=np.int32)
        histories = Ragged(np.empty(0, np.int32), np.zeros(len(users) + 1, np.int64))
        own = CtrSplit(users, np.zeros(len(users), np.int32), staged.labels[piece], histories)
        writer.add_ctr(split, own, staged.times[piece], np.full(len(users), NEVER))


def _write_field(writer: DatasetWriter, coder: FieldCoder, staged: StagedLog, parts: Parts) -> None:
    """Makes a field one of the data set's, and writes its values in every split."""
    writer.add_field(coder.spec, coder.values)
    for split, rows in parts.items():
        with closing(writer.field_writer(coder.spec, split)) as column:
            for piece in staged.pieces(coder.spec.name, rows):
                column.append(coder.column(piece))


def _check_numbers(coder: FieldCoder, file: Path, allow_loss: bool, tally: Tally) -> None:
    """Counts values that are no numbers and became missing; DataError where they are too many."""
    counts = coder.counts
    if is_too_much(counts.malformed, counts.rows) and not allow_loss:
        raise DataError(
            f"{file}: {counts.malformed:,} of {counts.rows:,} values of {coder.spec.name} are no numbers, for "
            f"example {counts.example!r}",
            "columns must stand in the official order; --allow-loss takes them as missing",
        )
    tally.repaired[f"value of {coder.spec.name} that is no number, taken as missing"] += counts.malformed


def _write_tables(writer: DatasetWriter, parts: Parts) -> None:
    """Writes the one item, which has no text, and the users: the number of each row among those that are whole."""
    writer.add_items([([ITEM], [""])])
    no_words = Ragged(np.empty(0, np.int32), np.zeros(2, np.int64))
    writer.add_tokens([], np.empty(0, np.int64), no_words, max_words=1)
    users = np.arange(parts["train"].start, parts["test"].stop, dtype=np.int32)
    pieces = (users[begin : begin + BLOCK] for begin in range(0, len(users), BLOCK))
    writer.add_users(users, ([*map(str, piece.tolist())] for piece in pieces))


def _options(protocol: Protocol, limits: ValueLimits) -> dict[str, Any]:
    """What the data set was made with; a history of 0 items says that there are none."""
    sizes = {"ctr_test_rows": protocol.ctr_test_rows, "ctr_finetune_rows": protocol.ctr_finetune_rows}
    return {
        "split": "time",
        "history": 0,
        "valid_users": protocol.valid_users,
        "max_rows": protocol.max_rows,
        "min_count_value": limits.min_count,
        **{name: rows for name, rows in sizes.items() if rows != EVERY_ROW},
    }


def _sizes(staged: StagedLog) -> dict[str, int]:
    positives = sum(int(staged.labels[begin : begin + BLOCK].sum()) for begin in range(0, len(staged), BLOCK))
    return {
        "users": len(staged), "items": 1, "items_with_text": 0, "interactions": len(staged),
        "positives": positives, "given": 0,
    }  # fmt: skip
