"""Figures are functions of the raw samples."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from rbserve.core.errors import DataError
from rbserve.machine.environment import environment
from rbserve.machine.noise import Noise
from rbserve.runs.measurement import Measurement, Predictions, comparability_key
from rbserve.runs.run_file import read_measurement, write_measurement
from rbserve.runs.summary import by_scope, latency, summarise
from rbserve.stats.listwise import ndcg_at_k, recall_at_k
from rbserve.stats.pairwise import auc


def test_latency_is_in_milliseconds_and_certifies_only_what_it_can() -> None:
    few = latency([[1_000_000, 3_000_000], [2_000_000]])
    assert (few.mean, few.p50, few.max) == (2.0, 2.0, 3.0)
    assert few.p90 is None
    assert few.p99 is None
    many = latency([list(range(1_000_000, 2_000_000, 1_000))] * 5)
    assert many.p99 == pytest.approx(1.989, abs=0.002)
    assert many.ci95[0] <= many.p50 <= many.ci95[1]


def test_a_run_file_reads_back_and_its_figures_follow_from_its_samples(
    measured: Measurement, tmp_path: Path
) -> None:
    again = read_measurement(write_measurement(tmp_path, measured))
    assert again == measured
    assert summarise(again) == measured.results
    result = measured.results[0]
    runs = [run for one in measured.samples if (one.variant, one.slate) == (result.variant, result.slate)
            for run in one.runs_ns]  # fmt: skip
    assert result.n == len(runs)
    assert result.latency_ms.mean == pytest.approx(np.mean(runs) / 1e6)
    assert result.accuracy["auc"] == auc(
        measured.predictions.labels, measured.predictions.scores[result.variant]
    )


def test_energy_and_overhead_are_those_of_all_processes_and_absent_where_one_was_not_counted(
    measured: Measurement,
) -> None:
    def summarised(*energies_uj: int | None) -> tuple[float | None, float | None]:
        first = measured.samples[0]
        noises = [
            Noise(wall_ns=10**9, waited_ns=0, steal_ns=0, throttled_ns=0, mhz=None, energy_uj=energy)
            for energy in energies_uj
        ]
        samples = [
            msgspec.structs.replace(first, process=process, noise=noise, overhead_ns=100 * (process + 1))
            for process, noise in enumerate(noises)
        ]
        (result,) = summarise(msgspec.structs.replace(measured, samples=samples))
        return result.energy_mj, result.overhead_us

    runs = len(measured.samples[0].runs_ns)
    assert summarised(3_000, 6_000) == (pytest.approx(9 / (2 * runs)), pytest.approx(0.15))
    assert summarised(3_000, None)[0] is None
    assert summarised(None)[0] is None


RANKS = [1, 0, 3, 11, 50, 2, 10, 0]


def list_wise(measured: Measurement) -> Measurement:
    """A measurement whose first variant ranked the catalogue, in both scopes, its time observed in one."""
    first = measured.samples[0]
    samples = [
        msgspec.structs.replace(first, process=process, scope=scope, stages_ns=stages)
        for process in (0, 1)
        for scope, stages in (("forward", {"prefill": 30, "rest": 10 + 40 * process}), ("end_to_end", {}))
    ]
    users = list(range(len(RANKS)))
    predictions = Predictions(
        users, [], {}, [0] * len(RANKS), {first.variant: RANKS}, 50, {first.variant: 0.25}
    )
    return msgspec.structs.replace(
        measured, task="seqrec", samples=samples, predictions=predictions, results=[]
    )


def test_a_ranking_is_judged_by_the_ranks_of_its_targets_with_intervals_over_users(
    measured: Measurement,
) -> None:
    accuracy = summarise(list_wise(measured))[0].accuracy
    assert accuracy["ndcg@10"] == ndcg_at_k(RANKS, 10)
    assert accuracy["recall@10"] == recall_at_k(RANKS, 10) == 4 / 8
    assert accuracy["recall@50"] == 6 / 8
    assert accuracy["illegal_share"] == 0.25
    for metric in ("ndcg@10", "recall@10"):
        value, interval = accuracy[metric], accuracy[f"{metric}_ci95"]
        assert isinstance(value, float)
        assert isinstance(interval, tuple)
        assert interval[0] < value < interval[1]


def test_stage_shares_are_of_all_observed_time_and_absent_where_nothing_was_observed(
    measured: Measurement,
) -> None:
    forward, end_to_end = summarise(list_wise(measured))
    assert (forward.scope, end_to_end.scope) == ("forward", "end_to_end")
    assert forward.stages == {"prefill": 0.5, "rest": 0.5}
    assert end_to_end.stages is None


def test_scopes_come_apart_and_each_keeps_its_own_results(measured: Measurement) -> None:
    both = list_wise(measured)
    parts = by_scope(both)
    assert [part.plan.scope for part in parts] == ["forward", "end_to_end"]
    assert [one for part in parts for one in part.results] == summarise(both)
    assert [part.id for part in parts] == [both.id, both.id]


def test_a_run_file_from_before_scopes_and_rankings_is_read(measured: Measurement, tmp_path: Path) -> None:
    document = msgspec.to_builtins(measured)
    del document["plan"]["exclude_seen"]
    for name in ("targets", "ranks", "depth", "illegal_share"):
        del document["predictions"][name]
    for sample in document["samples"]:
        for name in ("stages_ns", "loaded_rss_bytes", "observed_ns", "unobserved_ns", "history_lengths"):
            del sample[name]
    for result in document["results"]:
        for name in ("stages", "stages_check", "loaded_rss_mb", "slate_growth", "history_growth", "cost"):
            del result[name]
    del document["costs"]
    del document["plan"]["cost"]
    (tmp_path / "old.json").write_bytes(msgspec.json.encode(document))
    old = read_measurement(tmp_path / "old.json")
    assert old.predictions == measured.predictions
    assert [one.runs_ns for one in old.samples] == [one.runs_ns for one in measured.samples]
    assert [one.latency_ms for one in summarise(old)] == [one.latency_ms for one in measured.results]
    assert {one.loaded_rss_mb for one in old.results} == {one.cost for one in old.results} == {None}


def test_another_schema_and_garbage_are_refused(measured: Measurement, tmp_path: Path) -> None:
    path = write_measurement(tmp_path, msgspec.structs.replace(measured, schema=99))
    with pytest.raises(DataError, match="schema 99"):
        read_measurement(path)
    path.write_bytes(b"{}")
    with pytest.raises(DataError, match="not a run file"):
        read_measurement(path)
    with pytest.raises(DataError, match="cannot read"):
        read_measurement(tmp_path / "absent.json")


def test_only_equal_machines_threads_and_data_share_a_key() -> None:
    here = environment()
    key = comparability_key(here, 1, "data")
    assert key == comparability_key(here, 1, "data")
    assert key != comparability_key(here, 2, "data")
    assert key != comparability_key(here, 1, "other")
    assert key != comparability_key(msgspec.structs.replace(here, isa=["other"]), 1, "data")
    assert key != comparability_key(msgspec.structs.replace(here, device="cuda"), 1, "data")
