"""An adopted graph in int8 and fp16: compared with its own fp32 scores on requests, served by the same call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from adopted import adopted_graph, small_requests, write_requests
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from small_reranker import make_reranker

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import UsageError
from rbserve.data.artifact import Artifact
from rbserve.data.golden import scored_otherwise
from rbserve.data.request_set import RequestSet
from rbserve.exporters.adopt.adopt import adopt
from rbserve.exporters.export import export
from rbserve.runtimes.opening import open_scorer
from rbserve.stats.pairwise import auc

FLOAT = TensorProto.FLOAT
REQUESTS, SIZE, WIDTH = 120, 10, 16


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> RequestSet:
    """120 requests of 10 candidates with 16 features, of which the first decides whether a candidate is clicked."""
    rng = np.random.default_rng(11)
    rows = REQUESTS * SIZE
    features = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    labels = (rng.random(rows) < 1 / (1 + np.exp(-3 * features[:, 0]))).astype(np.float32)
    path = tmp_path_factory.mktemp("data") / "clicks"
    return write_requests(path, {"features": features}, offsets=np.arange(0, rows + 1, SIZE), labels=labels)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, NDArray[Any]],
    dims: Any = ("N", WIDTH),
    opset: int = 17,
) -> Path:
    """A graph of features -> scores [N, 1]."""
    graph = helper.make_graph(
        nodes,
        "ranker",
        [helper.make_tensor_value_info("features", FLOAT, dims)],
        [helper.make_tensor_value_info("scores", FLOAT, [dims[0], 1])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def mlp(path: Path, **options: Any) -> Path:
    """A network of one hidden layer: a Gemm, a MatMul by a transposed constant and its bias, a sigmoid.

    Its constants have names that a quantiser might take for its own.
    """
    rng = np.random.default_rng(5)
    hidden, last = rng.normal(size=(WIDTH, 32)) / 4, rng.normal(size=(1, 32)) / 4
    hidden[0] += 0.3
    last = np.abs(last)
    nodes = [
        helper.make_node("Gemm", ["features", "one", "zero_point"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["positive"]),
        helper.make_node("Transpose", ["levels"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["positive", "turned"], ["product"]),
        helper.make_node("Add", ["product", "smallest"], ["odds"]),
        helper.make_node("Sigmoid", ["odds"], ["scores"]),
    ]
    weights = {"one": hidden, "zero_point": rng.normal(size=32), "levels": last, "smallest": np.array([-2.0])}
    return save(path, nodes, {name: array.astype(np.float32) for name, array in weights.items()}, **options)


@pytest.fixture(scope="module")
def exported(requests: RequestSet, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The network, adopted and exported in int8 and fp16."""
    folder = tmp_path_factory.mktemp("artifacts")
    artifact = adopt(str(mlp(folder / "mlp.onnx")), requests, AdoptOptions(label="label"), folder / "mlp")
    return export(artifact, requests, ["int8", "fp16"])


def scores_of(artifact: Artifact, requests: RequestSet, variant: str) -> NDArray[np.float32]:
    """The scores of all candidates."""
    scorer = open_scorer(artifact, variant)
    return np.concatenate(
        [scorer.score(requests.request(artifact.signature, number)) for number in range(len(requests))]
    )


@pytest.mark.parametrize(("variant", "most"), [("onnx-int8", 0.03), ("onnx-fp16", 0.003)])
def test_parity_is_that_of_the_scores_themselves(
    variant: str, most: float, exported: Artifact, requests: RequestSet
) -> None:
    parity = exported.manifest.variants[variant].parity
    reference, scores = (scores_of(exported, requests, name) for name in ("onnx-fp32", variant))
    assert 0 < np.abs(reference - scores).max() < most
    assert 1_000 <= parity.rows < 1_000 + SIZE
    assert parity.auc_reference is not None
    assert parity.auc_reference == pytest.approx(auc(requests.labels, reference), abs=0.01)
    assert parity.auc == pytest.approx(parity.auc_reference, abs=0.002)
    assert parity.max_abs <= np.abs(reference - scores).max()
    assert parity.correlation is not None
    assert parity.correlation > 0.999


