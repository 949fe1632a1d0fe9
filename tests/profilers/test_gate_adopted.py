"""The gate over adopted models: the same rounds and statistics, on the requests of a table."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from adopted import adopted_graph, expected_scores, requests_of_test_rows, small_requests, write_requests
from sklearn.metrics import ndcg_score
from test_gate_run import CONFIG, Machine

from rbserve.core.tasks import GRADED
from rbserve.data.artifact import Adopted, Artifact, write_manifest
from rbserve.data.dataset import Dataset
from rbserve.data.request_set import RequestSet
from rbserve.profilers.gate import rounds
from rbserve.profilers.gate.config import GateConfig
from rbserve.profilers.gate.findings import markdown
from rbserve.profilers.gate.rounds import check
from rbserve.profilers.gate.sides import Pair, Scope
from rbserve.profilers.gate.verdict import Suite, Verdict
from rbserve.stats.pairwise import auc

LATENCY = Scope(slates=[1, 8], metrics=["p50"])
ACCURACY = Scope(metrics=["accuracy"])
LOSS = 0.002


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Workers with scripted times and scores."""
    scripted = Machine()
    monkeypatch.setattr(rounds, "run_job", scripted)
    return scripted


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> RequestSet:
    """4,000 requests of 1,000 users with 5 candidates each, whose labels follow the logistic graph."""
    rng = np.random.default_rng(3)
    likes, ages = rng.normal(size=20_000).astype(np.float32), rng.normal(size=4_000).astype(np.float32)
    chance = expected_scores(likes, np.repeat(ages, 5))
    return write_requests(
        tmp_path_factory.mktemp("data") / "clicks",
        {"likes": likes},
        {"age": ages},
        offsets=np.arange(0, 20_001, 5),
        labels=(rng.random(20_000) < chance).astype(np.float32),
        users=np.repeat(np.arange(4_000, dtype=np.int32) % 1_000, 5),
    )


