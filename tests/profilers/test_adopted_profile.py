"""An adopted model is timed and judged like a zoo row: on the requests of its table, by the same harness."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from adopted import (
    REQUESTS,
    SIGNATURE,
    SLATE_SIZE,
    USERS,
    adopted_graph,
    expected_scores,
    requests_of_test_rows,
    small_requests,
)
from sklearn.metrics import roc_auc_score

from rbserve.core.errors import UsageError
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.data.request_set import RequestSet, tensors_of
from rbserve.profilers.compare.sections import sections
from rbserve.profilers.measure.harness import default_plan, profile
from rbserve.profilers.measure.test_rows import open_test_rows
from rbserve.profilers.timing.requests import draw_rows
from rbserve.runs.measurement import Measurement
from rbserve.runs.plan import Plan

PLAN = msgspec.structs.replace(default_plan(), processes=2, runs=10, slates=[1, 8])


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> RequestSet:
    """A small request set with labels."""
    return small_requests(tmp_path_factory.mktemp("data") / "clicks")


@pytest.fixture(scope="module")
def logistic(requests: RequestSet, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The logistic graph, adopted with these requests."""
    return adopted_graph(tmp_path_factory.mktemp("artifacts") / "logistic", requests)


@pytest.fixture(scope="module")
def run(logistic: Artifact, requests: RequestSet) -> Measurement:
    """A short profile of the logistic graph, both scopes, with its cost."""
    return profile(logistic, requests, msgspec.structs.replace(PLAN, scope="both", cost=True))


def test_every_scope_and_slate_is_timed_and_judged_on_all_rows(
    run: Measurement, requests: RequestSet
) -> None:
    shapes = [(result.variant, result.scope, result.slate) for result in run.results]
    assert shapes == [("onnx-fp32", scope, slate) for scope in ("forward", "end_to_end") for slate in (1, 8)]
    assert (run.dataset, run.dataset_fingerprint) == ("clicks", requests.fingerprint)
    likes, ages = (np.asarray(requests.column(name).values) for name in ("likes", "age"))
    expected = expected_scores(likes, np.repeat(ages, SLATE_SIZE))
    assert run.predictions.scores["onnx-fp32"] == pytest.approx(expected, abs=1e-6)
    assert run.results[0].accuracy["auc"] == pytest.approx(roc_auc_score(requests.labels, expected))
    assert len({*run.predictions.users}) == USERS


def test_the_cost_of_the_graph_is_that_of_its_product(run: Measurement) -> None:
    costs = {result.slate: result.cost for result in run.results if result.scope == "forward"}
    assert {slate: cost and cost.flops for slate, cost in costs.items()} == {1: 2 * 2, 8: 2 * 2 * 8}
    assert run.file_bytes["onnx-fp32"] > 0


def test_end_to_end_begins_with_values_by_column(requests: RequestSet) -> None:
    rows = np.array([3, 4, 200])
    values = requests.values_of(SIGNATURE, rows, 7)
    assert set(map(type, values.values())) == {list, float}
    rebuilt, expected = tensors_of(SIGNATURE, values, 3), requests.request_of(SIGNATURE, rows, 7)
    assert np.array_equal(rebuilt["features"], expected["features"])


def test_requests_without_labels_are_timed_alone(tmp_path: Path) -> None:
    unlabelled = small_requests(tmp_path / "clicks", labelled=False)
    measured = profile(adopted_graph(tmp_path / "logistic", unlabelled), unlabelled, PLAN)
    assert (measured.predictions.users, measured.predictions.scores) == ([], {})
    assert [result.accuracy for result in measured.results] == [{}, {}]
    (section,) = sections([measured])
    assert [point.on_front for point in section.points] == [None, None]


def test_a_slate_has_the_requests_own_candidates_first() -> None:
    offsets = np.array([0, 2, 2, 9])
    for slate in (1, 5):
        drawn = draw_rows(np.random.default_rng(3), offsets, slate)
        assert sorted(drawn.requests.tolist()) == [0, 2]  # a request without candidates is no request
        for number, rows in zip(drawn.requests.tolist(), drawn.rows, strict=True):
            own = [*range(offsets[number], offsets[number + 1])]
            kept = min(slate, len(own))
            assert len(rows) == slate
            assert set(rows[:kept].tolist()) <= set(own)
            assert sorted(set(rows[:kept].tolist())) == rows[:kept].tolist()
            assert rows.max() < 9


def test_users_are_drawn_with_all_their_requests(logistic: Artifact, requests: RequestSet) -> None:
    some = open_test_rows(logistic, requests, Plan(test_users=10))
    assert len(some) == 10 * REQUESTS // USERS * SLATE_SIZE
    drawn = {*some.users.tolist()}
    assert len(drawn) == 10
    kept = np.isin(requests.users, [*drawn])
    assert some.unanswered.labels == requests.labels[kept].tolist()  # type: ignore[index]


def test_requests_of_other_content_are_refused(logistic: Artifact, tmp_path: Path) -> None:
    other = small_requests(tmp_path / "clicks", labelled=False)
    with pytest.raises(UsageError, match="logistic was adopted with requests"):
        open_test_rows(logistic, other, Plan())


def test_a_model_on_the_test_rows_of_a_data_set_shares_the_front_of_its_models(
    measured: Measurement, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    shutil.copytree(planted.path, tmp_path / "data" / "planted")
    requests = requests_of_test_rows(tmp_path / "data" / "rows", planted)
    run = profile(adopted_graph(tmp_path / "artifacts/planted/counts", requests), requests, PLAN)
    assert run.predictions.rows_key == measured.predictions.rows_key
    assert (run.baselines, run.data_sketch) == (measured.baselines, measured.data_sketch)
    (section,) = sections([run, measured])
    assert {point.model for point in section.points} == {"dnn", "counts"}
    assert all(point.aside is None for point in section.points)
    assert len(section.fronts) == 2
