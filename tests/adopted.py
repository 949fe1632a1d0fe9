"""A model that was made elsewhere, as an adopted artefact: a logistic graph over two columns of a request table."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rbserve.core.files import digest
from rbserve.core.requests import SLATE, TEXT, Signature, TensorSpec
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.data.request_set import (
    KIND,
    ColumnRecord,
    RequestSet,
    RequestSetManifest,
    open_request_set,
)
from rbserve.data.request_set import SCHEMA as REQUESTS_SCHEMA
from rbserve.exporters.adopt.adopt import package
from rbserve.exporters.adopt.converted import Converted
from rbserve.exporters.adopt.formats import FORMATS
from rbserve.exporters.adopt.onnx_file import GRAPH

REQUESTS, SLATE_SIZE, USERS = 60, 5, 30
WEIGHTS = (2.0, -1.0)
"""Of the columns likes and age, in the logistic graph."""
SIGNATURE = Signature(
    inputs=[TensorSpec("features", "float32", [SLATE, 2], ["likes", "age"])],
    outputs=[TensorSpec("scores", "float32", [SLATE])],
    score="scores",
)

Values = Mapping[str, NDArray[Any]]


def write_requests(
    path: Path,
    candidate: Values,
    request: Values | None = None,
    *,
    offsets: NDArray[np.int64],
    labels: NDArray[np.float32] | None = None,
    users: NDArray[np.int32] | None = None,
    data_set: tuple[str, str] | None = None,
) -> RequestSet:
    """Writes a request set of columns of numbers, of lists of so many (2 dimensions) or of texts (dtype object)."""
    (path / "columns").mkdir(parents=True)
    arrays: dict[str, NDArray[Any]] = {"offsets.npy": offsets}
    arrays["user.npy"] = users if users is not None else _request_of_row(offsets)
    if labels is not None:
        arrays["label.npy"] = labels
    columns: dict[str, ColumnRecord] = {}
    for scope, values in (("candidate", candidate), ("request", request or {})):
        for name, array in values.items():
            number, is_text = len(columns), array.dtype == object
            width = array.shape[1] if array.ndim == 2 else None
            columns[name] = ColumnRecord(TEXT if is_text else str(array.dtype), scope, width, number)  # type: ignore[arg-type]
            arrays |= _text_files(number, array) if is_text else {f"columns/{number}.npy": array.ravel()}
    for name, array in arrays.items():
        np.save(path / name, array, allow_pickle=False)
    files = {name: digest(path / name) for name in arrays}
    manifest = RequestSetManifest(
        schema=REQUESTS_SCHEMA,
        kind=KIND,
        name=path.name,
        source=f"{path.name}.parquet",
        requests=len(offsets) - 1,
        rows=int(offsets[-1]),
        labels=None if labels is None else "binary" if {*labels.tolist()} <= {0.0, 1.0} else "graded",
        columns=columns,
        skipped={},
        fingerprint=hashlib.sha256(msgspec.json.encode((columns, files))).hexdigest(),
        files=files,
        data_set=data_set,
    )
    (path / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    return open_request_set(path)


def small_requests(path: Path, labelled: bool = True) -> RequestSet:
    """60 requests of 30 users with 5 candidates each: likes and a title of each candidate, the age of the request."""
    rng = np.random.default_rng(7)
    rows = REQUESTS * SLATE_SIZE
    likes = rng.normal(size=rows).astype(np.float32)
    ages = rng.normal(size=REQUESTS).astype(np.float32)
    chance = expected_scores(likes, np.repeat(ages, SLATE_SIZE))
    titles = np.array([f"title {row}" for row in range(rows)], object)
    return write_requests(
        path,
        {"likes": likes, "title": titles},
        {"age": ages},
        offsets=np.arange(0, rows + 1, SLATE_SIZE),
        labels=(rng.random(rows) < chance).astype(np.float32) if labelled else None,
        users=np.repeat(np.arange(REQUESTS, dtype=np.int32) % USERS, SLATE_SIZE),
    )


def requests_of_sizes(path: Path, sizes: Sequence[int]) -> RequestSet:
    """A labelled request of each size, in random order: likes of each candidate, the age of the request."""
    rng = np.random.default_rng(7)
    sizes, rows = rng.permutation(sizes), sum(sizes)
    return write_requests(
        path,
        {"likes": rng.normal(size=rows).astype(np.float32)},
        {"age": rng.normal(size=len(sizes)).astype(np.float32)},
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        labels=(np.arange(rows) % 2).astype(np.float32),
    )


def requests_of_test_rows(path: Path, dataset: Dataset) -> RequestSet:
    """The test rows of a data set for click prediction, one a request: the item's likes in training, the history's
    length."""
    train, test = dataset.ctr("train"), dataset.ctr("test")
    likes = np.bincount(train.candidates, train.labels, len(dataset.items))
    return write_requests(
        path,
        {"likes": likes[test.candidates].astype(np.float32)},
        {"age": test.histories.lengths.astype(np.float32) / 100},
        offsets=np.arange(len(test) + 1, dtype=np.int64),
        labels=test.labels.astype(np.float32),
        users=np.asarray(test.users),
        data_set=(dataset.name, dataset.fingerprint),
    )


def expected_scores(likes: NDArray[np.float32], age: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the logistic graph answers, computed without it."""
    odds = WEIGHTS[0] * likes + WEIGHTS[1] * age
    return (1 / (1 + np.exp(-odds))).astype(np.float32)


def write_graph(path: Path) -> None:
    """The logistic graph: features float32[N, 2] -> scores float32[N]."""
    from onnx import TensorProto, helper, numpy_helper, save

    weights = numpy_helper.from_array(np.array([[WEIGHTS[0]], [WEIGHTS[1]]], np.float32), "weights")
    shape = numpy_helper.from_array(np.array([-1], np.int64), "shape")
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["odds"]),
        helper.make_node("Sigmoid", ["odds"], ["column"]),
        helper.make_node("Reshape", ["column", "shape"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "logistic",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [SLATE, 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [SLATE])],
        [weights, shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(model, path)


def adopted_graph(path: Path, requests: RequestSet, signature: Signature = SIGNATURE) -> Artifact:
    """An adopted artefact of the logistic graph at `path`, judged on a request set."""
    write_graph(path / GRAPH)
    row = next(row for row in FORMATS if row.module == "onnx_file")
    converted = Converted("graph", "onnx", signature, guessed=[], graph=path / GRAPH)
    return package(path, path.name, "logistic.onnx", row, converted, requests)


def _request_of_row(offsets: NDArray[np.int64]) -> NDArray[np.int32]:
    """The number int32[rows] of the request that each row belongs to."""
    return np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))


def _text_files(number: int, texts: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The two files of a column of texts: UTF-8 bytes, and where each text begins."""
    encoded = [text.encode() for text in texts]
    return {
        f"columns/{number}.npy": np.frombuffer(b"".join(encoded), np.uint8),
        f"columns/{number}.offsets.npy": np.cumsum([0, *map(len, encoded)], dtype=np.int64),
    }
