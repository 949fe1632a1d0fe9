"""Fills the directory of a data set piece by piece, then numbers its items, counts, and seals it.

Rows arrive with provisional item numbers, those of the source's catalogue. `seal` keeps the items that the
data set is to hold, gives them numbers without gaps, and rewrites the columns in place, block by block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rbserve.core.fields import FieldSpec
from rbserve.core.files import digest, write_bytes
from rbserve.core.tasks import CTR, SEQREC
from rbserve.data.columns import ColumnWriter, Ragged, RaggedWriter, blocks, open_column
from rbserve.data.dataset import (
    COLUMNS,
    SCHEMA,
    SPLITS,
    WORD_LIMIT,
    CtrSplit,
    DatasetManifest,
    SeqSplit,
    Split,
    values_file,
)

ITEM_COLUMNS = ("candidate", "target", "history.values")
IdsAndTexts = Iterable[tuple[list[str], list[str]]]


class SplitWriter:
    """The columns of one split of one task."""

    def __init__(self, folder: Path, columns: Mapping[str, type[np.generic]]) -> None:
        self._columns = {name: ColumnWriter(folder / f"{name}.npy", kind) for name, kind in columns.items()}
        self._history = RaggedWriter(folder, "history")

    def append(self, histories: Ragged, **columns: NDArray[Any]) -> None:
        """Adds rows; every column of the split must be given, all of the same length."""
        for name, writer in self._columns.items():
            writer.append(columns[name])
        self._history.append(histories)

    def close(self) -> None:
        """Makes the columns readable."""
        for writer in self._columns.values():
            writer.close()
        self._history.close()


class DatasetWriter:
    """A data set in the making, in a directory that nobody takes for a finished one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._splits = {
            f"{task}/{split}": SplitWriter(folder / task / split, columns)
            for task, columns in COLUMNS.items()
            for split in SPLITS
        }
        self._fields: list[FieldSpec] = []

    def add_ctr(
        self, split: Split, rows: CtrSplit, times: NDArray[np.int64], newest: NDArray[np.int64]
    ) -> None:
        """Adds labelled pairs, when they happened, and when the last item of each history did."""
        self._splits[f"{CTR.name}/{split}"].append(
            rows.histories, user=rows.users, candidate=rows.candidates, label=rows.labels, time=times,
            newest=newest)  # fmt: skip

    def add_seqrec(
        self, split: Split, rows: SeqSplit, times: NDArray[np.int64], newest: NDArray[np.int64]
    ) -> None:
        """Adds sequences, when their targets happened, and when the last item of each history did."""
        self._splits[f"{SEQREC.name}/{split}"].append(
            rows.histories, user=rows.users, target=rows.targets, time=times, newest=newest
        )

    def close(self) -> None:
        """No more rows; from here on the columns can be read."""
        for writer in self._splits.values():
            writer.close()

    def column(self, folder: str, name: str, writable: bool = False) -> NDArray[Any]:
        """A closed column, for example ("ctr/train", "candidate")."""
        return open_column(self.folder / folder / f"{name}.npy", writable)

    def mark_items(self, into: NDArray[np.bool_], splits: Sequence[Split] = SPLITS) -> None:
        """Sets `into[item]` for every item of the given splits, as candidate, target or in a history."""
        for split in splits:
            for task in COLUMNS:
                for name in ITEM_COLUMNS:
                    if (self.folder / task / split / f"{name}.npy").is_file():
                        for block in blocks(self.column(f"{task}/{split}", name)):
                            into[block] = True

    def renumber_items(self, numbers: NDArray[np.int32]) -> None:
        """Replaces every item by `numbers[item]`, in place."""
        for name in ITEM_COLUMNS:
            for path in sorted(self.folder.glob(f"*/*/{name}.npy")):
                for block in blocks(open_column(path, writable=True)):
                    block[:] = numbers[block]

    def users(self) -> NDArray[np.int32]:
        """The distinct users of all splits, ascending."""
        parts = [np.unique(self.column(folder, "user")) for folder in self._splits]
        return np.unique(np.concatenate(parts))

    def add_items(self, pieces: IdsAndTexts) -> int:
        """Writes the item table, in the order of the items' numbers; returns how many there are."""
        return _write_strings(self.folder / "items.parquet", ("item_id", "text"), pieces)

    def add_users(self, users: NDArray[np.int32], ids: Iterable[list[str]]) -> None:
        """Writes which raw id stands behind each user of the splits."""
        schema = pa.schema([("user", pa.int32()), ("user_id", pa.string())])
        done = 0
        with pq.ParquetWriter(self.folder / "users.parquet", schema) as writer:
            for piece in ids:
                numbers = pa.array(users[done : done + len(piece)])
                writer.write_table(pa.table([numbers, pa.array(piece, pa.string())], schema=schema))
                done += len(piece)

    def add_tokens(
        self, words: Sequence[str], counts: NDArray[np.int64], tokens: Ragged, max_words: int
    ) -> None:
        """Writes the vocabulary, how many items each word occurs in, and the items' texts as word numbers.

        The words' file says too where texts are cut, so that the text of a later item is cut there.
        """
        writer = RaggedWriter(self.folder / "text", "tokens")
        writer.append(tokens)
        writer.close()
        table = pa.table({"word": pa.array(words, pa.string()), "items": pa.array(counts)})
        limited = table.replace_schema_metadata({WORD_LIMIT: str(max_words)})
        pq.write_table(limited, self.folder / "text" / "words.parquet")

    def add_field(self, spec: FieldSpec, values: Sequence[str] = ()) -> None:
        """Makes a field one of the data set's, with the values of its codes from FIRST on where it has a vocabulary.

        Its own values are written by `field_writer`.
        """
        self._fields.append(spec)
        if spec.has_values:
            (self.folder / "fields").mkdir(exist_ok=True)
            table = pa.table({"value": pa.array(values, pa.string())})
            pq.write_table(table, self.folder / "fields" / values_file(spec))

    def field_writer(self, spec: FieldSpec, split: Split | None = None) -> ColumnWriter:
        """The column that takes the values of a field; the caller closes it.

        Of a field of the items: a value an item of the table; of the users: a value a row of users.parquet; of the
        context: a value a row of the `split` of click prediction. Rows of codes int32[R, width] are given as they are.
        """
        assert (spec.scope == "context") == (split is not None), spec
        folder = self.folder / (f"{CTR.name}/{split}" if split else "fields")
        return ColumnWriter(folder / f"{spec.entry}.npy", np.float32 if spec.is_number else np.int32)

    def seal(
        self,
        *,
        name: str,
        source: str,
        seed: int,
        options: Mapping[str, Any],
        counts: Mapping[str, Any],
        dropped: Mapping[str, int],
        repaired: Mapping[str, int],
    ) -> None:
        """Counts, computes digests and the fingerprint, and writes the manifest: the data set is whole."""
        files = sorted((*self.folder.rglob("*.parquet"), *self.folder.rglob("*.npy")))
        manifest = DatasetManifest(
            schema=SCHEMA,
            name=name,
            source=source,
            seed=seed,
            options=dict(options),
            counts={**counts, **self._counts()},
            dropped={reason: count for reason, count in sorted(dropped.items()) if count},
            repaired={reason: count for reason, count in sorted(repaired.items()) if count},
            fingerprint=content_fingerprint(self.folder, self._fields),
            files={file.relative_to(self.folder).as_posix(): digest(file) for file in files},
            fields=self._fields,
        )
        write_bytes(
            self.folder / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest, order="sorted"))
        )

    def _counts(self) -> dict[str, dict[str, dict[str, int]]]:
        counts: dict[str, dict[str, dict[str, int]]] = {task: {} for task in COLUMNS}
        items = pq.read_metadata(self.folder / "items.parquet").num_rows
        for task, of_task in counts.items():
            for split in SPLITS:
                seen = np.zeros(items, bool)
                folder = f"{task}/{split}"
                for name in ITEM_COLUMNS:
                    if (self.folder / folder / f"{name}.npy").is_file():
                        for block in blocks(self.column(folder, name)):
                            seen[block] = True
                users = self.column(folder, "user")
                of_task[split] = {
                    "rows": len(users),
                    "users": len(np.unique(users)),
                    "items": int(seen.sum()),
                }
                if "label" in COLUMNS[task]:
                    of_task[split]["positives"] = int(self.column(folder, "label").sum(dtype=np.int64))
        return counts


