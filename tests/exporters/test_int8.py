"""int8: products of integers with fixed scales, by which a score is the same alone and in any slate."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from conformance import check_a_slate_scores_like_its_candidates_one_by_one
from hypothesis import given
from hypothesis import strategies as st
from old_int8 import with_old_int8
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from rbserve.core.options import with_options
from rbserve.core.requests import slate_request
from rbserve.core.types import ModelSpec
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset, open_dataset
from rbserve.exporters.calibration import MARGIN, Activation, ActivationRecorder, calibrate
from rbserve.exporters.export import export
from rbserve.exporters.graph import OPSET
from rbserve.exporters.quantize import DOMAIN, SEVEN_BITS, Array, quantise_products
from rbserve.models.zoo import MODELS, find_model
from rbserve.runtimes.evaluate import rank_rows
from rbserve.runtimes.opening import open_ranker, open_scorer
from rbserve.runtimes.session import open_session
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings

NARROW = {"dim": "16", "hidden": "64,32", "second_hidden": "64,32"}
SMALL = {"layers": "2", "dim": "16", "heads": "2"}
CODES = {"levels": "3", "codes": "8"}
SEQUENTIAL = {"sasrec-3l": SMALL, "sid-sasrec-3l": SMALL | CODES, "sid-sasrec-3l-parallel": SMALL | CODES}


def undrawn(name: str) -> ModelSpec:
    """A small row whose weights are drawn and not learnt: activations of any size."""
    spec = find_model(name)
    options = SEQUENTIAL.get(name) or {key: text for key, text in NARROW.items() if hasattr(spec.config, key)}
    return dataclasses.replace(spec, config=with_options(spec.config, options), random=True)


@pytest.mark.parametrize("name", [spec.name for spec in MODELS if spec.group == "A"])
def test_a_score_does_not_depend_on_the_slate_whatever_the_weights(
    name: str, planted: Dataset, tmp_path: Path
) -> None:
    artifact = export(train(undrawn(name), planted, tmp_path / name, Settings()), planted, ["int8"])
    check_a_slate_scores_like_its_candidates_one_by_one(open_scorer(artifact, "onnx-int8"), planted, 1e-6)


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_a_list_does_not_depend_on_who_is_ranked_beside_whatever_the_weights(
    name: str, planted: Dataset, tmp_path: Path
) -> None:
    data = open_dataset(shutil.copytree(planted.path, tmp_path / "planted"))  # identifiers are kept with it
    artifact = export(train(undrawn(name), data, tmp_path / name, Settings()), data, ["int8"])
    histories, ranker = data.seqrec("test").histories, open_ranker(artifact, "onnx-int8")
    together = rank_rows(ranker, histories, 10)
    for row in range(len(histories)):
        alone, _ = ranker.top_k(histories[row], 10)
        np.testing.assert_array_equal(together[row][together[row] >= 0], alone)


def test_a_score_of_version_01_depended_on_the_slate(
    trained: Artifact, planted: Dataset, tmp_path: Path
) -> None:
    """Such a file still scores; the artefact says what it is and how to make it anew, which takes that away."""
    old = with_old_int8(trained, tmp_path / "old")
    scorer = open_scorer(old, "onnx-int8")
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_a_slate_scores_like_its_candidates_one_by_one(scorer, planted, 1e-6)
    assert f"rbserve export --model {old.path} --precision int8" in (old.slate_dependence("onnx-int8") or "")
    assert [old.slate_dependence(variant) for variant in ("torch-fp32", "onnx-fp32")] == [None, None]
    anew = export(old, planted, ["int8"])
    assert open_artifact(anew.path).slate_dependence("onnx-int8") is None
    check_a_slate_scores_like_its_candidates_one_by_one(open_scorer(anew, "onnx-int8"), planted, 1e-6)


def test_graph_and_manifest_say_how_activations_are_scaled(trained: Artifact) -> None:
    graph = onnx.load(trained.file("onnx/int8.onnx"))
    said = {prop.key: prop.value for prop in graph.metadata_props}
    assert said["rbserve.activation_scales"] == "product"
    assert said["rbserve.session_options"] == "none"
    assert trained.manifest.variants["onnx-int8"].activation_scales == "product"
    assert trained.manifest.variants["onnx-fp32"].activation_scales is None


def test_a_session_without_any_option_scores_what_is_served(trained: Artifact, planted: Dataset) -> None:
    """Weights keep to 7 bits: no processor needs to be told of a kernel."""
    path = trained.file("onnx/int8.onnx")
    bare = InferenceSession(path, providers=["CPUExecutionProvider"])
    history, slate = planted.ctr("test").histories[0], np.arange(20, dtype=np.int32)
    (scores,) = bare.run(None, {"history": history, "candidates": slate})
    np.testing.assert_array_equal(
        scores, open_scorer(trained, "onnx-int8").score(slate_request(history, slate))
    )
    weights = [numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    largest = [int(np.abs(weight.astype(int)).max()) for weight in weights if weight.dtype == np.int8]
    assert largest
    assert max(largest) <= SEVEN_BITS


def test_a_calibration_sees_any_item_in_a_slate_and_short_histories(
    trained: Artifact, planted: Dataset, tmp_path: Path
) -> None:
    """The range of the first layer's candidates is that of the item table; users' means have nearly as large a one."""
    graph = shutil.copy(trained.file("onnx/fp32.onnx"), tmp_path / "fp32.onnx")
    (activations,) = calibrate(trained, planted, [Path(graph)])
    tensors = [numpy_helper.to_array(tensor) for tensor in onnx.load(graph).graph.initializer]
    (table,) = (tensor for tensor in tensors if tensor.shape[:1] == (len(planted.items),))
    ranges = [(activation.low, activation.high) for activation in activations.values()]
    assert (float(table.min()), float(table.max())) in ranges
    assert all(low <= 0 <= high for low, high in ranges)
    users = next(iter(activations.values()))
    assert users.high - users.low > 0.8 * (table.max() - table.min())


def linear_graph(weights: list[Array], biases: list[Array | None], path: Path) -> onnx.ModelProto:
    """y_i = x W_i + b_i, as torch's exporter writes layers of inputs of three dimensions."""
    nodes, tensors = [], []
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        tensors.append(numpy_helper.from_array(weight, f"w{number}"))
        output = f"y{number}" if bias is None else f"p{number}"
        nodes.append(helper.make_node("MatMul", ["x", f"w{number}"], [output], name=f"m{number}"))
        if bias is not None:
            tensors.append(numpy_helper.from_array(bias, f"b{number}"))
            nodes.append(helper.make_node("Add", [f"b{number}", output], [f"y{number}"], name=f"a{number}"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", weights[0].shape[0]])
    outputs = [
        helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, None) for number in range(len(weights))
    ]
    graph = helper.make_graph(nodes, "linear", [x], outputs, tensors)
    versions = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=versions, ir_version=8)
    onnx.save(model, path)
    return model


