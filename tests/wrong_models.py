"""Files that no careful user would name: damaged and unfit models, tables and modules, written to one folder."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import library_models
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from adopted import write_graph
from onnx import ModelProto, TensorProto, helper, save
from pyarrow.csv import write_csv

FLOAT, INT, TEXT = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
Tensor = tuple[str, int, Sequence[Any]]
X: Tensor = ("features", FLOAT, ["N", 2])


def write_all(folder: Path) -> None:
    """Writes every file: each of the functions below writes its own."""
    write_graph(folder / "good.onnx")
    for write in (
        write_tables,
        write_no_graphs,
        write_graphs,
        write_libraries,
        write_modules,
        write_directories,
    ):
        write(folder)


# ---- Tables ----


def clicks(**columns: Any) -> dict[str, Any]:
    """Columns of 20 queries with 4 candidates each; others are added, or take the place of one of these."""
    rng = np.random.default_rng(5)
    return {
        "query": np.repeat(np.arange(20), 4),
        "likes": rng.normal(size=80),
        "age": np.repeat(rng.normal(size=20), 4),
        "click": rng.integers(0, 2, 80),
    } | columns


def write_tables(folder: Path) -> None:
    """Tables of requests: clicks.parquet is a good one."""
    gaps = clicks()["likes"].copy()
    gaps[45] = np.nan
    title = np.array([f"title {row}" for row in range(80)])
    tables = {
        "clicks": clicks(title=title, item=np.arange(80)),
        "words": clicks(click=title),
        "negative": clicks(click=np.full(80, -1)),
        "nan_labels": clicks(click=np.full(80, np.nan)),
        "apart": clicks(query=np.tile(np.arange(20), 4)),
        "gaps": clicks(likes=gaps),
        "no_rows": {name: values[:0] for name, values in clicks().items()},
        "one_column": {"likes": clicks()["likes"]},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    write_csv(pa.table(tables["clicks"]), folder / "clicks.csv")
    ragged = {"likes": [[1.0, 2.0], [3.0]], "age": [[1.0, 2.0], [1.0, 2.0]], "click": [[0, 1], [1]]}
    pq.write_table(pa.table(ragged), folder / "ragged.parquet")
    lists = {"query": [1, 1], "features": [[1.0, 2.0], [3.0]], "click": [0, 1]}
    pq.write_table(pa.table(lists), folder / "lists.parquet")
    whole = (folder / "clicks.parquet").read_bytes()
    (folder / "damaged.parquet").write_bytes(whole[: len(whole) // 2])
    middle = bytearray(whole)
    middle[40:400] = bytes(360)
    (folder / "spoilt.parquet").write_bytes(middle)
    (folder / "empty.csv").write_bytes(b"")
    (folder / "empty.parquet").write_bytes(b"")
    (folder / "header.csv").write_text("likes,age,click\n")
    (folder / "twice.csv").write_text("likes,likes,click\n1,2,0\n")
    rows = ["1.5,2,0"] * 90 + ["1,2,0,9,9"] * 10
    (folder / "malformed.csv").write_text("\n".join(["likes,age,click", *rows]))
    (folder / "latin.csv").write_bytes("likes,age,töne\n1,2,ä\n".encode("latin-1"))
    (folder / "no_objects.jsonl").write_text("[1, 2]\n3\n" * 20)
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9)


# ---- ONNX files ----


def graph(
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    nodes: Sequence[Any],
    opset: int = 17,
    **constants: Any,
) -> ModelProto:
    """A model of a few nodes."""
    described = [[helper.make_tensor_value_info(*tensor) for tensor in group] for group in (inputs, outputs)]
    held = [helper.make_tensor(name, *values) for name, values in constants.items()]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.acme", 1)]
    return helper.make_model(
        helper.make_graph(nodes, "g", *described, held), opset_imports=opsets, ir_version=8
    )


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """A node between tensors whose names stand in texts, separated by spaces."""
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def write_no_graphs(folder: Path) -> None:
    """Files that are named .onnx, and are none."""
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "text.onnx").write_text("<!doctype html><title>404: not found</title>\n" * 30)
    good = (folder / "good.onnx").read_bytes()
    (folder / "cut.onnx").write_bytes(good[: len(good) // 2])
    (folder / "link.onnx").symlink_to("nowhere.onnx")
    (folder / "folder.onnx").mkdir()
    (folder / "model.exe").write_bytes(b"MZ" + bytes(200))


def write_graphs(folder: Path) -> None:
    """ONNX graphs that do not rank the requests of clicks.parquet."""
    mean = {"axes": [1], "keepdims": 0}
    scores: Tensor = ("scores", FLOAT, ["N"])
    total = node("ReduceMean", "features", "scores", **mean)
    graphs = {
        "unknown_operator": graph([X], [scores], [node("Frobnicate", "features", "scores")]),
        "custom_operator": graph([X], [scores], [node("Rank", "features", "scores", domain="com.acme")]),
        "no_outputs": graph([X], [], [total]),
        "no_inputs": graph(
            [], [("scores", FLOAT, [2])], [node("Identity", "c", "scores")], c=(FLOAT, [2], [1, 2])
        ),
        "texts_out": graph([("t", TEXT, ["N"])], [("u", TEXT, ["N"])], [node("Identity", "t", "u")]),
        "two_outputs": graph(
            [X],
            [("a", FLOAT, ["N"]), ("b", FLOAT, ["N"])],
            [node("ReduceMean", "features", "a", **mean), node("ReduceMax", "features", "b", **mean)],
        ),
        "two_slates": graph(
            [("left", FLOAT, ["K", "M"])],
            [("scores", FLOAT, ["K", "M"])],
            [node("Sigmoid", "left", "scores")],
        ),
        "three_columns": graph(
            [("features", FLOAT, ["N", 3])],
            [("scores", FLOAT, ["N", 3])],
            [node("Softmax", "features", "scores")],
        ),
        "whole_numbers": graph(
            [("likes", INT, ["N"])], [scores], [node("Cast", "likes", "scores", to=FLOAT)]
        ),
        "takes_text": graph([("title", FLOAT, ["N"])], [scores], [node("Identity", "title", "scores")]),
        "missing_column": graph(
            [("price", FLOAT, ["N"]), ("stock", FLOAT, ["N"])],
            [scores],
            [node("Add", "price stock", "scores")],
        ),
        "nan_scores": graph(
            [("likes", FLOAT, ["N"])],
            [scores],
            [node("Sub", "likes likes", "z"), node("Div", "z z", "scores")],
        ),
        "one_score": graph(
            [X],
            [("scores", FLOAT, ["K"])],
            [node("ReduceMean", "features", "m"), node("Reshape", "m s", "scores")],
            s=(INT, [1], [-1]),
        ),
        "too_many": graph(
            [X], [("scores", FLOAT, [None])], [node("Reshape", "features s", "scores")], s=(INT, [1], [-1])
        ),
        "fails": graph(
            [("item", INT, ["N"])],
            [scores],
            [node("Gather", "t item", "scores")],
            t=(FLOAT, [79], [0.5] * 79),
        ),
        "fails_late": graph(
            [("item", INT, ["N"])],
            [scores],
            [node("Mod", "item r", "i"), node("Gather", "t i", "scores")],
            r=(INT, [1], [50]),
            t=(FLOAT, [41], [0.5] * 41),
        ),
        "complex": graph(
            [("features", TensorProto.COMPLEX64, ["N", 2])],
            [("features2", TensorProto.COMPLEX64, ["N", 2])],
            [node("Identity", "features", "features2")],
        ),
        "lines": graph(
            [("a\nb\x1b[31m", FLOAT, ["N", 2])],
            [("c\nd", FLOAT, ["N"]), ("e", FLOAT, ["N"])],
            [
                helper.make_node("ReduceMean", ["a\nb\x1b[31m"], ["c\nd"], **mean),
                helper.make_node("ReduceMean", ["a\nb\x1b[31m"], ["e"], **mean),
            ],
        ),
        "future": graph([X], [scores], [total], opset=99),
        "huge": graph(
            [X],
            [scores],
            [
                node("ConstantOfShape", "s", "h"),
                node("ReduceMean", "h", "m"),
                node("ReduceMean", "features", "f", **mean),
                node("Add", "m f", "scores"),
            ],
            s=(INT, [2], [1 << 21, 1 << 21]),
        ),
    }
    for name, model in graphs.items():
        save(model, folder / f"{name}.onnx")
    for name, location in (
        ("without_weights", "weights.bin"),
        ("weights_elsewhere", "../../etc/passwd"),
        ("weights_absolute", "/etc/passwd"),
    ):
        model = graph([X], [scores], [node("MatMul", "features w", "scores")], w=(FLOAT, [2, 1], [1, 2]))
        (weights,) = model.graph.initializer
        weights.ClearField("float_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location)
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())


# ---- Models of libraries ----


def write_libraries(folder: Path) -> None:
    """A pickle, and models of LightGBM, XGBoost and scikit-learn that are not of two classes, or ask for more."""
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    def keep(name: str, made: library_models.Saved) -> None:
        made.path.rename(folder / name)

    with (folder / "model.pkl").open("wb") as file:
        pickle.dump({"weights": [1.0]}, file)
    shutil.copy(folder / "model.pkl", folder / "model.joblib")
    shutil.copy(folder / "model.pkl", folder / "model.bin")
    three = np.arange(library_models.ROWS) % 3
    keep("three.txt", library_models.lightgbm(folder, three, objective="multiclass", num_class=3))
    keep("three.json", library_models.xgboost(folder, three, objective="multi:softprob", num_class=3))
    keep("other_features.txt", library_models.lightgbm(folder, names=["likes", "price"]))
    text = (folder / "other_features.txt").read_text()
    (folder / "cut.txt").write_text(text[: len(text) // 2])
    keep("clusters.skops", library_models.sklearn(folder, KMeans(3, n_init=1, random_state=0)))
    keep(
        "untrusted.skops",
        library_models.sklearn(
            folder, make_pipeline(FunctionTransformer(twice), LogisticRegression()), named=False
        ),
    )
    (folder / "spoilt.json").write_text('{"learner": ')
    (folder / "spoilt.cbm").write_bytes(b"CBM1" + bytes(100))


def twice(rows: Any) -> Any:
    """A function of somebody's own in a model of scikit-learn."""
    return rows * 2


