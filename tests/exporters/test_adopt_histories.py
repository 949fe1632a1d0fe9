"""Histories of any length are an input: once for the request, or once for each candidate."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import UsageError
from rbserve.data.request_set import RequestSet
from rbserve.data.request_table import write_request_set
from rbserve.exporters.adopt.adopt import adopt
from rbserve.runtimes.opening import open_scorer

HISTORIES = [[1, 2], [3], [4, 0, 2, 1]]
CANDIDATES = [[0, 3, 2], [1, 4], [2, 2, 3]]
VECTORS = np.random.default_rng(9).normal(size=(5, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> RequestSet:
    """Three requests with their histories and candidates, in a table of a row a request."""
    folder = tmp_path_factory.mktemp("histories")
    rows = [{"history": history, "item": items} for history, items in zip(HISTORIES, CANDIDATES, strict=True)]
    (folder / "clicks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return write_request_set(folder / "clicks.jsonl", folder / "data" / "clicks", AdoptOptions(), "clicks")


def means_of_histories(path: Path, of_request: str | int, history: list[str | int]) -> Path:
    """The product of an item's vector and the mean of the history's: item int64[rows], history int64[..., T]."""
    nodes = [
        helper.make_node("Gather", ["vectors", "item"], ["items"]),
        helper.make_node("Gather", ["vectors", "history"], ["read"]),
        helper.make_node("ReduceMean", ["read"], ["users"], axes=[len(history) - 1], keepdims=0),
        helper.make_node("Mul", ["items", "users"], ["products"]),
        helper.make_node("ReduceSum", ["products", "last"], ["scores"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [
            helper.make_tensor_value_info("item", TensorProto.INT64, [of_request]),
            helper.make_tensor_value_info("history", TensorProto.INT64, history),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [of_request])],
        [numpy_helper.from_array(VECTORS, "vectors"), numpy_helper.from_array(np.array([-1]), "last")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    ("rows", "history", "dims"),
    [
        ("N", ["T"], ["T"]),
        ("batch", ["batch", "seq_len"], ["N", "seq_len"]),
        ("num_items", [1, "seq_len"], [1, "seq_len"]),
        (1, [1, "seq_len"], ["N", "seq_len"]),
    ],
)
def test_a_history_of_any_length_is_read(
    rows: str | int, history: list[str | int], dims: list[str | int], requests: RequestSet, tmp_path: Path
) -> None:
    file = means_of_histories(tmp_path / "mean.onnx", rows, history)
    artifact = adopt(str(file), requests, AdoptOptions(), tmp_path / "mean")
    assert artifact.signature.input("history").dims == dims
    scorer = open_scorer(artifact, "onnx-fp32")
    for number, (read, items) in enumerate(zip(HISTORIES, CANDIDATES, strict=True)):
        scores = scorer.score(requests.request(artifact.signature, number))
        assert scores == pytest.approx(VECTORS[items] @ VECTORS[read].mean(axis=0), abs=1e-6)


def test_histories_of_different_lengths_do_not_fill_a_fixed_number_of_places(
    requests: RequestSet, tmp_path: Path
) -> None:
    file = means_of_histories(tmp_path / "mean.onnx", "N", ["N", 4])
    with pytest.raises(UsageError, match="takes 4 values, and history has lists of different lengths"):
        adopt(str(file), requests, AdoptOptions(), tmp_path / "mean")
