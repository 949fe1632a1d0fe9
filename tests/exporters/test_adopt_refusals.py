"""A model that cannot be adopted is refused in one line that says why, and nothing of it is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from adopted import write_requests
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import UsageError
from rbserve.data.request_set import RequestSet
from rbserve.exporters.adopt.adopt import adopt

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Change = Callable[[onnx.ModelProto], object]


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> RequestSet:
    """Two requests of three candidates: likes, shows (a fraction), price (one is missing) and title; age of each."""
    columns: dict[str, NDArray[Any]] = {
        "likes": np.arange(6, dtype=np.float32),
        "shows": np.linspace(0, 2.5, 6, dtype=np.float32),
        "price": np.array([1, 2, np.nan, 4, 5, 6], np.float32),
        "title": np.array(["a", "b", "c", "d", "e", "f"], object),
    }
    path = tmp_path_factory.mktemp("data") / "clicks"
    return write_requests(path, columns, {"age": np.array([20, 30], np.float32)}, offsets=np.array([0, 3, 6]))


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    opset: int = 17,
    **weights: NDArray[Any],
) -> onnx.ModelProto:
    """A graph of some nodes."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in inputs.items()],
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def identity(
    column: str = "likes", dtype: int = FLOAT, dims: Any = ("N",), domain: str = ""
) -> onnx.ModelProto:
    """One column comes back as the scores."""
    operator = "Identity" if not domain else "Rank"
    model = model_of(
        [helper.make_node(operator, [column], ["scores"], domain=domain)],
        {column: (dtype, dims)},
        {"scores": (dtype, dims)},
    )
    if domain:
        model.opset_import.add(domain=domain, version=1)
    return model


def with_opset(version: int) -> onnx.ModelProto:
    """The graph, declared to be of another opset."""
    model = identity()
    model.opset_import[0].version = version
    return model


def with_ir(version: int) -> onnx.ModelProto:
    """The graph, declared to be in another version of the format."""
    model = identity()
    model.ir_version = version
    return model


def product(width: int, dims: Any = None) -> onnx.ModelProto:
    """features float32[N, width] -> scores."""
    return model_of(
        [helper.make_node("MatMul", ["features", "weights"], ["scores"])],
        {"features": (FLOAT, dims or ["N", width])},
        {"scores": (FLOAT, None)},
        weights=np.ones((width, 1), np.float32),
    )


def two_symbols() -> onnx.ModelProto:
    """Scores [p, q] of two inputs: either may be the candidates."""
    return model_of(
        [helper.make_node("Mul", ["likes", "shows"], ["scores"])],
        {"likes": (FLOAT, ["p", "q"]), "shows": (FLOAT, ["p", "q"])},
        {"scores": (FLOAT, ["p", "q"])},
    )


def two_outputs() -> onnx.ModelProto:
    """Two outputs of fractions without a likely name."""
    return model_of(
        [helper.make_node("Identity", ["likes"], [name]) for name in ("left", "right")],
        {"likes": (FLOAT, ["N"])},
        {name: (FLOAT, ["N"]) for name in ("left", "right")},
    )


def without_outputs() -> onnx.ModelProto:
    """A graph that computes something and gives nothing."""
    model = identity()
    del model.graph.output[:]
    return model


def without_shape() -> onnx.ModelProto:
    """An input that does not say how many dimensions it has."""
    return identity(dims=None)


def lists_of_texts() -> onnx.ModelProto:
    """An input that is no tensor."""
    model = identity()
    value = helper.make_tensor_sequence_value_info("likes", FLOAT, ["N"])
    model.graph.input[0].CopyFrom(value)
    model.graph.node[0].CopyFrom(helper.make_node("ConcatFromSequence", ["likes"], ["scores"], axis=0))
    return model


def three_classes() -> onnx.ModelProto:
    """Three values a candidate."""
    return model_of(
        [helper.make_node("Concat", ["likes", "likes", "likes"], ["scores"], axis=1)],
        {"likes": (FLOAT, ["N", 1])},
        {"scores": (FLOAT, ["N", 3])},
    )


def one_score() -> onnx.ModelProto:
    """One score for all candidates, and no shape that says so."""
    return model_of(
        [helper.make_node("ReduceMean", ["likes"], ["scores"], keepdims=0)],
        {"likes": (FLOAT, ["N"])},
        {"scores": (FLOAT, None)},
    )