def _write_strings(path: Path, names: tuple[str, ...], pieces: Iterable[tuple[list[str], ...]]) -> int:
    schema = pa.schema([(name, pa.string()) for name in names])
    rows = 0
    with pq.ParquetWriter(path, schema) as writer:
        for piece in pieces:
            writer.write_table(pa.table([pa.array(column, pa.string()) for column in piece], schema=schema))
            rows += len(piece[0])
    return rows


def content_fingerprint(folder: Path, fields: Sequence[FieldSpec]) -> str:
    """A digest of the content, not of the files' bytes, which may change with the writer's version."""
    sha = hashlib.sha256(msgspec.json.encode(fields) if fields else b"")
    values = [f"fields/{values_file(spec)}" for spec in fields if spec.has_values]
    for name in ("items.parquet", "text/words.parquet", *values):
        with pq.ParquetFile(folder / name) as file:
            for column in file.schema_arrow.names:
                sha.update(f"{name} {column}".encode())
                for batch in file.iter_batches(columns=[column]):
                    sha.update("".join(f"{value}\0" for value in batch.column(0).to_pylist()).encode())
    for path in sorted(folder.rglob("*.npy")):
        sha.update(path.relative_to(folder).as_posix().encode())
        for block in blocks(open_column(path)):
            sha.update(np.ascontiguousarray(block).data)
    return sha.hexdigest()
