"""Profiling: fresh processes, real inputs, accuracy of the same artefact."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from old_int8 import with_old_int8

from rbserve.core.errors import RbserveError, UsageError
from rbserve.data.artifact import Artifact, open_artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters.export import export
from rbserve.models.configs import SasRecConfig
from rbserve.models.zoo import find_model
from rbserve.profilers.measure import harness
from rbserve.profilers.measure.harness import default_plan, profile, run_job
from rbserve.profilers.measure.inputs import Report
from rbserve.profilers.measure.worker import Job, peak_rss_bytes
from rbserve.runs.changes import changed
from rbserve.runs.measurement import DEPTH, Measurement
from rbserve.runs.plan import Plan
from rbserve.runs.run_file import public
from rbserve.runtimes.evaluate import rank_rows, score_rows
from rbserve.runtimes.opening import open_ranker, open_scorer
from rbserve.stats.listwise import ranks_in_lists

SHORT = msgspec.structs.replace(default_plan("seqrec"), processes=1, runs=5, slates=[5])


@pytest.fixture(scope="module")
def ranked(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tiny SASRec of the planted data, trained for a moment and exported."""
    from rbserve.train.fit import train
    from rbserve.train.fitting.loop import Settings

    spec = dataclasses.replace(find_model("sasrec-3l"), config=SasRecConfig(layers=1, dim=8, heads=2))
    path = tmp_path_factory.mktemp("ranked") / "sasrec"
    artifact = train(spec, planted, path, Settings(batch=64, micro_batch=64, epochs=1))
    return export(artifact, planted, ["fp32"])


def test_every_variant_and_slate_is_measured_in_every_process(measured: Measurement) -> None:
    shapes = [(one.variant, one.slate, one.process) for one in measured.samples]
    variants = ("torch-fp32", "onnx-fp32", "onnx-int8")
    assert sorted(shapes) == sorted((v, s, p) for v in variants for s in (1, 8) for p in (0, 1))
    assert all(len(one.runs_ns) == 30 and min(one.runs_ns) > 0 for one in measured.samples)
    assert [(one.variant, one.slate) for one in measured.results] == [
        (v, s) for v in variants for s in (1, 8)
    ]


def test_the_config_of_the_artefact_is_kept(measured: Measurement, trained: Artifact) -> None:
    assert measured.config == trained.manifest.config
    assert changed(measured) != {}  # the fixtures' models are smaller than their rows


def test_a_process_is_pinned_to_one_core_and_reports_its_cost(measured: Measurement) -> None:
    if hasattr(os, "sched_getaffinity"):
        assert {one.core for one in measured.samples} == {max(os.sched_getaffinity(0))}
    for result in measured.results:
        assert result.load_ms > 0
        assert result.first_call_ms > 0
        assert 10 < result.peak_rss_mb < 4_000
        assert result.file_mb > 0


