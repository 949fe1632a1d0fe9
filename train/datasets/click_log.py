"""Logs of clicks: a file in which every row is a request of its own, known by its fields alone.

There are no users, no histories, and one item, the ad. A row is read once, into a Parquet file of text columns, which
`train/protocol/log_split.py` divides and codes. Rows of another width, without a label 0 or 1, or without a time are
counted and left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rbserve.core.errors import DataError
from rbserve.core.fields import FieldSpec
from rbserve.core.types import Progress
from rbserve.data.columns import ColumnWriter, open_column
from rbserve.train.datasets.columns import column_places
from rbserve.train.datasets.delimited import EVENTS, DelimitedFile
from rbserve.train.datasets.loss import NO_LABEL, NO_TIME, check_loss
from rbserve.train.datasets.options import Dialect
from rbserve.train.datasets.raw_file import estimate_rows
from rbserve.train.datasets.reading import locate
from rbserve.train.protocol.tally import Tally

GROUP = 1 << 18  # rows of the Parquet file that are held in memory at a time
HOUR, WEEKDAY = "hour", "weekday"
LOSSES = (EVENTS.fields, EVENTS.undecodable or "", NO_LABEL, NO_TIME)
ADVICE = {
    NO_LABEL: "the label of a row is 0 or 1",
    NO_TIME: "an hour is written YYMMDDHH, as in 14102100",
}


@dataclass(frozen=True)
class ClickLog:
    """How a log is written: its file, its columns, and which of them are fields.

    `columns` are those of a file without a header, empty where the first line has their names. `clock` is a column of
    hours, written YYMMDDHH: it becomes the time of a row, in seconds since 1970, and the fields `hour` (0 to 23) and
    `weekday` (1, Monday, to 7). Without a clock the time of a row is its place in the file.
    """

    file: str
    dialect: Dialect
    label: str
    categories: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    clock: str | None = None

    @property
    def fields(self) -> list[FieldSpec]:
        """The fields, of which categories have no size yet."""
        made = (HOUR, WEEKDAY) if self.clock else ()
        return [
            *(FieldSpec(name, "context", "number") for name in self.numbers),
            *(FieldSpec(name, "context", "category") for name in (*made, *self.categories)),
        ]

    @property
    def wanted(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.label, *((self.clock,) if self.clock else ()), *self.numbers, *self.categories)

    def locate(self, raw: Path) -> Path:
        """The file: `raw` itself, or the one in the folder `raw`; DataError where there is none."""
        return locate(raw, self.file) if raw.is_dir() else raw

    def open(self, path: Path, tally: Tally, max_rows: int) -> DelimitedFile:
        """The records of the file. Raises DataError for a header where none belongs, and for another width."""
        if not self.columns:
            return DelimitedFile(path, self.dialect, tally, EVENTS, max_rows=max_rows)
        first = DelimitedFile(path, self.dialect, Tally()).names
        if len(first) != len(self.columns):
            raise DataError(
                f"the first row of {path} has {len(first)} of {len(self.columns)} columns",
                f"separated by {self.dialect.delimiter!r}: {self.label}, {len(self.numbers)} numbers and "
                f"{len(self.categories)} categories; a test file without labels cannot be taken",
            )
        if any(character.isalpha() for character in first[0]):
            raise DataError(
                f"{path} begins with a header ({', '.join(first[:3])}, …), but the official file has none",
                "remove its first line",
            )
        return DelimitedFile(path, self.dialect, tally, EVENTS, self.columns, max_rows)


@dataclass
class StagedLog:
    """The rows of a log that are whole, in the order of the file: text columns, labels int8[n] and times int64[n]."""

    path: Path
    labels: NDArray[np.int8]
    times: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def table(self) -> Path:
        """The Parquet file of the text columns."""
        return self.path / "columns.parquet"

    def pieces(self, name: str, rows: slice) -> Iterator[pa.Array]:
        """A column of consecutive rows, piece by piece."""
        begin = 0
        with pq.ParquetFile(self.table) as file:
            for batch in file.iter_batches(GROUP, columns=[name], use_threads=False):
                first, last = max(rows.start - begin, 0), min(rows.stop - begin, len(batch))
                if first < last:
                    yield batch.column(0).slice(first, last - first)
                begin += len(batch)


@dataclass
class _Stage:
    """The files of a staged log in the making; `last` is the latest time until now, `rows` counts those written."""

    folder: Path
    schema: pa.Schema
    rows: int = 0
    last: int = 0
    held: list[pa.Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._labels = ColumnWriter(self.folder / "label.npy", np.int8)
        self._times = ColumnWriter(self.folder / "time.npy", np.int64)
        self._table = pq.ParquetWriter(self.folder / "columns.parquet", self.schema, compression="zstd")

    def append(
        self, columns: Mapping[str, pa.Array], labels: NDArray[np.int8], times: NDArray[np.int64]
    ) -> None:
        self._labels.append(labels)
        self._times.append(times)
        self.held.append(pa.table([columns[name] for name in self.schema.names], schema=self.schema))
        self.rows += len(labels)
        if sum(map(len, self.held)) >= GROUP:
            self._write()

    def close(self) -> None:
        self._write()
        self._labels.close()
        self._times.close()
        self._table.close()

    def opened(self) -> StagedLog:
        columns = (open_column(self.folder / f"{name}.npy") for name in ("label", "time"))
        return StagedLog(self.folder, *columns)

    def _write(self) -> None:
        if self.held:
            self._table.write_table(pa.concat_tables(self.held))
            self.held = []


def stage(
    log: ClickLog,
    path: Path,
    folder: Path,
    tally: Tally,
    max_rows: int,
    allow_loss: bool,
    progress: Progress,
) -> StagedLog:
    """Reads the rows of a log into `folder`; what is lost is counted.

    Raises DataError for a file that is another's, where too many rows are lost, and for rows that are not in the order
    of their times.
    """
    file = log.open(path, tally, max_rows)
    places = column_places(path, log.wanted, file.names)
    schema = pa.schema([(spec.name, pa.string()) for spec in log.fields])
    total = estimate_rows(path, max_rows)
    with closing(_Stage(folder, schema)) as staged:
        for batch in file.batches([*places.values()]):
            cells = {
                name: pc.utf8_trim_whitespace(batch.column(f"c{place}")) for name, place in places.items()
            }
            _append(log, path, cells, staged, tally)
            progress(staged.rows, total, f"rows of {path.name}")
    whole = staged.opened()
    read = len(whole) + sum(tally.dropped[reason] for reason in LOSSES)
    if not allow_loss:
        check_loss(path, read, LOSSES, tally, lambda reason: tally.examples.get(reason, ""), ADVICE)
    if not len(whole):
        raise DataError(f"{path} has no row that can be read", "fetch the file again")
    return whole


def _append(log: ClickLog, path: Path, columns: Mapping[str, pa.Array], staged: _Stage, tally: Tally) -> None:
    """Adds a piece of the file; rows without label or time are counted and left out."""
    labels = pc.index_in(columns[log.label], pa.array(["0", "1"])).fill_null(-1).to_numpy().astype(np.int8)
    usable = labels >= 0
    _drop(tally, NO_LABEL, columns[log.label], ~usable)
    moments = None
    if log.clock:
        moments = _moments(columns[log.clock])
        untimed = usable & moments.is_null().to_numpy(zero_copy_only=False)
        _drop(tally, NO_TIME, columns[log.clock], untimed)
        usable &= ~untimed
        columns = {**columns, **_clock_fields(moments)}
    rows = pa.array(usable)
    fields = {name: columns[name].filter(rows) for name in staged.schema.names}
    if moments is None:
        times = staged.rows + np.arange(usable.sum())
    else:
        times = moments.filter(rows).cast(pa.int64()).to_numpy()
        _require_order(path, times, staged)
    staged.append(fields, labels[usable], times)


def _drop(tally: Tally, reason: str, column: pa.Array, rows: NDArray[np.bool_]) -> None:
    """Counts rows that are left out, with the first one's value as the example."""
    if rows.any():
        tally.dropped[reason] += int(rows.sum())
        tally.examples.setdefault(reason, repr(column[int(rows.argmax())].as_py()))


def _moments(hours: pa.Array) -> pa.Array:
    """Hours that are written YYMMDDHH as moments, null where they are none."""
    written = pc.if_else(pc.match_substring_regex(hours, "^[0-9]{8}$"), hours, None)
    return pc.strptime(written, format="%y%m%d%H", unit="s", error_is_null=True)


def _clock_fields(moments: pa.Array) -> dict[str, pa.Array]:
    return {
        HOUR: pc.hour(moments).cast(pa.string()),
        WEEKDAY: pc.day_of_week(moments, count_from_zero=False).cast(pa.string()),
    }


def _require_order(path: Path, times: NDArray[np.int64], staged: _Stage) -> None:
    """Raises DataError for a time that is before the one of the row above it."""
    if not len(times):
        return
    early = np.diff(times, prepend=staged.last) < 0
    if early.any():
        raise DataError(
            f"{path} is not in the order of time: row {staged.rows + int(early.argmax()) + 1:,} is earlier than "
            "the one before it",
            "the official file is in that order; sort the rows by their hour",
        )
    staged.last = int(times[-1])