def test_products_become_integers_and_half_floats(exported: Artifact) -> None:
    int8, fp16 = (onnx.load(exported.file(f"onnx/{precision}.onnx")) for precision in ("int8", "fp16"))
    operators = [node.op_type for node in int8.graph.node]
    assert operators.count("MatMulIntegerToFloat") == 2
    assert not {"MatMul", "Gemm"} & {*operators}
    assert {tensor.data_type for tensor in fp16.graph.initializer} == {TensorProto.FLOAT16}
    for model in (int8, fp16):
        assert {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)} == {
            FLOAT
        }


def test_a_score_in_int8_does_not_depend_on_the_slate(exported: Artifact, requests: RequestSet) -> None:
    scorer = open_scorer(exported, "onnx-int8")
    together = scorer.score(requests.request(exported.signature, 3))
    alone = [
        scorer.score(requests.request_of(exported.signature, np.array([row]), 3))[0]
        for row in range(3 * SIZE, 4 * SIZE)
    ]
    assert together == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("variant", ["onnx-fp32", "onnx-int8", "onnx-fp16"])
def test_a_variant_answers_its_own_checks_again(variant: str, exported: Artifact) -> None:
    checks = exported.checks(variant)
    assert checks is not None
    assert len(checks.checks) == 4
    scorer = open_scorer(exported, variant)
    assert scored_otherwise(checks, scorer.score) is None
    assert scored_otherwise(checks, lambda request: scorer.score(request) + 0.5) is not None


@pytest.mark.parametrize("opset", [11, 13, onnx.defs.onnx_opset_version()])
@pytest.mark.parametrize("outlier", [1, 300])
def test_int8_is_written_in_the_opset_of_the_graph(opset: int, outlier: float, tmp_path: Path) -> None:
    """Rows of very different sizes have a scale each, which takes operators that changed from opset to opset."""
    rng = np.random.default_rng(2)
    features = rng.normal(size=(200, WIDTH)).astype(np.float32)
    features[0] *= outlier
    requests = write_requests(tmp_path / "clicks", {"features": features}, offsets=np.arange(0, 201, 10))
    file = mlp(tmp_path / "mlp.onnx", opset=opset)
    artifact = export(adopt(str(file), requests, AdoptOptions(), tmp_path / "mlp"), requests, ["int8"])
    model = onnx.load(artifact.file("onnx/int8.onnx"))
    assert ("ReduceMax" in {node.op_type for node in model.graph.node}) is (outlier > 1)
    assert next(entry.version for entry in model.opset_import if not entry.domain) == opset
    difference = scores_of(artifact, requests, "onnx-int8") - scores_of(artifact, requests, "onnx-fp32")
    assert np.abs(difference).max() < 0.03


def test_a_graph_of_four_rows_is_exported_too(requests: RequestSet, tmp_path: Path) -> None:
    file = mlp(tmp_path / "mlp.onnx", dims=(4, WIDTH))
    artifact = export(adopt(str(file), requests, AdoptOptions(), tmp_path / "mlp"), requests, ["int8"])
    difference = scores_of(artifact, requests, "onnx-int8") - scores_of(artifact, requests, "onnx-fp32")
    assert 0 < np.abs(difference).max() < 0.03


