"""Operations and bytes of graphs and modules, against counts made by hand and against the files' own tensors."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from rbserve.core.types import no_progress
from rbserve.data.artifact import WEIGHTS, Artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters.quantize import block_size, quantise_blocks
from rbserve.exporters.sequential import write_graphs
from rbserve.models.configs import SasRecConfig
from rbserve.models.sasrec import SasRec
from rbserve.profilers.cost import onnx_cost, peaks, torch_cost
from rbserve.profilers.cost.operators import Opened, Spent, total
from rbserve.profilers.measure import harness, worker
from rbserve.profilers.measure.harness import default_plan, profile
from rbserve.profilers.timing.calls import Exercise, list_wise, pair_wise
from rbserve.runs.roofline import Cost, roofline
from rbserve.runtimes.onnx import OnnxItemScores
from rbserve.runtimes.opening import open_scorer
from rbserve.runtimes.ranking import ScoringRanker
from rbserve.runtimes.session import open_session, profiled_sessions
from rbserve.runtimes.torch_models import TorchItemScores

M, K, N = 6, 64, 48
CONSTANTS = 100  # bytes of axes, limits and the like that a graph has beside its weights


# ---- One product ----


def product(operator: str, right: list[onnx.TensorProto], **attributes: Any) -> onnx.ModelProto:
    """A graph of one node: a float input by constants; MatMulInteger's is of bytes."""
    whole = operator == "MatMulInteger"
    kinds = (TensorProto.UINT8, TensorProto.INT32) if whole else (TensorProto.FLOAT, TensorProto.FLOAT)
    turned = attributes.get("transA")
    left = helper.make_tensor_value_info("a", kinds[0], [K, M] if turned else [M, K])
    result = helper.make_tensor_value_info("c", kinds[1], [M, N])
    domain = "com.microsoft" if operator in ("MatMulNBits", "FusedMatMul", "DynamicQuantizeMatMul") else ""
    node = helper.make_node(operator, ["a", *(one.name for one in right)], ["c"], domain=domain, **attributes)
    graph = helper.make_graph([node], "one", [left], [result], initializer=right)
    versions = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=8)


def constant(name: str, *shape: int, dtype: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def blocks(bits: int) -> tuple[str, list[onnx.TensorProto], dict[str, Any]]:
    packed, scales = quantise_blocks(np.ones((K, N), np.float32), bits)
    tensors = [numpy_helper.from_array(packed, "b"), numpy_helper.from_array(scales, "s")]
    return (
        "MatMulNBits",
        tensors,
        {"K": K, "N": N, "bits": bits, "block_size": block_size(K, bits), "accuracy_level": 4},
    )


PRODUCTS: list[tuple[str, list[onnx.TensorProto], dict[str, Any]]] = [
    ("MatMul", [constant("b", K, N)], {}),
    ("Gemm", [constant("b", K, N), constant("bias", N)], {}),
    ("Gemm", [constant("b", N, K), constant("bias", N)], {"transB": 1}),
    ("Gemm", [constant("b", K, N)], {"transA": 1}),
    ("FusedMatMul", [constant("b", N, K)], {"transB": 1}),
    ("MatMulInteger", [constant("b", K, N, dtype=np.int8)], {}),
    ("DynamicQuantizeMatMul", [constant("b", K, N, dtype=np.int8), constant("s", N), constant("z", N, dtype=np.int8)],
     {}),
    blocks(8),
    blocks(4),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "right", "attributes"), PRODUCTS, ids=lambda value: str(value)[:40])
