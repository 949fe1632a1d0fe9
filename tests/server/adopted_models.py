"""A graph of a user's with inputs of many kinds, adopted with a table of requests of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper, save

from rbserve.core.adoption import AdoptOptions
from rbserve.data.artifact import Artifact
from rbserve.data.request_set import RequestSet
from rbserve.data.request_table import write_request_set
from rbserve.exporters.adopt.adopt import adopt

FLOAT, INT64, STRING, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL
N_ITEMS, N_REQUESTS = 20, 12
TITLES = ("red shoe", "blue hat", "red hat", "café")


def write_table(path: Path) -> Path:
    """Requests of 1 to 6 candidates in Parquet, a row each: likes, shows, item, title and is_new of the candidates; age
    and the history of the request. Some of the shows are missing."""
    rng = np.random.default_rng(5)
    requests: list[dict[str, Any]] = []
    for number in range(N_REQUESTS):
        size = 1 + number % 6
        shows = rng.random(size).astype(np.float32).tolist()
        requests.append({
            "label": rng.integers(2, size=size).tolist(),
            "likes": rng.normal(size=size).astype(np.float32).tolist(),
            "shows": [None if number == 3 else value for value in shows],
            "item": rng.integers(N_ITEMS, size=size).tolist(),
            "title": [TITLES[row] for row in rng.integers(4, size=size)],
            "is_new": (rng.random(size) < 0.5).tolist(),
            "age": float(rng.normal()),
            "history": rng.integers(N_ITEMS, size=1 + number % 4).tolist(),
        })  # fmt: skip
    columns = {name: [request[name] for request in requests] for name in requests[0]}
    types = {"likes": pa.list_(pa.float32()), "shows": pa.list_(pa.float32()), "age": pa.float32()}
    arrays = {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays), path)
    return path


def write_graph(path: Path, sign: float = 1.0) -> Path:
    """sigmoid(sign · (likes + shows − age) + bias of the item + mean bias of the history + 1 for a red hat − 1 where it
    is new), beside a copy of the titles, what is old, and the length of the history."""
    bias = np.random.default_rng(1).normal(size=N_ITEMS).astype(np.float32)
    weights = {
        "weights": np.array([sign, sign, -sign], np.float32), "bias": bias, "last": np.array([1]),
        "one": np.float32(1), "zero": np.float32(0),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("IsNaN", ["features"], ["missing"]),
        node("Where", ["missing", "zero", "features"], ["known"]),
        node("Mul", ["known", "weights"], ["products"]),
        node("ReduceSum", ["products", "last"], ["linear"], keepdims=0),
        node("Gather", ["bias", "item"], ["own"]),
        node("Gather", ["bias", "history"], ["seen"]),
        node("ReduceMean", ["seen"], ["user"], keepdims=0),
        node("LabelEncoder", ["title"], ["red"], domain="ai.onnx.ml",
             keys_strings=["red hat"], values_floats=[1.0], default_float=0.0),
        node("Cast", ["is_new"], ["fresh"], to=FLOAT),
        node("Sum", ["linear", "own", "user", "red"], ["total"]),
        node("Sub", ["total", "fresh"], ["odds"]),
        node("Sigmoid", ["odds"], ["scores"]),
        node("Identity", ["title"], ["titles"]),
        node("Not", ["is_new"], ["is_old"]),
        node("Size", ["history"], ["length"]),
    ]  # fmt: skip
    inputs = {
        "features": (FLOAT, ["N", 3]), "item": (INT64, ["N"]), "title": (STRING, ["N"]), "is_new": (BOOL, ["N"]),
        "history": (INT64, ["T"]),
    }  # fmt: skip
    outputs = {
        "scores": (FLOAT, ["N"]), "titles": (STRING, ["N"]), "is_old": (BOOL, ["N"]), "length": (INT64, []),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "ranker",
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in inputs.items()],
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path.parent.mkdir(parents=True, exist_ok=True)
    save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


OPTIONS = AdoptOptions(label="label", map=("features=likes,shows,age",), score="scores", slate_dim="N")


def adopt_ranker(folder: Path, name: str = "ranker", sign: float = 1.0) -> tuple[Artifact, RequestSet]:
    """The graph as an artefact of that name, and the requests that it was adopted with."""
    table = write_table(folder / "table" / "clicks.parquet")
    requests = write_request_set(table, folder / "data" / "clicks", OPTIONS, "clicks")
    graph = write_graph(folder / "models" / f"{name}.onnx", sign)
    return adopt(str(graph), requests, OPTIONS, folder / "artifacts" / "clicks" / name), requests