def test_convolutions_are_rounded_by_onnxruntime_itself(requests: RequestSet, tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    nodes = [
        helper.make_node("Unsqueeze", ["features", "middle"], ["channels"]),
        helper.make_node("Conv", ["channels", "kernel"], ["windows"], kernel_shape=[3]),
        helper.make_node("Relu", ["windows"], ["positive"]),
        helper.make_node("ReduceMean", ["positive"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Reshape", ["means", "column"], ["scores"]),
    ]
    weights: dict[str, NDArray[Any]] = {
        "middle": np.array([1]),
        "kernel": rng.normal(size=(8, 1, 3)).astype(np.float32),
        "column": np.array([-1, 1]),
    }
    file = save(tmp_path / "cnn.onnx", nodes, weights)
    artifact = export(adopt(str(file), requests, AdoptOptions(), tmp_path / "cnn"), requests, ["int8"])
    model = onnx.load(artifact.file("onnx/int8.onnx"))
    assert TensorProto.INT8 in {tensor.data_type for tensor in model.graph.initializer}
    parity = artifact.manifest.variants["onnx-int8"].parity
    assert parity.correlation is not None
    assert 0.99 < parity.correlation < 1


def trees(path: Path) -> Path:
    """A tree of one decision."""
    tree = helper.make_node(
        "TreeEnsembleRegressor", ["features"], ["scores"], domain="ai.onnx.ml", n_targets=1,
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[0, 0, 0],
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"], nodes_values=[0.0, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0], nodes_falsenodeids=[2, 0, 0],
        target_treeids=[0, 0], target_nodeids=[1, 2], target_ids=[0, 0], target_weights=[0.1, 0.9],
    )  # fmt: skip
    save(path, [tree], {})
    model = onnx.load(path)
    model.opset_import.add(domain="ai.onnx.ml", version=1)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        (
            "int8",
            "trees cannot be exported in int8: it has no products by constant matrices (its operators: TreeEns",
        ),
        ("fp16", "trees cannot be exported in fp16: it has no weights in 32 bits beside those of trees"),
        ("int4", "trees cannot be exported in int4"),
    ],
)
def test_what_a_precision_does_not_change_is_told(
    precision: str, message: str, requests: RequestSet, tmp_path: Path
) -> None:
    artifact = adopt(str(trees(tmp_path / "trees.onnx")), requests, AdoptOptions(), tmp_path / "trees")
    assert artifact.can_export == ("onnx-fp32",)
    with pytest.raises(UsageError) as refused:
        export(artifact, requests, [precision])
    assert message in refused.value.message
    assert sorted(path.name for path in (artifact.path / "onnx").iterdir()) == [
        "fp32.checks.json",
        "fp32.onnx",
    ]
    assert not list(tmp_path.glob(".*"))


def test_an_artefact_is_not_exported_with_other_requests(exported: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="was not adopted with the requests clicks of today"):
        export(exported, small_requests(tmp_path / "clicks"), ["int8"])


def test_without_labels_a_loss_is_expected_of_the_correlation(tmp_path: Path) -> None:
    requests = small_requests(tmp_path / "clicks", labelled=False)
    artifact = export(adopted_graph(tmp_path / "logistic", requests), requests, ["int8"])
    record = artifact.manifest.variants["onnx-int8"]
    assert record.parity.auc is None
    assert record.parity.auc_reference is None
    assert record.warnings == []


def test_a_model_without_a_graph_is_exported_in_nothing(requests: RequestSet, tmp_path: Path) -> None:
    """torch.matrix_exp has no operator of ONNX."""
    torch = pytest.importorskip("torch")

    class Exponential(torch.nn.Module):  # type: ignore[misc,name-defined]
        def forward(self, features: Any) -> Any:
            return torch.matrix_exp(features[:, None, :1])[:, 0, 0]

    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Exponential().eval(), (torch.zeros(3, WIDTH),), dynamic_shapes={"features": {0: batch}}
    )
    torch.export.save(program, tmp_path / "exponential.pt2")
    artifact = adopt(str(tmp_path / "exponential.pt2"), requests, AdoptOptions(), tmp_path / "exponential")
    assert artifact.variants == ["torch-fp32"]
    assert artifact.can_export == ()
    with pytest.raises(UsageError, match="cannot be exported in int8: it has no ONNX graph"):
        export(artifact, requests, ["int8"])


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_reranker_is_exported_by_its_tokens(precision: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    titles = np.array([f"the {word} shoe" for word in ("red", "blue", "red", "green", "old", "new")], object)
    requests = write_requests(
        tmp_path / "clicks",
        {"document": titles},
        {"query": np.array(["red shoe", "new"], object)},
        offsets=np.array([0, 3, 6]),
    )
    source = make_reranker(tmp_path / "source")
    artifact = export(
        adopt(str(source), requests, AdoptOptions(), tmp_path / "reranker"), requests, [precision]
    )
    reference, scores = (scores_of(artifact, requests, name) for name in ("onnx-fp32", f"onnx-{precision}"))
    assert scores == pytest.approx(reference, abs=0.05)
    assert (scores != reference).any()
    checks = artifact.checks(f"onnx-{precision}")
    assert checks is not None
    assert scored_otherwise(checks, open_scorer(artifact, f"onnx-{precision}").score) is None


def test_parity_of_graded_labels_is_in_ndcg(tmp_path: Path) -> None:
    from sklearn.metrics import ndcg_score

    rng = np.random.default_rng(4)
    features = rng.normal(size=(600, WIDTH)).astype(np.float32)
    grades = rng.integers(4, size=600).astype(np.float32)
    requests = write_requests(
        tmp_path / "clicks", {"features": features}, offsets=np.arange(0, 601, 10), labels=grades
    )
    artifact = adopt(str(mlp(tmp_path / "mlp.onnx")), requests, AdoptOptions(), tmp_path / "mlp")
    parity = export(artifact, requests, ["int8"]).manifest.variants["onnx-int8"].parity
    scores = scores_of(artifact, requests, "onnx-fp32").reshape(60, 10)
    gains = 2 ** grades.reshape(60, 10) - 1
    assert artifact.manifest.task == "rerank"
    assert parity.auc is None
    assert parity.ndcg_reference == pytest.approx(ndcg_score(gains, scores, k=10))
    assert parity.ndcg == pytest.approx(parity.ndcg_reference, abs=0.02)


def test_large_weights_in_a_file_of_their_own_are_rounded_too(requests: RequestSet, tmp_path: Path) -> None:
    file = mlp(tmp_path / "mlp.onnx")
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="mlp.weights", size_threshold=0)
    artifact = export(
        adopt(str(file), requests, AdoptOptions(), tmp_path / "mlp"), requests, ["int8", "fp16"]
    )
    assert (artifact.path / "onnx" / "mlp.weights").is_file()
    assert artifact.manifest.variants["onnx-int8"].data_files == []
    reference = scores_of(artifact, requests, "onnx-fp32")
    assert scores_of(artifact, requests, "onnx-int8") == pytest.approx(reference, abs=0.03)
    assert scores_of(artifact, requests, "onnx-fp16") == pytest.approx(reference, abs=0.003)