def division_by_zero() -> onnx.ModelProto:
    """An infinite score of the candidate that nobody liked."""
    return model_of(
        [helper.make_node("Reciprocal", ["likes"], ["scores"])],
        {"likes": (FLOAT, ["N"])},
        {"scores": (FLOAT, ["N"])},
    )


def failing() -> onnx.ModelProto:
    """A table of three rows that is asked for a fourth."""
    return model_of(
        [helper.make_node("Gather", ["table", "likes"], ["scores"])],
        {"likes": (INT64, ["N"])},
        {"scores": (FLOAT, ["N"])},
        table=np.zeros(3, np.float32),
    )


MAPPED = AdoptOptions(map=("features=likes,shows",))
WRONG: dict[str, tuple[Callable[[], onnx.ModelProto], AdoptOptions, str]] = {
    "a custom operator": (
        lambda: identity(domain="my.ops"),
        AdoptOptions(),
        "ranker.onnx: it uses the operator Rank of the domain my.ops, which onnxruntime does not have",
    ),
    "an unknown operator": (
        lambda: model_of(
            [helper.make_node("Relo", ["likes"], ["scores"])],
            {"likes": (FLOAT, ["N"])},
            {"scores": (FLOAT, ["N"])},
        ),
        AdoptOptions(),
        "ranker.onnx: it uses the operator Relo, which opset 17 does not have",
    ),
    "an operator without a kernel": (
        lambda: model_of(
            [
                helper.make_node("QuantizeLinear", ["likes", "scale"], ["whole"]),
                helper.make_node("Cast", ["whole"], ["scores"], to=FLOAT),
            ],
            {"likes": (FLOAT, ["N"])},
            {"scores": (FLOAT, ["N"])},
            opset=28,
            scale=np.array(0.1, np.float32),
        ),
        AdoptOptions(),
        "ranker.onnx: it uses the operator QuantizeLinear of opset 28, which the installed onnxruntime cannot compute",
    ),
    "a new opset": (lambda: with_opset(99), AdoptOptions(), "its opset 99 of ai.onnx is too new"),
    "a new format": (lambda: with_ir(99), AdoptOptions(), "its format (IR version 99) is too new"),
    "no outputs": (without_outputs, AdoptOptions(), "ranker.onnx has no outputs"),
    "no shape": (without_shape, AdoptOptions(), "does not say what shape its input likes has"),
    "no tensor": (lists_of_texts, AdoptOptions(), "takes likes as seq(tensor(float))"),
    "two symbols": (
        two_symbols,
        AdoptOptions(),
        "which dimension counts the candidates is not clear: p or q of likes float32[p, q], shows float32[p, q]",
    ),
    "a symbol that is not there": (
        identity,
        AdoptOptions(slate_dim="items"),
        "--slate-dim items is no symbol of the inputs: likes float32[N]",
    ),
    "two outputs": (
        two_outputs,
        AdoptOptions(),
        "which output has the scores is not clear: left float32[N], right float32[N]",
    ),
    "an output that is not there": (
        identity,
        AdoptOptions(score="score"),
        "unknown output of --score: score",
    ),
    "a missing column": (
        lambda: product(5),
        AdoptOptions(),
        "features float32[N, 5] takes 5 values",
    ),
    "a column that is not there": (
        lambda: product(2),
        AdoptOptions(map=("features=likes,clicks",)),
        "unknown column of --map features: clicks",
    ),
    "an input that is not there": (
        lambda: product(2),
        AdoptOptions(map=("feature=likes,shows",)),
        "unknown input of --map: feature",
    ),
    "too few columns": (
        lambda: product(3),
        MAPPED,
        "the input features float32[N, 3] takes 3 values, and likes, shows have 2",
    ),
    "texts for numbers": (
        lambda: product(2),
        AdoptOptions(map=("features=likes,title",)),
        "the column title has texts, and the input features float32[N, 2] takes numbers",
    ),
    "fractions for whole numbers": (
        lambda: identity("shows", INT64),
        AdoptOptions(),
        "the column shows has the value 0.5, and the input shows int64[N] takes whole numbers from",
    ),
    "a missing value for whole numbers": (
        lambda: identity("price", INT64),
        AdoptOptions(),
        "the column price has the value nan",
    ),
    "a missing value": (
        lambda: identity("price"),
        AdoptOptions(),
        "the score of candidate 2 of request 0 of clicks.parquet is nan",
    ),
    "an infinite score": (division_by_zero, AdoptOptions(), "the score of candidate 0 of request 0"),
    "three classes": (three_classes, AdoptOptions(), "scores float32[N, 3] has 3 values for each candidate"),
    "one score for all": (
        one_score,
        AdoptOptions(),
        "the output scores has 1 values for the 3 candidates of request 0 of clicks.parquet, not one a candidate",
    ),
    "a failure": (failing, AdoptOptions(), "the model fails on request 1 of clicks.parquet (3 candidates)"),
    "no row a candidate": (
        lambda: identity(dims=[]),
        AdoptOptions(),
        "no dimension of the inputs counts the candidates: likes float32[] -> scores float32[]",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_model_is_refused_in_one_line(wrong: str, requests: RequestSet, tmp_path: Path) -> None:
    make, options, message = WRONG[wrong]
    file = tmp_path / "ranker.onnx"
    file.write_bytes(make().SerializeToString())
    with pytest.raises(UsageError) as refused:
        adopt(str(file), requests, options, tmp_path / "artifacts" / "ranker")
    assert message in refused.value.message
    assert "\n" not in refused.value.message + (refused.value.hint or "")
    assert [*tmp_path.iterdir()] == [file]


def test_the_column_that_has_no_value_is_named(requests: RequestSet, tmp_path: Path) -> None:
    file = tmp_path / "ranker.onnx"
    file.write_bytes(identity("price").SerializeToString())
    with pytest.raises(UsageError) as refused:
        adopt(str(file), requests, AdoptOptions(), tmp_path / "ranker")
    assert refused.value.hint == "the column price is nan there, which the model cannot take"


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x80\x04\x95pickled", b"PK\x03\x04zip"])
def test_a_file_that_is_no_onnx_is_refused(content: bytes, requests: RequestSet, tmp_path: Path) -> None:
    file = tmp_path / "ranker.onnx"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"ranker\.onnx is no ONNX file"):
        adopt(str(file), requests, AdoptOptions(), tmp_path / "ranker")


def external(folder: Path) -> onnx.ModelProto:
    """Writes a graph whose weights stand in weights.bin; returns it without them."""
    onnx.save(
        product(2),
        folder / "ranker.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    return onnx.load(folder / "ranker.onnx", load_external_data=False)


def test_weights_that_are_missing_are_named(requests: RequestSet, tmp_path: Path) -> None:
    external(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(UsageError, match=r"has weights in weights\.bin, and there is no file .*weights\.bin"):
        adopt(str(tmp_path / "ranker.onnx"), requests, MAPPED, tmp_path / "ranker")


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "fp32.onnx"])
def test_weights_outside_the_folder_are_not_read(location: str, requests: RequestSet, tmp_path: Path) -> None:
    model = external(tmp_path)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    (tmp_path / "ranker.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="which is not below its folder"):
        adopt(str(tmp_path / "ranker.onnx"), requests, MAPPED, tmp_path / "ranker")


def test_a_folder_with_two_graphs_is_not_guessed(requests: RequestSet, tmp_path: Path) -> None:
    for name in ("small.onnx", "large.onnx"):
        (tmp_path / name).write_bytes(product(2).SerializeToString())
    with pytest.raises(UsageError, match=r"has 2 ONNX files: large\.onnx, small\.onnx"):
        adopt(str(tmp_path), requests, MAPPED, tmp_path / "ranker")


@pytest.mark.parametrize(
    ("source", "message"), [("gone.onnx", "there is no file gone.onnx"), ("pyproject.toml", "is no model")]
)
def test_what_is_no_model_is_told(source: str, message: str, requests: RequestSet, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        adopt(source, requests, AdoptOptions(), tmp_path / "ranker")


def test_a_refused_model_leaves_the_one_before_it(requests: RequestSet, tmp_path: Path) -> None:
    file = tmp_path / "ranker.onnx"
    file.write_bytes(identity().SerializeToString())
    before = adopt(str(file), requests, AdoptOptions(), tmp_path / "ranker")
    file.write_bytes(division_by_zero().SerializeToString())
    with pytest.raises(UsageError):
        adopt(str(file), requests, AdoptOptions(), tmp_path / "ranker")
    assert before.file("onnx/fp32.onnx").is_file()