def seen(values: Array) -> Activation:
    activation = Activation()
    activation.see(values)
    return activation


@given(
    rows=st.integers(1, 6), features=st.integers(1, 40), outputs=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    biased=st.booleans(), bounds=st.sampled_from([(-3.0, 4.0), (-0.5, 0.0), (0.0, 0.7)]),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_products_are_those_of_the_rounded_numbers(
    rows: int, features: int, outputs: list[int], biased: bool, bounds: tuple[float, float], seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """Computed by hand in float64; what lies outside the range is cut off, and an input is rounded once."""
    rng, path = np.random.default_rng(seed), tmp_path_factory.mktemp("linear") / "linear.onnx"
    x = rng.normal(scale=2, size=(rows, features)).astype(np.float32)
    weights = [rng.normal(size=(features, count)).astype(np.float32) for count in outputs]
    biases = [rng.normal(size=count).astype(np.float32) if biased else None for count in outputs]
    model = linear_graph(weights, biases, path)
    activation = seen(np.linspace(*bounds, 100, dtype=np.float32))
    assert activation.is_even
    quantise_products(model.graph, {"x": activation})
    operators = [node.op_type for node in model.graph.node]
    assert operators == ["QuantizeLinear"] + len(weights) * ["MatMulIntegerToFloat"]
    onnx.save(model, path)
    products = open_session(path, 1).run(None, {"x": x})
    assert activation.step == pytest.approx(MARGIN * (bounds[1] - bounds[0]) / 255)
    zero = round(-MARGIN * bounds[0] / activation.step)
    whole = np.clip(np.rint(x / np.float32(activation.step)) + zero, 0, 255) - zero
    for product, weight, bias in zip(products, weights, biases, strict=True):
        steps = np.abs(weight).max(axis=0) / SEVEN_BITS
        exact = (whole.astype(np.float64) @ np.rint(weight / steps)) * (activation.step * steps)
        np.testing.assert_allclose(product, exact + (0 if bias is None else bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("biased", [True, False])
def test_rows_of_very_different_sizes_are_rounded_by_their_own(biased: bool, tmp_path: Path) -> None:
    """One step for all would leave nothing of the small ones."""
    rng, path = np.random.default_rng(0), tmp_path / "linear.onnx"
    x = rng.normal(size=(50, 16)).astype(np.float32)
    x[0] *= 1000
    weight, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((16, 5), (5,)))
    model = linear_graph([weight], [bias if biased else None], path)
    activation = seen(x)
    assert not activation.is_even
    quantise_products(model.graph, {"x": activation})
    onnx.save(model, path)
    session = open_session(path, 1)
    (products,) = session.run(None, {"x": x})
    exact = x.astype(np.float64) @ weight
    error = np.linalg.norm(products - exact - bias * biased, axis=1) / np.linalg.norm(exact, axis=1)
    assert error.max() < 0.1
    for row in range(len(x)):
        np.testing.assert_array_equal(session.run(None, {"x": x[row : row + 1]})[0], products[row : row + 1])


def test_a_recorder_answers_like_the_graph_and_sees_all_calls(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(4, 3)).astype(np.float32)]
    linear_graph(weights, [None], tmp_path / "fp32.onnx")
    recorder = ActivationRecorder(tmp_path / "fp32.onnx")
    calls = [rng.normal(size=(rows, 4)).astype(np.float32) for rows in (2, 0, 5)]
    for x in calls:
        (answer,) = recorder.run(None, {"x": x})
        np.testing.assert_allclose(answer, x @ weights[0], rtol=1e-5, atol=1e-6)
    together = np.concatenate(calls)
    activation = recorder.activations["x"]
    assert (activation.low, activation.high) == (together.min(), together.max())
    assert activation.squares / activation.count == pytest.approx(np.square(together).mean())