def test_products_that_are_more_than_a_product_stay_as_they_are(requests: RequestSet, tmp_path: Path) -> None:
    """A scaled Gemm, one with a bias of a row each, weights that only a branch reads: beside one that is rounded."""
    rng = np.random.default_rng(6)
    branches = [
        helper.make_graph(
            [helper.make_node("MatMul", ["mixed", name], [f"{name}_scores"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}_scores", FLOAT, ["N", 1])],
        )
        for name in ("usual", "unusual")
    ]
    nodes = [
        helper.make_node("Gemm", ["features", "scaled"], ["first"], alpha=0.5),
        helper.make_node("Gemm", ["features", "plain", "row"], ["second"]),
        helper.make_node("MatMul", ["features", "plain"], ["third"]),
        helper.make_node("Sum", ["first", "second", "third"], ["mixed"]),
        helper.make_node("ReduceMax", ["features"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "limit"], ["is_usual"]),
        helper.make_node("If", ["is_usual"], ["scores"], then_branch=branches[0], else_branch=branches[1]),
    ]
    weights = {
        "scaled": rng.normal(size=(WIDTH, 8)) / 4, "plain": rng.normal(size=(WIDTH, 8)) / 4,
        "row": rng.normal(size=(1, 8)), "limit": np.array(1.5),
        "usual": rng.normal(size=(8, 1)), "unusual": rng.normal(size=(8, 1)),
    }  # fmt: skip
    file = save(
        tmp_path / "mixed.onnx", nodes, {name: array.astype(np.float32) for name, array in weights.items()}
    )
    artifact = export(adopt(str(file), requests, AdoptOptions(), tmp_path / "mixed"), requests, ["int8"])
    operators = [node.op_type for node in onnx.load(artifact.file("onnx/int8.onnx")).graph.node]
    assert operators.count("Gemm") == 2
    assert operators.count("MatMulIntegerToFloat") == 1
    difference = scores_of(artifact, requests, "onnx-int8") - scores_of(artifact, requests, "onnx-fp32")
    assert 0 < np.abs(difference).max() < 0.3