def test_torch_needs_more_memory_than_onnx_and_neither_inherits_the_parents_peak(
    measured: Measurement,
) -> None:
    peak = {one.variant: one.peak_rss_mb for one in measured.results}
    assert peak["onnx-fp32"] < peak["torch-fp32"]
    ballast = np.ones(400_000_000 // 8)
    assert ballast.sum() > 0
    assert peak["onnx-fp32"] < 400 <= peak_rss_bytes() / 1e6


def test_accuracy_is_that_of_the_same_scores_on_the_full_test_split(
    measured: Measurement, trained: Artifact, planted: Dataset
) -> None:
    test = planted.ctr("test")
    assert measured.predictions.labels == test.labels.tolist()
    for variant, scores in measured.predictions.scores.items():
        expected = score_rows(open_scorer(trained, variant), test.histories, test.candidates)
        np.testing.assert_array_equal(np.array(scores, np.float32), expected)


def test_an_accuracy_that_depends_on_the_slate_is_told(
    trained: Artifact, planted: Dataset, tmp_path: Path
) -> None:
    old, plan = with_old_int8(trained, tmp_path / "old"), Plan(1, 1, 1.0, [1], 1, "forward", 1, test_users=3)
    for artifact, expected in ((old, [old.slate_dependence("onnx-int8")]), (trained, [])):
        (result,) = profile(artifact, planted, plan, ["onnx-int8"]).results
        assert result.warnings == expected


def test_the_public_document_has_the_documented_keys(measured: Measurement) -> None:
    document = public(measured)
    assert {"schema", "model", "dataset", "results"} <= document.keys()
    (result, *_) = document["results"]
    assert {"variant", "scope", "slate", "threads", "n", "latency_ms", "accuracy", "peak_rss_mb", "load_ms",
            "first_call_ms", "file_mb"} <= result.keys()  # fmt: skip
    assert {"mean", "p50", "p90", "p99", "max", "ci95"} <= result["latency_ms"].keys()
    assert {"auc", "gauc"} <= result["accuracy"].keys()
    assert "samples" not in document


def test_raw_ids_are_another_scope_of_the_same_model(trained: Artifact, planted: Dataset) -> None:
    plan = msgspec.structs.replace(default_plan(), processes=1, runs=3, slates=[4], scope="both")
    both = profile(trained, planted, plan, ["onnx-fp32"]).results
    assert [(one.scope, one.slate) for one in both] == [("forward", 4), ("end_to_end", 4)]
    assert both[0].stages is None
    assert list(both[1].stages or {}) == ["lookup", "forward", "rest"]
    assert both[0].accuracy == both[1].accuracy
    assert both[1].load_ms > both[0].load_ms  # the item table is loaded as well


def test_a_model_that_ranks_is_judged_by_the_lists_it_serves(ranked: Artifact, planted: Dataset) -> None:
    measured = profile(ranked, planted, SHORT, ["onnx-fp32"])
    shapes = [(one.scope, one.slate) for one in measured.results]
    assert shapes == [("forward", 5), ("end_to_end", 5)]
    test, ranker = planted.seqrec("test"), open_ranker(ranked, "onnx-fp32")
    expected = []
    for row, target in enumerate(test.targets):
        best = ranker.top_k(test.histories[row], DEPTH)[0].tolist()
        expected.append(best.index(target) + 1 if target in best else 0)
    predictions = measured.predictions
    assert predictions.targets == test.targets.tolist()
    assert (
        np.mean(np.array(predictions.ranks["onnx-fp32"]) == expected) > 0.98
    )  # near ties may turn in a batch
    assert (predictions.labels, predictions.scores, predictions.illegal_share) == ([], {}, {})
    assert list(measured.baselines) == ["popularity"]
    assert {"auc", "gauc"}.isdisjoint(measured.results[0].accuracy)


def test_leaving_out_seen_items_is_a_plan_of_its_own(ranked: Artifact, planted: Dataset) -> None:
    plan = msgspec.structs.replace(SHORT, scope="forward", exclude_seen=True)
    measured = profile(ranked, planted, plan, ["onnx-fp32"])
    test, ranker = planted.seqrec("test"), open_ranker(ranked, "onnx-fp32")
    lists = rank_rows(ranker, test.histories, DEPTH, exclude_seen=True)
    assert measured.predictions.ranks["onnx-fp32"] == ranks_in_lists(lists, test.targets).tolist()
    assert measured.plan.exclude_seen


def test_only_rankings_can_leave_out_seen_items(trained: Artifact, planted: Dataset) -> None:
    with pytest.raises(UsageError, match="leaves out none"):
        profile(trained, planted, msgspec.structs.replace(default_plan(), exclude_seen=True))


def test_an_unknown_scope_names_the_nearest(trained: Artifact, planted: Dataset) -> None:
    with pytest.raises(UsageError, match="unknown scope: end-to-end") as caught:
        profile(trained, planted, msgspec.structs.replace(default_plan(), scope="end-to-end"))
    assert caught.value.hint == "did you mean end_to_end?"


@pytest.mark.parametrize(
    "change", [{"processes": 0}, {"runs": 0}, {"threads": 0}, {"slates": []}, {"slates": [0]}]
)
def test_an_impossible_plan_is_refused(
    trained: Artifact, planted: Dataset, change: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match="invalid option") as caught:
        profile(trained, planted, msgspec.structs.replace(default_plan(), **change))
    assert "at least 1" in str(caught.value.hint)


def test_more_threads_than_cores_are_refused(trained: Artifact, planted: Dataset) -> None:
    with pytest.raises(UsageError, match="10000 threads"):
        profile(trained, planted, msgspec.structs.replace(default_plan(), threads=10_000))


def test_another_data_set_is_refused_with_both_fingerprints(trained: Artifact, planted: Dataset) -> None:
    other = Dataset(planted.path, msgspec.structs.replace(planted.manifest, fingerprint="0123456789abcdef"))
    with pytest.raises(UsageError, match="0123456789ab"):
        profile(trained, other, default_plan())


def failing(where: Callable[[Job], bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of such jobs die."""

    def start(job: Job) -> Report:
        if where(job):
            raise RbserveError(f"the process measuring {job.variant} died")
        return run_job(job)

    monkeypatch.setattr(harness, "run_job", start)


SMALL = msgspec.structs.replace(default_plan(), processes=2, runs=3, slates=[1], test_users=20)


@pytest.mark.parametrize("budget", [None, 3.0])
def test_a_variant_that_dies_costs_the_others_nothing(
    budget: float | None, trained: Artifact, planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(lambda job: (job.variant, job.process) == ("onnx-int8", 1), monkeypatch)
    plan = msgspec.structs.replace(SMALL, budget_s=budget)
    run = profile(trained, planted, plan, ["onnx-int8", "onnx-fp32"])
    assert run.failed == {"onnx-int8": "the process measuring onnx-int8 died"}
    assert [one.variant for one in run.results] == ["onnx-fp32"]
    assert run.results[0].processes >= 2
    assert {*run.predictions.scores} == {"onnx-fp32"}


def test_a_variant_that_dies_in_the_pilot_costs_the_others_nothing(
    trained: Artifact, planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(lambda job: job.variant == "onnx-int8", monkeypatch)
    plan = msgspec.structs.replace(SMALL, budget_s=2.0)
    run = profile(trained, planted, plan, ["onnx-int8", "onnx-fp32"])
    assert [*run.failed] == ["onnx-int8"]
    assert [one.variant for one in run.results] == ["onnx-fp32"]


def test_where_every_variant_dies_there_is_no_measurement(
    trained: Artifact, planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(lambda _: True, monkeypatch)
    with pytest.raises(RbserveError, match="the process measuring onnx-fp32 died"):
        profile(trained, planted, SMALL, ["onnx-fp32", "onnx-int8"])


def test_a_cost_that_cannot_be_seen_is_told_and_costs_no_latency(
    trained: Artifact, planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(lambda job: job.cost, monkeypatch)
    run = profile(trained, planted, msgspec.structs.replace(SMALL, cost=True), ["onnx-fp32"])
    assert not run.failed
    assert run.results[0].cost is None
    assert run.results[0].warnings[-1].startswith("what a call costs is not known: the process")


def test_damage_found_by_a_worker_reaches_the_user(
    trained: Artifact, planted: Dataset, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(trained.path, tmp_path / "dnn"))
    (copy / "onnx/fp32.onnx").write_bytes(b"")
    with pytest.raises(RbserveError, match="has 0 bytes"):
        profile(open_artifact(copy), planted, default_plan(), ["onnx-fp32"])
