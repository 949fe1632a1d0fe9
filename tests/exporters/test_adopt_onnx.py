"""An ONNX file of a user becomes an artefact that scores its requests as onnxruntime itself does."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from adopted import write_requests
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from rbserve.core.adoption import AdoptOptions
from rbserve.core.requests import SLATE
from rbserve.data.artifact import Artifact
from rbserve.data.request_set import RequestSet
from rbserve.exporters.adopt.adopt import adopt
from rbserve.runtimes.opening import open_scorer

FLOAT, INT64, BOOL, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING
OFFSETS = np.array([0, 5, 6, 14, 20])
"""Four requests, one of a single candidate, the largest of eight."""
Dims = Sequence[int | str | None] | None
Tensors = Mapping[str, tuple[int, Dims]]


@pytest.fixture(scope="module")
def values() -> dict[str, NDArray[Any]]:
    """The columns: of each candidate likes, shows, vector, item, is_new, title; of each request age and profile."""
    rng = np.random.default_rng(3)
    rows, requests = int(OFFSETS[-1]), len(OFFSETS) - 1
    return {
        "likes": rng.normal(size=rows).astype(np.float32),
        "shows": rng.normal(size=rows).astype(np.float32),
        "vector": rng.normal(size=(rows, 3)).astype(np.float32),
        "item": rng.integers(6, size=rows),
        "rank": np.arange(rows, dtype=np.float32),
        "is_new": rng.random(rows) < 0.5,
        "title": np.array(["red shoe", "blue hat", "red hat", "café"], object)[rng.integers(4, size=rows)],
        "age": rng.normal(size=requests).astype(np.float32),
        "profile": rng.normal(size=(requests, 3)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def make(
    values: dict[str, NDArray[Any]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., RequestSet]:
    """Request sets of some of the columns, in the order of their names' mention."""

    def requests_of(*names: str) -> RequestSet:
        of_request = {name: values[name] for name in names if name in ("age", "profile")}
        of_candidate = {name: values[name] for name in names if name not in of_request}
        path = tmp_path_factory.mktemp("data") / "clicks"
        return write_requests(path, of_candidate, of_request, offsets=OFFSETS)

    return requests_of


def write_model(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Tensors,
    outputs: Tensors,
    weights: Mapping[str, NDArray[Any]] | None = None,
    opset: int = 17,
    **options: Any,
) -> Path:
    """Writes a graph of some nodes."""
    graph = helper.make_graph(
        nodes,
        "model",
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in inputs.items()],
        [helper.make_tensor_value_info(name, *tensor) for name, tensor in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, **options)
    return path


def linear(path: Path, opset: int = 17, rows: int | str = SLATE, **options: Any) -> Path:
    """features float32[rows, 2] -> scores float32[rows, 1], likes counted twice, less shows."""
    return write_model(
        path,
        [helper.make_node("MatMul", ["features", "weights"], ["scores"])],
        {"features": (FLOAT, [rows, 2])},
        {"scores": (FLOAT, [rows, 1])},
        {"weights": np.array([[2], [-1]], np.float32)},
        opset,
        **options,
    )


def scores_of(artifact: Artifact, requests: RequestSet) -> list[NDArray[np.float32]]:
    """The scores of every request through the artefact."""
    scorer = open_scorer(artifact, "onnx-fp32")
    return [scorer.score(requests.request(artifact.signature, number)) for number in range(len(requests))]


def candidates(number: int) -> slice:
    """The rows of a request."""
    return slice(OFFSETS[number], OFFSETS[number + 1])


def assert_equal(
    artifact: Artifact,
    requests: RequestSet,
    expected: Callable[[slice, int], NDArray[Any]],
) -> None:
    """Holds the scores of every request against those expected of its rows and its number."""
    for number, scores in enumerate(scores_of(artifact, requests)):
        assert scores == pytest.approx(
            np.asarray(expected(candidates(number), number)).reshape(-1), abs=1e-5, rel=1e-5
        )