@pytest.fixture(scope="module")
def graph(requests: RequestSet, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The logistic graph, adopted with the requests."""
    return adopted_graph(tmp_path_factory.mktemp("artifacts") / "logistic", requests)


def suite(
    base: Artifact, head: Artifact, requests: RequestSet, scope: Scope, config: GateConfig = CONFIG
) -> Suite:
    pair = Pair("ranker", base, head, "", ["base"], ["head"])
    return check([pair], lambda _: requests, config, scope).suite


def as_callable(graph: Artifact, folder: Path) -> Artifact:
    """The artefact of a Python function of the same columns."""
    adopted = graph.manifest.adopted
    assert adopted is not None
    function = Adopted(
        "callable", "python", "shop:make", adopted.signature, adopted.requests, callable="shop:make"
    )
    manifest = msgspec.structs.replace(graph.manifest, files={}, variants={}, adopted=function)
    folder.mkdir()
    write_manifest(folder, manifest)
    return Artifact(folder, manifest)


def noisy_scores(requests: RequestSet, lost: float) -> tuple[list[float], list[float]]:
    """Scores of the logistic graph, and others that have lost so much AUC on these requests."""
    ages = np.repeat(requests.column("age").values, 5)
    scores = expected_scores(requests.column("likes").values, ages)
    odds = np.log(scores / (1 - scores))
    noise = np.random.default_rng(11).normal(size=len(odds))
    whole, low, high = auc(requests.labels, scores), 0.0, 4.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if whole - auc(requests.labels, odds + middle * noise) > lost else (middle, high)
        )
    return scores.tolist(), (odds + high * noise).tolist()


def test_a_head_equal_to_base_passes(machine: Machine, graph: Artifact, requests: RequestSet) -> None:
    machine.spread = 0.001
    scores, _ = noisy_scores(requests, LOSS)
    machine.scores = {"base": scores, "head": scores}
    judged = suite(graph, graph, requests, Scope(slates=[1, 8], metrics=["p50", "file_size", "accuracy"]))
    assert judged.verdict is Verdict.PASS
    assert {(line.metric, line.slate) for line in judged.lines} == {
        ("p50", 1), ("p50", 8), ("file_size", None), ("auc", None),
    }  # fmt: skip
    assert judged.notes == []


def test_an_injected_slowdown_of_10_percent_is_regressed(
    machine: Machine, graph: Artifact, requests: RequestSet
) -> None:
    machine.slower = 0.1
    judged = suite(graph, graph, requests, LATENCY)
    assert (judged.verdict, judged.exit_code) == (Verdict.REGRESSED, 3)
    assert [line.change for line in judged.lines] == pytest.approx([0.1, 0.1], abs=0.02)


def test_a_loss_of_0_002_auc_is_regressed(machine: Machine, graph: Artifact, requests: RequestSet) -> None:
    scores, worse = noisy_scores(requests, LOSS)
    machine.scores = {"base": scores, "head": worse}
    judged = suite(graph, graph, requests, ACCURACY)
    (line,) = judged.lines
    assert (line.metric, line.verdict, judged.rounds) == ("auc", Verdict.REGRESSED, 1)
    assert line.change == pytest.approx(LOSS, abs=1e-5)


def test_real_workers_score_the_requests_of_the_table(requests: RequestSet, graph: Artifact) -> None:
    pair = Pair("ranker", graph, graph)
    judged = check([pair], lambda _: requests, GateConfig(), ACCURACY).suite
    (line,) = judged.lines
    ages = np.repeat(requests.column("age").values, 5)
    assert line.verdict is Verdict.PASS
    assert line.base == pytest.approx(
        auc(requests.labels, expected_scores(requests.column("likes").values, ages))
    )


def test_without_labels_accuracy_is_left_out_and_said(machine: Machine, tmp_path: Path) -> None:
    machine.spread = 0.001
    requests = small_requests(tmp_path / "data", labelled=False)
    graph = adopted_graph(tmp_path / "model", requests)
    judged = suite(graph, graph, requests, Scope(slates=[1], metrics=["p50", "accuracy"]))
    assert {line.metric for line in judged.lines} == {"p50"}
    assert judged.verdict is Verdict.PASS
    assert judged.notes == ["accuracy is not compared: the requests have no labels"]
    assert judged.notes[0] in markdown(judged)
    assert not any(job.accuracy for _, job in machine.jobs)


def test_accuracy_alone_without_labels_is_missing(machine: Machine, tmp_path: Path) -> None:
    requests = small_requests(tmp_path / "data", labelled=False)
    graph = adopted_graph(tmp_path / "model", requests)
    judged = suite(graph, graph, requests, ACCURACY)
    assert (judged.verdict, judged.exit_code, judged.lines) == (Verdict.MISSING, 5, [])


def test_models_of_other_requests_are_not_comparable(
    machine: Machine, graph: Artifact, requests: RequestSet, tmp_path: Path
) -> None:
    other = adopted_graph(tmp_path / "model", small_requests(tmp_path / "data"))
    judged = suite(graph, other, requests, LATENCY)
    assert (judged.verdict, machine.jobs) == (Verdict.NOT_COMPARABLE, [])
    assert "base and head differ in their data set" in str(judged.lines[0].reason)


def test_an_adopted_model_and_a_zoo_row_of_one_data_set_are_judged_on_the_same_rows(
    trained: Artifact, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real workers: each side is asked with what it reads, history and items, or columns of the table."""
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    requests = requests_of_test_rows(tmp_path / "data" / "rows", planted)
    adopted = adopted_graph(tmp_path / "model", requests)
    shutil.copytree(planted.path, tmp_path / "data" / planted.name)
    rows: dict[bool, RequestSet | Dataset] = {True: requests, False: planted}
    pair = Pair("rankers", trained, adopted)
    judged = check([pair], lambda side: rows[side.is_adopted], GateConfig(), ACCURACY).suite
    (line,) = [line for line in judged.lines if line.variant == "onnx-fp32"]
    test = planted.ctr("test")
    expected = expected_scores(requests.column("likes").values, requests.column("age").values)
    assert line.verdict is not Verdict.NOT_COMPARABLE
    assert line.head == pytest.approx(auc(test.labels, expected))
    assert line.base != pytest.approx(line.head)


def test_models_with_no_variant_in_common_are_compared_as_they_came(
    machine: Machine, graph: Artifact, requests: RequestSet, tmp_path: Path
) -> None:
    machine.spread = 0.001
    function = as_callable(graph, tmp_path / "function")
    judged = suite(function, graph, requests, Scope(slates=[1], metrics=["p50", "file_size"]))
    assert {line.variant for line in judged.lines} == {"python to onnx-fp32"}
    assert {line.metric for line in judged.lines} == {
        "p50"
    }  # the code of a function is no file of its artefact
    assert {(side, job.variant) for side, job in machine.jobs} == {("base", "python"), ("head", "onnx-fp32")}


def test_a_named_variant_that_one_format_lacks_is_missing(
    machine: Machine, graph: Artifact, requests: RequestSet, tmp_path: Path
) -> None:
    function = as_callable(graph, tmp_path / "function")
    judged = suite(function, graph, requests, Scope(["onnx-fp32"], [1], metrics=["p50"]))
    assert (judged.verdict, judged.lines[0].reason) == (Verdict.MISSING, "base has no onnx-fp32")


def test_graded_labels_are_compared_by_the_ranking_of_each_request(machine: Machine, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    labels = rng.integers(0, 4, 3_000).astype(np.float32)
    requests = write_requests(
        tmp_path / "data", {"likes": labels}, {"age": np.zeros(300, np.float32)},
        offsets=np.arange(0, 3_001, 10), labels=labels,
    )  # fmt: skip
    graph = adopted_graph(tmp_path / "model", requests)
    graph = Artifact(graph.path, msgspec.structs.replace(graph.manifest, task=GRADED.name))
    machine.scores = {"base": labels.tolist(), "head": (labels + rng.normal(size=3_000)).tolist()}
    (line,) = suite(graph, graph, requests, ACCURACY).lines
    assert (line.metric, line.verdict, line.base) == (GRADED.metric, Verdict.REGRESSED, 1.0)
    gains = ndcg_score(
        2 ** labels.reshape(300, 10) - 1, np.array(machine.scores["head"]).reshape(300, 10), k=10
    )
    assert line.head == pytest.approx(gains)
