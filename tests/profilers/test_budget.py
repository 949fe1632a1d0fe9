"""What fits into a budget, by arithmetic; that a profile keeps to one, with scripted workers."""

from __future__ import annotations

import time

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.profilers.measure import harness
from rbserve.profilers.measure.budget import (
    FEWEST_PROCESSES,
    FEWEST_RUNS,
    MOST_PROCESSES,
    MOST_RUNS,
    PILOT_RUNS,
    PROCESSES,
    RUNS,
    Pace,
    schedule,
)
from rbserve.profilers.measure.harness import default_plan, profile
from rbserve.profilers.measure.inputs import Report
from rbserve.profilers.measure.test_rows import DatasetRows
from rbserve.profilers.measure.worker import Job
from rbserve.runs.baselines import Baselines
from rbserve.runs.samples import Samples

paces = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]), st.builds(Pace, st.floats(0.01, 5), st.floats(1e-6, 3)), min_size=1
)


def enough(paces: dict[str, Pace], processes: int, runs: int) -> float:
    return processes * sum(cost.process_s + runs * cost.run_s for cost in paces.values())


@given(paces, st.floats(0.1, 10_000))
def test_a_plan_fits_its_budget_unless_it_is_the_smallest_there_is(
    paces: dict[str, Pace], seconds: float
) -> None:
    plan = schedule(paces, seconds)
    assert FEWEST_PROCESSES <= plan.processes <= MOST_PROCESSES
    assert all(FEWEST_RUNS <= runs <= MOST_RUNS for runs in plan.runs_of.values())
    total = sum(
        plan.processes * (cost.process_s + plan.runs_of[name] * cost.run_s) for name, cost in paces.items()
    )
    assert plan.seconds == pytest.approx(total)
    if plan.seconds > seconds:
        assert plan == schedule(paces, 0)
    if plan.processes > PROCESSES:
        assert min(plan.runs_of.values()) >= RUNS


@given(paces, st.floats(0.1, 10_000))
def test_five_processes_leave_over_no_more_than_a_run_of_each_variant(
    paces: dict[str, Pace], seconds: float
) -> None:
    plan = schedule(paces, seconds)
    if plan.processes == PROCESSES and max(plan.runs_of.values()) < MOST_RUNS:
        assert plan.seconds >= seconds - plan.processes * sum(cost.run_s for cost in paces.values()) * 1.001


def test_a_process_that_is_slow_to_start_is_worth_some_runs_even_in_a_short_budget() -> None:
    plan = schedule({"torch": Pace(5, 0.001), "onnx": Pace(0.5, 0.001), "language": Pace(5, 2.0)}, seconds=1)
    assert plan.runs_of == {"torch": RUNS, "onnx": 50, "language": FEWEST_RUNS}
    assert plan.processes == FEWEST_PROCESSES


def test_what_a_fast_variant_cannot_use_the_slow_one_gets() -> None:
    plan = schedule({"slow": Pace(1, 0.5), "fast": Pace(1, 1e-5)}, seconds=110)
    assert (plan.processes, plan.runs_of["fast"]) == (PROCESSES, MOST_RUNS)
    assert plan.runs_of["slow"] == pytest.approx((110 - 10) / 5 / 0.5, abs=1)


def test_more_time_buys_processes_and_then_runs() -> None:
    cost = {"only": Pace(1, 0.01)}
    assert schedule(cost, enough(cost, 12, RUNS) + 0.1).processes == 12
    longest = schedule(cost, 1e6)
    assert (longest.processes, longest.runs_of) == (MOST_PROCESSES, {"only": MOST_RUNS})


def test_the_number_of_processes_can_be_fixed() -> None:
    assert schedule({"only": Pace(1, 0.01)}, 1e6, processes=2) == (2, {"only": MOST_RUNS}, pytest.approx(22))


class Workers:
    """Processes of known cost, on a clock of their own: loading takes 1 s, judging 4 s, a run 10 ms a variant."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, slowdown: float = 1.0) -> None:
        self.now, self.jobs, self.slowdown = 0.0, list[Job](), slowdown
        monkeypatch.setattr(harness, "run_job", self.start)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def start(self, job: Job) -> Report:
        slower = self.slowdown if len(self.jobs) >= 2 else 1.0  # after the pilot of two variants
        self.jobs.append(job)
        run_ns = round(10_000_000 * slower)
        self.now += 1.0 + 4.0 * job.accuracy + job.runs * run_ns / 1e9
        samples = Samples(
            job.variant, "forward", 1, 1, job.process, None, 1, 1, [], [run_ns] * job.runs, 1
        )  # fmt: skip
        scores = [0.5] * 3 if job.accuracy else []
        return Report([samples], scores=scores, accuracy_s=4.0 * job.accuracy)


def budgeted(trained: Artifact, planted: Dataset, seconds: float) -> harness.Measurement:
    plan = msgspec.structs.replace(default_plan(budget_s=seconds), slates=[1])
    rows = DatasetRows(trained, planted, plan)
    rows.split = rows.split.take(np.arange(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "open_test_rows", lambda *_: rows)
        patch.setattr(rows, "baselines", lambda *_: Baselines({}, {}, {}))
        return profile(trained, planted, plan, ["onnx-fp32", "onnx-int8"])


def test_a_profile_takes_its_budget_and_judges_the_test_rows_once(
    trained: Artifact, planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = Workers(monkeypatch)
    measured = budgeted(trained, planted, 60)
    assert 55 <= (measured.seconds or 0) <= 60.001
    assert [job.runs for job in workers.jobs[:2]] == [PILOT_RUNS] * 2
    assert [job.accuracy for job in workers.jobs] == [True] * 2 + [False] * (len(workers.jobs) - 2)
    assert measured.predictions.scores.keys() == {"onnx-fp32", "onnx-int8"}
    for result in measured.results:
        assert result.processes == measured.plan.processes >= PROCESSES
        assert (
            result.n == result.processes * measured.plan.runs_of[result.variant]
        )  # the pilot is no part of them


def test_rounds_end_early_when_the_machine_slows_down_after_the_pilot(
    trained: Artifact, planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workers(monkeypatch, slowdown=3)
    measured = budgeted(trained, planted, 60)
    assert (measured.seconds or 0) <= 60
    assert 2 <= measured.plan.processes < PROCESSES
    assert {one.processes for one in measured.results} == {measured.plan.processes}
