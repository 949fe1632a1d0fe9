"""A request set: the requests of a user's own table, as named columns, which an adopted model is judged and timed on.

    data/<name>/
      manifest.json          kind "requests": columns, counts, where it was read from, file digests, fingerprint
      offsets.npy            int64[R + 1]: request r has the rows offsets[r]:offsets[r + 1], one a candidate
      label.npy              float32[rows], where the table has labels
      user.npy               int32[rows]: the number of the row's user; of its request where the table has no users
      columns/<number>.npy   a column's values in the order of the rows (or of the requests); texts are UTF-8 bytes
      columns/<number>.offsets.npy   int64, of texts and of lists of different lengths: where each value begins
      columns/<number>.lists.npy     int64, of lists of texts: where each list begins among the texts

Columns are memory-mapped: a set of ten million rows costs what the requests that are made cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import DataError, UsageError
from rbserve.core.files import FileDigest, mismatch, write_bytes
from rbserve.core.manifest import read_manifest
from rbserve.core.requests import SLATE, TEXT, FeatureSpec, Request, Signature, TensorSpec
from rbserve.data.columns import open_column

SCHEMA = 1
KIND = "requests"
Scope = Literal["candidate", "request"]


class _Kind(msgspec.Struct):
    kind: str = ""


class ColumnRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column: values of `dtype` (of `core.requests.DTYPES`), one for each candidate or for each request.

    `width` is how many values each has: None of a single one, a number of a list that always has so many, -1 of lists
    of different lengths. `file` is the number in its file names.
    """

    dtype: str
    scope: Scope
    width: int | None
    file: int


class RequestSetManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request set says of itself.

    `source` is the table's file name. `labels`: "binary" where all are 0 or 1, "graded" for others, None without
    labels. `skipped` counts by reason the rows that could not be read, `missing` by column the numbers that are not
    there. `notes` are sentences on how the table was understood. `fingerprint` is a digest of the content.
    `data_set` is the name and fingerprint of the prepared data set whose test rows these are, empty where they are of
    none.
    """

    schema: int
    kind: str
    name: str
    source: str
    requests: int
    rows: int
    labels: Literal["binary", "graded"] | None
    columns: dict[str, ColumnRecord]
    skipped: dict[str, int]
    fingerprint: str
    files: dict[str, FileDigest]
    data_set: tuple[str, str] | None = None
    missing: dict[str, int] = {}
    notes: list[str] = []


@dataclass(frozen=True)
class Column:
    """The values of a column.

    `texts` int64 are where each text begins in the UTF-8 bytes that `values` then are, `lists` int64 where each list
    begins among the values, where lists have different lengths.
    """

    record: ColumnRecord
    values: NDArray[Any]
    texts: NDArray[np.int64] | None = None
    lists: NDArray[np.int64] | None = None

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The values of some rows (or requests): [n], or [n, width]; texts as objects. ValueError for ragged lists."""
        width = self.record.width
        if width == -1:
            raise ValueError("lists of different lengths")
        if width is None:
            return self._values(rows)
        places = rows[:, None] * width + np.arange(width)
        return self._values(places.ravel()).reshape(len(rows), width)

    def one(self, row: int) -> NDArray[Any]:
        """The value of one row (or request): of a list its items, else an array without dimensions."""
        if self.lists is not None:
            begin, end = self.lists[row : row + 2].tolist()
            return self.values[begin:end] if self.texts is None else self._values(np.arange(begin, end))
        return self.take(np.array([row]))[0:1].reshape(self._shape)

    def _values(self, places: NDArray[np.int64]) -> NDArray[Any]:
        if self.texts is None:
            return self.values[places]
        return np.array([self._text(place) for place in places.tolist()], object)

    def _text(self, place: int) -> str:
        assert self.texts is not None
        return self.values[self.texts[place] : self.texts[place + 1]].tobytes().decode()

    @property
    def _shape(self) -> tuple[int, ...]:
        return () if self.record.width is None else (self.record.width,)


def column_files(record: ColumnRecord) -> dict[str, str]:
    """The files of a column in the folder of its request set, by what they hold: values, texts, lists."""
    names = {"values": f"columns/{record.file}.npy"}
    if record.dtype == TEXT:
        names["texts"] = f"columns/{record.file}.offsets.npy"
    if record.width == -1:
        names["lists"] = f"columns/{record.file}.{'lists' if record.dtype == TEXT else 'offsets'}.npy"
    return names