def test_a_product_has_two_operations_a_multiplication_and_the_bytes_of_its_tensors(
    operator: str, right: list[onnx.TensorProto], attributes: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "one.onnx"
    onnx.save(product(operator, right, **attributes), path)
    shape, kind = (
        ((K, M) if attributes.get("transA") else (M, K)),
        np.uint8 if operator == "MatMulInteger" else np.float32,
    )
    left = np.ones(shape, kind)

    def opened() -> Opened:
        session = open_session(path, threads=1)

        def call(*_: object) -> Any:
            return session.run(None, {"a": left})

        return lambda slate: Exercise(call, [()] * slate, call)

    variant = f"onnx-int{attributes.get('bits', 8)}"
    ((calls, spent),) = onnx_cost.look_into(variant, [3], opened)
    assert calls == 3
    assert spent.flops.total() == 3 * 2 * M * K * N
    assert spent.weight_bytes == 3 * sum(numpy_helper.to_array(one).nbytes for one in right)
    assert spent.activation_bytes == 3 * (left.nbytes + M * N * 4)


def test_of_a_table_only_the_rows_that_are_looked_up_are_read() -> None:
    node = onnx_cost.ProfiledNode(
        "Gather", [{"float": [1000, 64]}, {"int64": [5]}], [{"float": [5, 64]}], "256000", "40", "1280"
    )
    spent = onnx_cost.node_cost(node)
    assert (spent.weight_bytes, spent.activation_bytes) == (1280, 40 + 1280)
    assert spent.flops.total() == 0


def test_an_interruption_is_no_part_of_an_operators_time() -> None:
    def one(name: str, ns: int, read: int) -> Spent:
        return Spent(Counter({"fp32": 4}), 8, read, Counter({name: ns}))

    add, large, relu = [one("Add", ns, 1) for ns in (10, 9_999, 12)], one("Add", 50, 9), one("Relu", 7, 1)
    found = total([*add, large, relu])
    assert found.operators_ns == {"Add": 3 * 12 + 50, "Relu": 7}
    assert (found.flops, found.weight_bytes, found.activation_bytes) == ({"fp32": 20}, 40, 13)


# ---- Whole models ----


def looked_into(variant: str, slate: int, exercise: Callable[[], Exercise]) -> tuple[int, Spent]:
    look_into = torch_cost.look_into if variant.startswith("torch") else onnx_cost.look_into

    def opened() -> Opened:
        made = exercise()
        return lambda _: made

    (found,) = look_into(variant, [slate], opened)
    return found


@pytest.mark.parametrize("variant", ["torch-fp32", "onnx-fp32"])
@pytest.mark.parametrize("slate", [1, 7])
def test_a_dnn_costs_what_a_hand_counts(trained: Artifact, variant: str, slate: int) -> None:
    """Its first layer multiplies the user once and each candidate, 16 to 64; then 64 to 32, and 32 to 1."""
    history, candidates = np.array([1, 2, 3], np.int32), np.arange(slate, dtype=np.int32)
    calls, spent = looked_into(
        variant, slate, lambda: pair_wise(open_scorer(trained, variant), [history], [candidates])
    )
    assert calls == 1
    first, rest = 2 * 16 * 64 * (1 + slate), 2 * slate * (64 * 32 + 32 * 1)
    assert spent.flops == {"fp32": first + rest}
    weights = load_file(trained.path / WEIGHTS)
    (table,) = (one for name, one in weights.items() if "embedding" in name)
    rows = (len(history) + slate) * table[0].nbytes
    expected = sum(one.nbytes for one in weights.values()) - table.nbytes + rows
    assert 0 <= spent.weight_bytes - expected <= (0 if variant == "torch-fp32" else CONSTANTS)
    assert spent.activation_bytes > 0
    assert spent.operators_ns.total() > 0


def test_an_int8_graph_reads_the_bytes_of_its_own_tensors(trained: Artifact) -> None:
    history, candidates = np.array([1, 2, 3], np.int32), np.array([4], np.int32)
    _, spent = looked_into(
        "onnx-int8", 1, lambda: pair_wise(open_scorer(trained, "onnx-int8"), [history], [candidates])
    )
    graph = onnx.load(trained.path / "onnx" / "int8.onnx").graph
    tensors = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    table = max(
        tensors.values(), key=lambda one: one.nbytes if one.dtype == np.float32 and one.ndim == 2 else 0
    )
    expected = sum(one.nbytes for one in tensors.values()) - table.nbytes + 4 * table[0].nbytes
    assert spent.flops == {"int8": 2 * 16 * 64 * 2 + 2 * (64 * 32 + 32)}
    assert abs(spent.weight_bytes - expected) <= CONSTANTS


@pytest.mark.parametrize("variant", ["torch-fp32", "onnx-fp32"])
def test_a_transformer_costs_what_a_hand_counts(variant: str, tmp_path: Path) -> None:
    """Two layers; the last one has queries, and all after them, at the last position alone."""
    d, items, length = 8, 30, 6
    torch.manual_seed(0)
    model = SasRec(SasRecConfig(layers=2, dim=d, heads=2, max_history=10), items).eval()
    history = np.arange(length - 1, dtype=np.int32)  # a start vector goes before

    def exercise() -> Exercise:
        best = (
            TorchItemScores(model)
            if variant == "torch-fp32"
            else OnnxItemScores(
                *(open_session(path, threads=1) for path in write_graphs(model, tmp_path, {}))
            )
        )
        return list_wise(ScoringRanker(best, 10), [history], 5, False)

    _, spent = looked_into(variant, 5, exercise)

    def layer(queries: int) -> int:
        projections = length * d * 3 * d
        attention = 2 * queries * length * d
        return 2 * (projections + attention + queries * d * d + 2 * queries * d * 4 * d)

    assert spent.flops == {"fp32": layer(length) + layer(1) + 2 * items * d}


# ---- Sessions, limits, shares ----


def test_profiling_is_over_with_its_context_even_after_a_failure(
    trained: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    graph = trained.path / "onnx" / "fp32.onnx"
    with pytest.raises(ZeroDivisionError), profiled_sessions(tmp_path) as sessions:
        assert open_session(graph, 1) is sessions[0]
        raise ZeroDivisionError
    sessions[0].end_profiling()
    (profile_file,) = tmp_path.iterdir()
    after = open_session(graph, 1)
    assert after not in sessions
    assert not after.end_profiling()
    assert [*tmp_path.iterdir()] == [profile_file]


def test_a_machine_without_a_kernel_for_a_kind_of_number_has_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    assert peaks.peak_gflops("int8", 1) is None
    monkeypatch.setattr(peaks, "TRIAL_S", 0.0)
    assert (peaks.peak_gflops("fp32", 1) or 0) > 0
    assert peaks.bandwidth_gbs(0) > 0


def cost(**changes: Any) -> Cost:
    facts = {
        "variant": "onnx-int8", "slate": 1, "calls": 2, "parameters": 7, "flops": {"fp32": 400, "int8": 1600},
        "weight_bytes": 3000, "activation_bytes": 1000, "peak_gflops": {"fp32": 2.0, "int8": 8.0},
        "bandwidth_gbs": 4.0, "operators_ns": {"Add": 10, "MatMul": 30},
    }  # fmt: skip
    return Cost(**{**facts, **changes})  # type: ignore[arg-type]


def test_shares_are_those_of_the_median_time_of_the_calls_that_were_looked_at() -> None:
    found = roofline(cost(), [[1000, 1000, 9_999_999], [1000, 500, 9_999_999]])
    assert found is not None
    assert (found.flops, found.weight_bytes, found.activation_bytes) == (1000, 1500, 500)
    assert found.peak_gflops == pytest.approx(1000 / 200)  # 100 ns of fp32, 100 of int8
    assert found.share_of_peak == pytest.approx(0.2)
    assert found.share_of_bandwidth == pytest.approx(0.5)
    assert list(found.operators.items()) == [("MatMul", 0.75), ("Add", 0.25)]


def test_where_a_limit_or_the_times_are_missing_nothing_is_made_up() -> None:
    assert roofline(cost(), [[], []]) is None
    found = roofline(cost(peak_gflops={"fp32": 2.0, "int8": None}), [[1000, 1000]])
    assert found is not None
    assert found.peak_gflops is found.share_of_peak is None
    none = roofline(cost(flops={}, operators_ns={}), [[1000, 1000]])
    assert none is not None
    assert (none.flops, none.share_of_peak, none.operators) == (0, None, {})


def test_a_profile_tells_cost_and_no_share_exceeds_what_the_machine_has(
    trained: Artifact, planted: Dataset
) -> None:
    plan = msgspec.structs.replace(default_plan(), processes=1, runs=20, slates=[1, 50], cost=True)
    measured = profile(trained, planted, plan, ["onnx-fp32"])
    small, large = (one.cost for one in measured.results)
    assert small is not None
    assert large is not None
    assert small.parameters == sum(one.size for one in load_file(trained.path / WEIGHTS).values())
    assert large.flops > 10 * small.flops
    assert large.weight_bytes < 1.5 * small.weight_bytes
    for one in (small, large):
        assert 0 < (one.share_of_peak or 0) <= 1.05
        assert 0 < one.share_of_bandwidth <= 1.05
        assert sum(one.operators.values()) == pytest.approx(1)
    assert measured.results[1].slate_growth is not None


def test_all_variants_of_a_run_are_held_against_the_highest_peak_that_any_saw(
    trained: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, dict[str, float | None]] = {
        "torch-fp32": {"fp32": 50.0},
        "onnx-fp32": {"fp32": 200.0},
        "onnx-int8": {"fp32": 100.0, "int8": None},
    }

    def start(job: worker.Job) -> worker.Report:
        assert job.cost
        return worker.Report(costs=[cost(variant=job.variant, peak_gflops=seen[job.variant])])

    monkeypatch.setattr(harness, "run_job", start)
    found = harness.Processes(trained, Path("inputs.npz"), list(seen), no_progress, labelled=True).costs(
        default_plan()
    )
    assert {one.variant: one.peak_gflops for one in found} == {
        "torch-fp32": {"fp32": 200.0},
        "onnx-fp32": {"fp32": 200.0},
        "onnx-int8": {"fp32": 200.0, "int8": None},
    }