def session(path: Path) -> onnxruntime.InferenceSession:
    """onnxruntime itself: the oracle."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("opset", [11, 17, onnx.defs.onnx_opset_version()])
def test_graphs_of_every_opset_score_as_onnxruntime_does(
    opset: int, make: Callable[..., RequestSet], values: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    file, requests = linear(tmp_path / "user" / "ranker.onnx", opset), make("likes", "shows")
    artifact = adopt(str(file), requests, AdoptOptions(), tmp_path / "ranker")
    features, oracle = np.stack([values["likes"], values["shows"]], axis=1), session(file)
    assert_equal(artifact, requests, lambda rows, _: oracle.run(None, {"features": features[rows]})[0])


def test_what_is_guessed_is_told_in_sentences(make: Callable[..., RequestSet], tmp_path: Path) -> None:
    file = linear(tmp_path / "ranker.onnx", rows="batch_size")
    artifact = adopt(str(file), make("likes", "shows"), AdoptOptions(), tmp_path / "ranker")
    assert artifact.manifest.adopted is not None
    assert artifact.manifest.adopted.guessed == [
        "The dimension batch_size counts the candidates: no other free dimension of the inputs comes back in the "
        "scores.",
        "The columns likes, shows fill the input features, in the table's order: no other input takes them.",
    ]
    assert [str(spec) for spec in artifact.signature.inputs] == ["features float32[N, 2]"]
    assert artifact.signature.columns == ["likes", "shows"]


def test_nothing_is_guessed_of_what_is_said(make: Callable[..., RequestSet], tmp_path: Path) -> None:
    options = AdoptOptions(map=("features=shows,likes",), slate_dim="rows", score="scores")
    artifact = adopt(
        str(linear(tmp_path / "ranker.onnx", rows="rows")),
        make("likes", "shows"),
        options,
        tmp_path / "ranker",
    )
    assert artifact.manifest.adopted is not None
    assert artifact.manifest.adopted.guessed == []
    assert artifact.signature.columns == ["shows", "likes"]


@pytest.mark.parametrize("rows", [1, 4])
def test_a_graph_of_a_fixed_number_of_rows_is_called_in_parts(
    rows: int, make: Callable[..., RequestSet], values: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    requests = make("likes", "shows")
    artifact = adopt(
        str(linear(tmp_path / "ranker.onnx", rows=rows)), requests, AdoptOptions(), tmp_path / "ranker"
    )
    assert artifact.signature.fixed_slate == rows
    assert_equal(artifact, requests, lambda rows, _: 2 * values["likes"][rows] - values["shows"][rows])


def test_large_weights_in_files_of_their_own_come_along(
    make: Callable[..., RequestSet], values: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    rng = np.random.default_rng(5)
    hidden, last = (rng.normal(size=size).astype(np.float32) for size in ((2, 400), (400, 1)))
    file = write_model(
        tmp_path / "user" / "ranker.onnx",
        [
            helper.make_node("MatMul", ["features", "hidden"], ["sums"]),
            helper.make_node("Relu", ["sums"], ["positive"]),
            helper.make_node("MatMul", ["positive", "last"], ["scores"]),
        ],
        {"features": (FLOAT, ["N", 2])},
        {"scores": (FLOAT, ["N", 1])},
        {"hidden": hidden, "last": last},
        save_as_external_data=True,
        location="ranker.weights",
        size_threshold=0,
    )
    requests = make("likes", "shows")
    artifact = adopt(str(file.parent), requests, AdoptOptions(), tmp_path / "ranker")
    features = np.stack([values["likes"], values["shows"]], axis=1)
    assert artifact.manifest.variants["onnx-fp32"].files == ["onnx/fp32.onnx", "onnx/ranker.weights"]
    assert_equal(artifact, requests, lambda rows, _: np.maximum(features[rows] @ hidden, 0) @ last)


def test_texts_are_an_input(
    make: Callable[..., RequestSet], values: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    file = write_model(
        tmp_path / "ranker.onnx",
        [
            helper.make_node(
                "LabelEncoder",
                ["title"],
                ["scores"],
                domain="ai.onnx.ml",
                keys_strings=["red hat", "café"],
                values_floats=[1.5, 2.5],
                default_float=-1.0,
            )
        ],
        {"title": (STRING, ["N", 1])},
        {"scores": (FLOAT, ["N", 1])},
    )
    requests = make("title")
    artifact = adopt(str(file), requests, AdoptOptions(), tmp_path / "ranker")
    value_of = {"red hat": 1.5, "café": 2.5}
    assert_equal(
        artifact,
        requests,
        lambda rows, _: np.array([value_of.get(title, -1.0) for title in values["title"][rows]]),
    )


def test_one_input_has_a_row_a_candidate_and_one_belongs_to_the_request(
    make: Callable[..., RequestSet], values: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    file = write_model(
        tmp_path / "ranker.onnx",
        [
            helper.make_node("Mul", ["vector", "profile"], ["products"]),
            helper.make_node("ReduceSum", ["products", "last"], ["scores"], keepdims=0),
        ],
        {"vector": (FLOAT, ["num_items", 3]), "profile": (FLOAT, [1, 3])},
        {"scores": (FLOAT, ["num_items"])},
        {"last": np.array([1])},
    )
    requests = make("vector", "profile")
    artifact = adopt(str(file), requests, AdoptOptions(), tmp_path / "ranker")
    assert [str(spec) for spec in artifact.signature.inputs] == [
        "vector float32[N, 3]", "profile float32[1, 3]",
    ]  # fmt: skip
    assert_equal(artifact, requests, lambda rows, number: values["vector"][rows] @ values["profile"][number])


def test_candidates_may_be_the_second_dimension(
    make: Callable[..., RequestSet], values: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    file = write_model(
        tmp_path / "ranker.onnx",
        [helper.make_node("ReduceSum", ["vector", "last"], ["logits"], keepdims=0)],
        {"vector": (FLOAT, ["batch", "candidates", 3])},
        {"logits": (FLOAT, ["batch", "candidates"])},
        {"last": np.array([2])},
    )
    requests = make("vector")
    artifact = adopt(str(file), requests, AdoptOptions(), tmp_path / "ranker")
    assert [str(spec) for spec in artifact.signature.inputs] == ["vector float32[1, N, 3]"]
    assert_equal(artifact, requests, lambda rows, _: values["vector"][rows].sum(axis=1))


def test_candidates_may_be_the_last_dimension(
    make: Callable[..., RequestSet], values: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    file = write_model(
        tmp_path / "ranker.onnx",
        [helper.make_node("MatMul", ["weights", "features"], ["scores"])],
        {"features": (FLOAT, [2, "N"])},
        {"scores": (FLOAT, [1, "N"])},
        {"weights": np.array([[2, -1]], np.float32)},
    )
    requests = make("likes", "shows")
    artifact = adopt(str(file), requests, AdoptOptions(), tmp_path / "ranker")
    assert_equal(artifact, requests, lambda rows, _: 2 * values["likes"][rows] - values["shows"][rows])


def test_whole_numbers_and_truth_values_are_inputs_and_whole_fractions_fill_them(
    make: Callable[..., RequestSet], values: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    file = write_model(
        tmp_path / "ranker.onnx",
        [
            helper.make_node("Gather", ["bias", "item"], ["biases"]),
            helper.make_node("Cast", ["rank"], ["place"], to=FLOAT),
            helper.make_node("Sub", ["biases", "place"], ["usual"]),
            helper.make_node("Where", ["is_new", "biases", "usual"], ["scores"]),
        ],
        {"item": (INT64, [None]), "rank": (INT64, [None]), "is_new": (BOOL, [None])},
        {"scores": (FLOAT, [None])},
        {"bias": np.arange(6, dtype=np.float32) / 3},
    )
    requests = make("item", "rank", "is_new")
    artifact = adopt(str(file), requests, AdoptOptions(), tmp_path / "ranker")
    bias = np.arange(6, dtype=np.float32) / 3
    assert_equal(
        artifact,
        requests,
        lambda rows, _: (
            bias[values["item"][rows]] - np.where(values["is_new"][rows], 0, values["rank"][rows])
        ),
    )


def test_dictionaries_of_probabilities_become_the_probability_of_class_1(
    make: Callable[..., RequestSet], values: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.linear_model import LogisticRegression

    features = np.stack([values["likes"], values["shows"]], axis=1)
    classifier = LogisticRegression().fit(features, values["is_new"].astype(int))
    file = tmp_path / "ranker.onnx"
    file.write_bytes(skl2onnx.to_onnx(classifier, features[:1]).SerializeToString())
    requests, oracle = make("likes", "shows"), session(file)
    artifact = adopt(str(file), requests, AdoptOptions(), tmp_path / "ranker")
    assert artifact.signature.score_column == 1
    assert_equal(
        artifact,
        requests,
        lambda rows, _: np.array(
            [chances[1] for chances in oracle.run(["output_probability"], {"X": features[rows]})[0]]
        ),
    )


def test_a_module_exported_by_torch_scores_as_the_module(
    make: Callable[..., RequestSet], values: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1), torch.nn.Sigmoid()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module,
            (torch.zeros(3, 2),),
            str(tmp_path / "ranker.onnx"),
            dynamo=False,
            input_names=["features"],
            dynamic_axes={"features": {0: "batch"}},
        )
    requests = make("likes", "shows")
    artifact = adopt(str(tmp_path / "ranker.onnx"), requests, AdoptOptions(), tmp_path / "ranker")
    features = torch.from_numpy(np.stack([values["likes"], values["shows"]], axis=1))
    assert_equal(artifact, requests, lambda rows, _: module(features[rows]).detach().numpy())


def test_the_columns_that_the_graph_itself_lists_fill_its_input_in_its_order(
    make: Callable[..., RequestSet], values: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    file = linear(tmp_path / "ranker.onnx")
    model = onnx.load(file)
    helper.set_model_props(model, {"feature_names": '["shows", "likes"]'})
    onnx.save(model, file)
    requests = make("likes", "rank", "shows")
    artifact = adopt(str(file), requests, AdoptOptions(), tmp_path / "ranker")
    assert_equal(artifact, requests, lambda rows, _: 2 * values["shows"][rows] - values["likes"][rows])


def test_an_input_with_a_default_is_left_alone(
    make: Callable[..., RequestSet], values: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    file = write_model(
        tmp_path / "ranker.onnx",
        [helper.make_node("Mul", ["likes", "factor"], ["scores"])],
        {"likes": (FLOAT, ["N"]), "factor": (FLOAT, [1])},
        {"scores": (FLOAT, ["N"])},
        {"factor": np.array([3], np.float32)},
    )
    requests = make("likes")
    artifact = adopt(str(file), requests, AdoptOptions(), tmp_path / "ranker")
    assert_equal(artifact, requests, lambda rows, _: 3 * values["likes"][rows])


def test_a_value_of_the_request_is_repeated_even_where_it_has_as_many_items_as_there_are_candidates(
    values: dict[str, NDArray[Any]], tmp_path: Path
) -> None:
    requests = write_requests(
        tmp_path / "data" / "clicks",
        {"likes": values["likes"][:6]},
        {"profile": values["profile"][:2]},
        offsets=np.array([0, 3, 6]),
    )
    file = write_model(
        tmp_path / "ranker.onnx",
        [
            helper.make_node("ReduceSum", ["profile", "last"], ["sums"], keepdims=0),
            helper.make_node("Mul", ["likes", "sums"], ["scores"]),
        ],
        {"likes": (FLOAT, ["N"]), "profile": (FLOAT, ["N", 3])},
        {"scores": (FLOAT, ["N"])},
        {"last": np.array([1])},
    )
    artifact = adopt(str(file), requests, AdoptOptions(), tmp_path / "ranker")
    for number, scores in enumerate(scores_of(artifact, requests)):
        likes = values["likes"][3 * number : 3 * number + 3]
        assert scores == pytest.approx(likes * values["profile"][number].sum(), abs=1e-6)


def test_scores_that_depend_on_the_slate_are_told(make: Callable[..., RequestSet], tmp_path: Path) -> None:
    file = write_model(
        tmp_path / "ranker.onnx",
        [helper.make_node("Softmax", ["likes"], ["scores"], axis=0)],
        {"likes": (FLOAT, ["N"])},
        {"scores": (FLOAT, ["N"])},
    )
    artifact = adopt(str(file), make("likes"), AdoptOptions(), tmp_path / "ranker")
    assert artifact.manifest.adopted is not None
    assert artifact.manifest.adopted.guessed[-1].startswith(
        "The score of a candidate depends on the others of its request: 1 alone, "
    )