def read_column(record: ColumnRecord, path_of: Callable[[str], Path]) -> Column:
    """A column as memory maps; `path_of` is the path of a file of its request set."""
    return Column(record, **{part: open_column(path_of(name)) for part, name in column_files(record).items()})


@dataclass(frozen=True)
class RequestSet:
    """R requests of a table, on disk; every file is checked against the manifest when it is first used."""

    path: Path
    manifest: RequestSetManifest

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.manifest.name

    @property
    def fingerprint(self) -> str:
        """A digest of its content, which binds it to what was made or measured with it."""
        return self.manifest.fingerprint

    def __len__(self) -> int:
        return self.manifest.requests

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where the rows of each request begin, and the end of the last one: int64[R + 1]."""
        return open_column(self.file("offsets.npy"))

    @cached_property
    def labels(self) -> NDArray[np.float32] | None:
        """The label float32[rows] of each candidate, or None."""
        return open_column(self.file("label.npy")) if self.manifest.labels else None

    @cached_property
    def users(self) -> NDArray[np.int32]:
        """The user int32[rows] of each row; its request where the table names no users."""
        return open_column(self.file("user.npy"))

    def column(self, name: str) -> Column:
        """A column by its name; UsageError for none."""
        known = self._columns
        if name not in known:
            raise UsageError(
                f"{self.manifest.source} has no column {name}", f"its columns: {', '.join(known)}"
            )
        return known[name]

    @cached_property
    def _columns(self) -> Mapping[str, Column]:
        return {name: read_column(record, self.file) for name, record in self.manifest.columns.items()}

    def features(self, signature: Signature) -> dict[str, FeatureSpec]:
        """The columns that fill the inputs of a model, as its named features."""
        return {name: self._feature(name) for name in signature.columns}

    def _feature(self, name: str) -> FeatureSpec:
        record = self.column(name).record
        missing = bool(self.manifest.missing.get(name))
        return FeatureSpec(record.dtype, record.scope, record.width, missing)

    def named_values(self, names: Iterable[str], rows: NDArray[np.int64], number: int) -> dict[str, Any]:
        """The columns of request `number` with the candidates of rows int64[N], as values of JSON by their names.

        A column of candidates is a list of a value for each, one of the request its value. NaN stands for no number.
        """
        return {name: self._json_values(self.column(name), rows, number) for name in names}

    def _json_values(self, column: Column, rows: NDArray[np.int64], number: int) -> Any:
        of_request = column.record.scope == "request"
        return (column.one(number) if of_request else column.take(rows)).tolist()

    def request(self, signature: Signature, number: int) -> Request:
        """The tensors of one request as it stands in the table."""
        return self.request_of(signature, self.rows_of(number), number)

    def rows_of(self, number: int) -> NDArray[np.int64]:
        """The rows int64[N] of the candidates that request `number` has in the table."""
        return np.arange(self.offsets[number], self.offsets[number + 1])

    def request_of(self, signature: Signature, rows: NDArray[np.int64], number: int) -> Request:
        """The tensors of a request with the candidates of any rows int64[N]; all else is that of request `number`."""
        return {spec.name: self._tensor(spec, rows, number) for spec in signature.inputs}

    def values_of(self, signature: Signature, rows: NDArray[np.int64], number: int) -> dict[str, Any]:
        """The values of each column of a signature, as JSON has them: lists of candidates, values of the request."""
        return {
            name: self._values(spec, name, rows, number).tolist()
            for spec in signature.inputs
            for name in spec.columns
        }

    def _tensor(self, spec: TensorSpec, rows: NDArray[np.int64], number: int) -> NDArray[Any]:
        values = [self._filling(spec, name, rows, number) for name in spec.columns]
        return tensor_of(spec, values, len(rows))

    def _filling(self, spec: TensorSpec, name: str, rows: NDArray[np.int64], number: int) -> NDArray[Any]:
        """The values of a column for a tensor: one of the request once for each candidate, where that has rows."""
        values = self._values(spec, name, rows, number)
        if spec.per_candidate and self.column(name).record.scope == "request":
            return np.broadcast_to(values, (len(rows), *values.shape))
        return values

    def _values(self, spec: TensorSpec, name: str, rows: NDArray[np.int64], number: int) -> NDArray[Any]:
        column = self.column(name)
        if column.record.scope == "request":
            return column.one(number)
        if not spec.per_candidate:  # the same for all candidates: the first one's
            return column.one(int(self.offsets[number]))
        return column.take(rows)

    @property
    def is_whole(self) -> bool:
        """Whether every file is what the manifest says."""
        return all(
            mismatch(self.path / name, expected) is None for name, expected in self.manifest.files.items()
        )

    def file(self, name: str) -> Path:
        """A file of the manifest, once it is found to be what the manifest says; DataError when it is not."""
        path = self.path / name
        expected = self.manifest.files.get(name)
        reason = mismatch(path, expected) if expected else "is not in the manifest"
        if reason:
            raise DataError(
                f"request set {self.name} is damaged: {path} {reason}", "rbserve adopt makes it anew"
            )
        return path


def bound_to(requests: RequestSet, data_set: tuple[str, str] | None, name: str | None = None) -> RequestSet:
    """The request set, its manifest written anew with the data set whose test rows it has, and with another name."""
    manifest = msgspec.structs.replace(
        requests.manifest, data_set=data_set, name=requests.name if name is None else name
    )
    write_bytes(requests.path / "manifest.json", msgspec.json.format(msgspec.json.encode(manifest)))
    return RequestSet(requests.path, manifest)


def tensor_of(spec: TensorSpec, values: Sequence[NDArray[Any]], slate: int) -> NDArray[Any]:
    """An input tensor of the values of its columns: [N] or [N, w] of candidates, [] or [w] of the whole request.

    Several columns stand side by side. A value of the request is repeated where the tensor has a row for each
    candidate. Raises ValueError where the values do not fill the dimensions of the spec.
    """
    if spec.per_candidate:
        values = [_repeated(array, slate) for array in values]
    if len(values) > 1:
        scalar = 1 if spec.per_candidate else 0
        values = [
            np.concatenate([each[..., None] if each.ndim == scalar else each for each in values], axis=-1)
        ]
    array = values[0].astype(object if spec.dtype == TEXT else spec.dtype, copy=False)
    others = [size if isinstance(size, int) else -1 for size in spec.dims if size != SLATE]
    if not spec.per_candidate:
        return np.ascontiguousarray(array).reshape(others)  # in this order: a scalar stays one
    rows = array.reshape(slate, *others)
    return np.ascontiguousarray(np.moveaxis(rows, 0, spec.dims.index(SLATE)))


def tensors_of(signature: Signature, values: Mapping[str, Any], slate: int) -> Request:
    """The tensors of a request from Python values by column: of candidates a list with `slate` values, or one value
    of the whole request.

    Raises KeyError for a column that is not there, ValueError or TypeError for values that do not fit the tensors.
    """
    return {
        spec.name: tensor_of(spec, [_array(values[name], spec) for name in spec.columns], slate)
        for spec in signature.inputs
    }


def _array(values: Any, spec: TensorSpec) -> NDArray[Any]:
    return np.array(values, object if spec.dtype == TEXT else spec.dtype)


def _repeated(array: NDArray[Any], slate: int) -> NDArray[Any]:
    """Values of candidates as they are; a value of the request once for each of `slate` candidates."""
    return array if array.shape[:1] == (slate,) else np.broadcast_to(array, (slate, *array.shape))


def is_request_set(path: Path) -> bool:
    """Whether a directory below data/ is a request set, and no prepared data set."""
    try:
        return msgspec.json.decode((path / "manifest.json").read_bytes(), type=_Kind).kind == KIND
    except (OSError, msgspec.MsgspecError):  # opening it says what is wrong with it
        return False


def open_request_set(path: Path) -> RequestSet:
    """Opens a request set; DataError when it is absent, unreadable or of another version."""
    file = path / "manifest.json"
    if not file.is_file():
        raise DataError(f"no request set at {path}", "rbserve adopt makes one of its --requests")
    manifest = read_manifest(
        file, RequestSetManifest, SCHEMA, "the manifest of a request set", "rbserve adopt makes it anew"
    )
    return RequestSet(path, manifest)