# ---- Modules and directories ----


def write_modules(folder: Path) -> None:
    """wrong_rankers.py: factories of functions that do not rank."""
    (folder / "wrong_rankers.py").write_text(
        """import os, signal
import numpy as np
number = 7
def few(): return lambda request: np.zeros(1)
def words(): return lambda request: "many words"
def raises(): return lambda request: {}["price"]
def broken(): raise OSError("the disk\\nis gone")
def nothing(): return None
def leaves(): raise SystemExit(3)
def stopped(): return lambda request: os.kill(os.getpid(), signal.SIGINT)
"""
    )
    (folder / "wrong_syntax.py").write_text("def make(:\n")
    (folder / "wrong_import.py").write_text("import a_module_that_nobody_has\n")


def write_directories(folder: Path) -> None:
    """Directories of transformers that lack a tokenizer, a config or safe weights; a .pt2 that is none."""
    config = {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "num_labels": 1,
        "vocab_size": 9,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 8,
    }
    for name in ("no_tokenizer", "pickled_weights", "decoder", "spoilt_config"):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
        (folder / name / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (folder / "pickled_weights" / "model.safetensors").rename(
        folder / "pickled_weights" / "pytorch_model.bin"
    )
    (folder / "decoder" / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (folder / "spoilt_config" / "config.json").write_text("{")
    (folder / "nothing").mkdir()
    (folder / "text.pt2").write_text("no zip")
