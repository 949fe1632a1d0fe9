"""An item table as memory-mapped columns, for catalogues whose ids would not fit into every worker process.

    items/
      ids.values.npy, ids.offsets.npy        the ids in UTF-8, one behind the other, and where each begins
      texts.values.npy, texts.offsets.npy    the texts, likewise
      buckets.npy, rows.npy                  a hash table: the rows of each bucket of ids
      retired.npy                            the rows of retired items

Opening reads nothing, looking an id up reads a few pages, and processes share all of them. Python's own table of ten
million ids, a dict and two lists of strings, takes gigabytes in every process (docs/large-catalogues.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, overload
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rbserve.core.ids import id_text
from rbserve.data.columns import ColumnWriter, open_column
from rbserve.data.dataset import ItemTable

FOLDER = "items"
MANY = 1_000_000
"""Items from which on an artefact has its table as mapped columns too."""
IDS, TEXTS = "ids", "texts"
BUCKETS, ROWS, RETIRED = "buckets", "rows", "retired"
MEMBERS = [
    f"{FOLDER}/{name}.npy"
    for name in (
        *(f"{of}.{part}" for of in (IDS, TEXTS) for part in ("values", "offsets")),
        BUCKETS,
        ROWS,
        RETIRED,
    )
]


class MappedTexts(Sequence[str]):
    """Texts in UTF-8 in a column of bytes, decoded when they are read."""

    def __init__(self, values: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.values, self.offsets = memoryview(values), memoryview(offsets)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        place = row + len(self) if row < 0 else row
        if not 0 <= place < len(self):
            raise IndexError(row)
        return str(self.values[self.offsets[place] : self.offsets[place + 1]], "utf-8")


class MappedIndex(Mapping[str, int]):
    """Raw id -> item index, by a hash table in two columns: bucket b has rows[buckets[b]:buckets[b + 1]]."""

    def __init__(self, ids: MappedTexts, buckets: NDArray[np.int32], rows: NDArray[np.int32]) -> None:
        self._ids = ids
        self._buckets, self._rows = memoryview(buckets), memoryview(rows)  # type: ignore[arg-type]
        self._last = len(buckets) - 2

    def __getitem__(self, item: str) -> int:
        if not isinstance(item, str):
            raise KeyError(item)
        key = item.encode()
        bucket, values, offsets = crc32(key) & self._last, self._ids.values, self._ids.offsets
        for place in range(self._buckets[bucket], self._buckets[bucket + 1]):
            row: int = self._rows[place]
            if values[offsets[row] : offsets[row + 1]] == key:
                return row
        raise KeyError(item)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)


@dataclass(frozen=True)
class MappedItemTable(ItemTable):
    """An item table whose ids and texts stay in their files."""

    rows_by_id: Mapping[str, int] | None = None

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Raw id -> item index."""
        assert self.rows_by_id is not None
        return self.rows_by_id

    @cached_property
    def _older(self) -> dict[str, int]:
        """None: tables with ids that an earlier version wrote otherwise are not mapped."""
        return {}


def item_members(items: ItemTable) -> list[str]:
    """The members that a table of so many items has as mapped columns; none of a small one, or with ids of old."""
    if len(items) < MANY or any(id_text(item) != item for item in items.ids):
        return []
    return MEMBERS


def write_mapped_items(folder: Path, items: ItemTable) -> None:
    """Writes an item table as columns into an artefact's directory."""
    offsets = {}
    for name, texts in ((IDS, items.ids), (TEXTS, items.texts)):
        values = pa.array(texts, pa.large_string()).buffers()
        ends = np.frombuffer(values[1], np.int64)[: len(items) + 1]
        text_bytes = np.frombuffer(values[2] or b"", np.uint8)[: ends[-1]]
        _write(folder, f"{name}.values", text_bytes)
        _write(folder, f"{name}.offsets", ends)
        offsets[name] = text_bytes, ends
    buckets, rows = hash_table(*offsets[IDS])
    _write(folder, BUCKETS, buckets)
    _write(folder, ROWS, rows)
    _write(folder, RETIRED, np.array(sorted(items.retired), np.int32))


def hash_table(
    values: NDArray[np.uint8], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where the rows of each bucket begin, int32[buckets + 1], and the rows int32[n], of ids in a column of bytes."""
    count = 1 << max(0, (len(offsets) - 2).bit_length())
    content, ends = memoryview(values), offsets.tolist()  # type: ignore[arg-type]
    hashes = np.fromiter(
        (crc32(content[begin:end]) for begin, end in pairwise(ends)),
        np.uint32,
        len(ends) - 1,
    )
    of_row = (hashes & np.uint32(count - 1)).astype(np.int64)
    buckets = np.concatenate([[0], np.cumsum(np.bincount(of_row, minlength=count))])
    return buckets.astype(np.int32), np.argsort(of_row, kind="stable").astype(np.int32)


def open_mapped_items(folder: Path) -> MappedItemTable:
    """The table in an artefact's directory, whose files are verified elsewhere."""
    columns: dict[str, NDArray[Any]] = {name: np.asarray(open_column(folder / name)) for name in MEMBERS}
    ids, texts = (
        MappedTexts(columns[f"{FOLDER}/{name}.values.npy"], columns[f"{FOLDER}/{name}.offsets.npy"])
        for name in (IDS, TEXTS)
    )
    buckets, rows, retired = (columns[f"{FOLDER}/{name}.npy"] for name in (BUCKETS, ROWS, RETIRED))
    return MappedItemTable(ids, texts, frozenset(retired.tolist()), MappedIndex(ids, buckets, rows))


def _write(folder: Path, name: str, column: NDArray[Any]) -> None:
    writer = ColumnWriter(folder / FOLDER / f"{name}.npy", column.dtype.type)
    writer.append(column)
    writer.close()
