"""The rows of a table as pieces of requests: candidates, users, labels, and the values of each column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rbserve.core.errors import DataError
from rbserve.core.ids import column_text
from rbserve.core.tasks import HIGHEST_GRADE
from rbserve.core.types import Progress
from rbserve.data.columns import list_places, lists_as_before, open_column
from rbserve.data.request_layout import RequestLayout
from rbserve.data.request_set import read_column
from rbserve.data.request_set_writer import RequestPiece, numbers
from rbserve.data.table_columns import Cells, cells_of, row_lengths

WITHOUT_CANDIDATES = "requests without candidates"


class RequestReader:
    """Reads the requests of a table in pieces; `empty` counts the requests without candidates, which are left out."""

    def __init__(self, layout: RequestLayout, progress: Progress) -> None:
        self.layout, self.empty = layout, 0
        self._progress = progress
        self._users = _Numbering()
        self._groups = _Groups()
        self._last_lists: dict[str, pa.Array] = {}
        self._requests = 0
        self._source = layout.table.source

    def pieces(self) -> Iterator[RequestPiece]:
        """The requests in the order of the table; DataError for a row that is none."""
        read = self._rows_of_requests if self.layout.candidates else self._rows_of_candidates
        done = 0
        for batch in self.layout.table.batches():
            yield read(batch, done)
            done += len(batch)
            self._progress(done, self.layout.table.rows, "rows written")

    def require_groups_together(self, folder: Path) -> None:
        """DataError where the rows of a group stand in several places of the table that was written to `folder`."""
        again = self._groups.first_repeated()
        if again is None or self.layout.group is None:
            return
        row = int(open_column(folder / "offsets.npy")[again])
        group = read_column(self.layout.columns[self.layout.group], folder.joinpath).one(row).item()
        raise DataError(
            f"{self._source}: the rows of group {group} do not stand together: it begins again in row {row + 1:,}",
            f"sort the table by {self.layout.group}",
        )

    # ---- A row is a candidate ----

    def _rows_of_candidates(self, batch: pa.RecordBatch, first: int) -> RequestPiece:
        rows = np.arange(first, first + len(batch))
        groups = self._named(batch, self.layout.group, rows)
        starts = np.ones(len(rows), bool) if groups is None else self._groups.starts(groups)
        columns = {name: self._cells(batch, name) for name in self.layout.columns}
        for name, record in self.layout.columns.items():
            if record.scope == "request":
                columns[name] = self._of_requests(name, columns[name], starts, rows)
        users = self._named(batch, self.layout.user, rows)
        return self._piece(batch, rows, np.flatnonzero(starts), users, columns)

    def _of_requests(
        self, name: str, cells: Cells, starts: NDArray[np.bool_], rows: NDArray[np.int64]
    ) -> Cells:
        """The list of each request in a column that has it in every row; DataError where the rows differ."""
        before = self._last_lists.get(name, cells.values[:0])
        values = pa.concat_arrays([before, cells.values])
        lengths = np.concatenate([[len(before)], cells.lengths[0]])
        begins = np.cumsum(lengths) - lengths
        self._last_lists[name] = values[int(begins[-1]) :]
        codes = values.dictionary_encode(null_encoding="encode").indices.to_numpy()
        differing = np.flatnonzero(~starts & ~lists_as_before(codes, begins, lengths)[1:])
        if len(differing):
            raise DataError(
                f"{self._source}: the list in column {name} is another one in row {rows[differing[0]] + 1:,} than in "
                "the row before, which is of the same request",
                "lists of candidates have one length: pad them; the list of a request is the same in its rows",
            )
        begin, length = begins[1:][starts], lengths[1:][starts]
        return Cells(values.take(pa.array(list_places(begin, length))), (length,))

    # ---- A row is a request ----

    def _rows_of_requests(self, batch: pa.RecordBatch, first: int) -> RequestPiece:
        assert self.layout.candidates
        lengths = row_lengths(batch, self.layout.candidates, self._source)
        assert lengths is not None
        filled = lengths > 0
        self.empty += int((~filled).sum())
        batch, lengths = batch.filter(pa.array(filled)), lengths[filled]
        rows = np.repeat(np.flatnonzero(filled) + first, lengths)
        columns = {name: self._cells(batch, name) for name in self.layout.columns}
        for name, record in self.layout.columns.items():
            if record.scope == "candidate":
                columns[name] = Cells(columns[name].values, columns[name].lengths[1:])
        users = self._named(batch, self.layout.user, rows)
        if users is not None and len(users) == len(lengths):
            users = users.take(pa.array(np.repeat(np.arange(len(lengths)), lengths)))
        return self._piece(batch, rows, np.cumsum(lengths) - lengths, users, columns)

    # ---- Both ----

    def _piece(
        self,
        batch: pa.RecordBatch,
        rows: NDArray[np.int64],
        starts: NDArray[np.int64],
        users: pa.Array | None,
        columns: dict[str, Cells],
    ) -> RequestPiece:
        """The piece of some candidates, of which each stands in a row of the table: `rows` int64[n]."""
        begins = np.zeros(len(rows), np.int64)
        begins[starts] = 1
        requests = np.cumsum(begins) + self._requests - 1
        self._requests += len(starts)
        numbered = requests.astype(np.int32) if users is None else self._users.of(users)
        return RequestPiece(len(rows), starts, numbered, self._labels(batch, rows), columns)

    def _cells(self, batch: pa.RecordBatch, name: str) -> Cells:
        return cells_of(batch.column(name), name, self._source)

    def _labels(self, batch: pa.RecordBatch, rows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        name = self.layout.label
        if name is None:
            return None
        values = numbers(self._cells(batch, name).values, "float64")
        bad = np.flatnonzero(~((values >= 0) & (values <= HIGHEST_GRADE) & (values == np.trunc(values))))
        if len(bad):
            value = values[bad[0]]
            problem = "is not there" if np.isnan(value) else f"is {value:g}"
            raise DataError(
                f"{self._source}: label {name} {problem} in row {rows[bad[0]] + 1:,}",
                f"labels are 0 and 1, or whole grades to {HIGHEST_GRADE}; without --label only latency is measured",
            )
        return values.astype(np.float32)

    def _named(self, batch: pa.RecordBatch, name: str | None, rows: NDArray[np.int64]) -> pa.Array | None:
        """The texts of a column of groups or users; DataError where a row has none."""
        if name is None:
            return None
        texts = column_text(self._cells(batch, name).values)
        absent = np.flatnonzero(pc.fill_null(pc.equal(texts, ""), True).to_numpy(zero_copy_only=False))
        if len(absent):
            raise DataError(
                f"{self._source}: column {name} has no value in row {rows[min(absent[0], len(rows) - 1)] + 1:,}",
                "every row needs its group and its user",
            )
        return texts


class _Numbering:
    """Numbers texts in the order in which they are first seen; about 100 bytes of memory for each."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def of(self, texts: pa.Array) -> NDArray[np.int32]:
        """The number int32[n] of each text."""
        encoded = texts.dictionary_encode()
        known = [
            self._numbers.setdefault(text, len(self._numbers)) for text in encoded.dictionary.to_pylist()
        ]
        numbered: NDArray[np.int32] = np.array(known, np.int32)[encoded.indices.to_numpy()]
        return numbered


class _Groups:
    """Where groups begin in a column that is read in pieces, and whether one begins twice; 8 bytes a group."""

    def __init__(self) -> None:
        self._last: str | None = None
        self._hashes: list[NDArray[np.int64]] = []

    def starts(self, texts: pa.Array) -> NDArray[np.bool_]:
        """Whether each row bool[n] is the first one of its group's run."""
        before = pa.concat_arrays([pa.array([self._last], texts.type), texts[:-1]])
        starts = pc.fill_null(pc.not_equal(texts, before), True).to_numpy(zero_copy_only=False)
        names = texts.filter(pa.array(starts)).to_pylist()
        self._hashes.append(np.fromiter(map(hash, names), np.int64, len(names)))
        self._last = texts[-1].as_py()
        return np.asarray(starts, bool)

    def first_repeated(self) -> int | None:
        """The first run of rows whose group has a run before it; None where there is none."""
        if not self._hashes:
            return None
        hashes = np.concatenate(self._hashes)
        order = np.argsort(hashes, kind="stable")
        again = order[1:][hashes[order][1:] == hashes[order][:-1]]
        return int(again.min()) if len(again) else None
