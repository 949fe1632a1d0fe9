"""The gate's rounds, with workers whose times are scripted: nothing here depends on a clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rbserve.core.errors import RbserveError, UsageError
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.profilers.gate import rounds
from rbserve.profilers.gate.config import GateConfig
from rbserve.profilers.gate.rounds import check
from rbserve.profilers.gate.sides import Pair, Scope
from rbserve.profilers.gate.verdict import Line, Suite, Verdict
from rbserve.profilers.measure.inputs import Report
from rbserve.profilers.measure.worker import Job
from rbserve.runs.measurement import Measurement
from rbserve.runs.plan import TABLE, Slate
from rbserve.runs.samples import Samples

CONFIG = GateConfig(budget=1e6)
LATENCY = Scope(["onnx-fp32"], [1, 8], metrics=["p50"])


PAGE = 4096  # bytes: no two processes have the same peak of memory to the last page


class Machine:
    """Workers that take what `slower` says of their side, a little different each time. Head's worker is "head"."""

    def __init__(self, slower: float = 0.0, spread: float = 0.01) -> None:
        self.slower, self.spread = slower, spread
        self.jobs: list[tuple[str, Job]] = []
        self.scores: dict[str, list[float]] = {}
        self._rng = np.random.default_rng(0)

    def __call__(self, job: Job, worker: list[str]) -> Report:
        side = worker[0]
        self.jobs.append((side, job))
        return Report(
            [self._samples(job, side, slate) for slate in job.slates], scores=self.scores.get(side, [])
        )

    def _samples(self, job: Job, side: str, slate: Slate) -> Samples:
        slower = 1 + self.slower * (side == "head")
        candidates = 5 if slate == TABLE else slate
        ns = round(100_000 * candidates * slower * np.exp(self._rng.normal(0, self.spread)))
        return Samples(job.variant, "forward", slate, 1, job.process, None, 1, ns, [ns], [ns] * 5, 100 << 20)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(rounds, "run_job", made)
    return made


def suite(
    pairs: list[Pair], planted: Dataset, config: GateConfig = CONFIG, scope: Scope = LATENCY, **more: object
) -> Suite:
    return check(pairs, lambda _: planted, config, scope, **more).suite  # type: ignore[arg-type]


def pair(base: Artifact | Measurement | None, head: Artifact | Measurement | None, name: str = "dnn") -> Pair:
    return Pair(name, base, head, "there is none", ["base"], ["head"])


def verdicts(found: Suite) -> dict[str, Verdict]:
    return {f"{line.name} {line.metric}": line.verdict for line in found.lines}


def test_nothing_changed_passes_after_the_first_look(
    machine: Machine, trained: Artifact, planted: Dataset
) -> None:
    machine.spread = 0.001
    found = suite([pair(trained, trained)], planted)
    assert (found.verdict, found.exit_code, found.rounds) == (Verdict.PASS, 0, 6)
    assert verdicts(found) == {
        "onnx-fp32 forward slate 1 p50": Verdict.PASS,
        "onnx-fp32 forward slate 8 p50": Verdict.PASS,
    }
    sides = [side for side, _ in machine.jobs]
    assert sides == ["base", "head", "head", "base"] * 3


def test_a_slower_head_is_regressed_with_figures_in_milliseconds_and_shares(
    machine: Machine, trained: Artifact, planted: Dataset
) -> None:
    machine.slower = 0.1
    found = suite([pair(trained, trained)], planted)
    assert (found.verdict, found.exit_code) == (Verdict.REGRESSED, 3)
    line = found.lines[0]
    assert line.base == pytest.approx(0.1, rel=0.02)
    assert line.head == pytest.approx(0.11, rel=0.02)
    assert line.change == pytest.approx(0.1, abs=0.02)
    assert line.low is not None
    assert line.low > line.tolerance == pytest.approx(0.02)  # type: ignore[operator]


def test_a_noisy_machine_is_asked_for_more_rounds_until_the_budget_is_spent(
    machine: Machine, trained: Artifact, planted: Dataset
) -> None:
    machine.spread = 0.5
    ticks = iter(range(10**6))
    config = GateConfig(budget=60, max_rounds=500)
    found = suite([pair(trained, trained)], planted, config, clock=lambda: float(next(ticks)))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.exit_code == 4
    assert 10 < found.rounds < 60
    assert found.lines[0].reason is not None
    assert "raise the budget" in found.lines[0].reason


def test_decided_models_and_slates_are_measured_no_more(
    machine: Machine, trained: Artifact, planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = machine._samples

    def noisy_at_8(job: Job, side: str, slate: int) -> Samples:
        machine.spread = 0.05 if slate == 8 and job.variant == "onnx-int8" else 0.0001
        return calm(job, side, slate)

    monkeypatch.setattr(machine, "_samples", noisy_at_8)
    scope = dataclasses.replace(LATENCY, variants=["onnx-fp32", "onnx-int8"])
    assert suite([pair(trained, trained)], planted, scope=scope).rounds > 6
    later = [job for _, job in machine.jobs if job.process >= 6]
    assert {job.variant for job in later} == {"onnx-int8"}
    assert {tuple(job.slates) for job in later} == {(8,)}


def test_a_model_that_cannot_be_measured_is_missing_and_the_others_are_judged(
    machine: Machine, trained: Artifact, planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sometimes(job: Job, worker: list[str]) -> Report:
        if worker[0] == "broken":
            raise RbserveError("the graph cannot be loaded")
        return machine(job, worker)

    monkeypatch.setattr(rounds, "run_job", sometimes)
    broken = pair(trained, trained, "broken")._replace(head_worker=["broken"])
    found = suite([broken, pair(trained, trained), pair(trained, None, "gone")], planted)
    assert found.verdict is Verdict.MISSING
    assert found.exit_code == 5
    reasons = {line.model: line.reason for line in found.lines if line.verdict is Verdict.MISSING}
    assert reasons == {
        "broken": "head could not be measured: the graph cannot be loaded",
        "gone": "there is none",
    }
    assert {line.verdict for line in found.lines if line.model == "dnn"} == {Verdict.PASS}


def test_nothing_to_compare_is_missing(machine: Machine, planted: Dataset) -> None:
    found = suite([], planted)
    assert (found.verdict, found.exit_code, found.lines) == (Verdict.MISSING, 5, [])
    assert machine.jobs == []


def test_a_variant_that_head_lacks_is_missing(machine: Machine, trained: Artifact, planted: Dataset) -> None:
    fewer = Artifact(
        trained.path,
        msgspec.structs.replace(
            trained.manifest, variants={"onnx-fp32": trained.manifest.variants["onnx-fp32"]}
        ),
    )
    found = suite([pair(trained, fewer)], planted, scope=Scope(slates=[1], metrics=["p50", "file_size"]))
    (missing,) = [line for line in found.lines if line.verdict is Verdict.MISSING]
    assert (missing.variant, missing.reason) == ("onnx-int8", "head has no onnx-int8")


def test_artefacts_of_other_data_are_not_comparable(
    machine: Machine, trained: Artifact, planted: Dataset
) -> None:
    reference = msgspec.structs.replace(trained.manifest.dataset, fingerprint="0" * 64)
    other = Artifact(trained.path, msgspec.structs.replace(trained.manifest, dataset=reference))
    found = suite([pair(trained, other)], planted)
    assert (found.verdict, found.exit_code) == (Verdict.NOT_COMPARABLE, 6)
    assert "data set" in str(found.lines[0].reason)
    assert machine.jobs == []


def test_accuracy_and_size_need_one_round(machine: Machine, trained: Artifact, planted: Dataset) -> None:
    labels = planted.ctr("test").labels.astype(float)
    machine.scores = {
        "base": labels.tolist(),
        "head": np.where(np.arange(len(labels)) % 4, labels, 0.5).tolist(),
    }
    found = suite(
        [pair(trained, trained)], planted, scope=Scope(["onnx-fp32"], metrics=["accuracy", "file_size"])
    )
    assert found.rounds == 1
    assert verdicts(found) == {"onnx-fp32 auc": Verdict.REGRESSED, "onnx-fp32 file_size": Verdict.PASS}
    line = found.lines[0]
    assert line.base == 1
    assert line.change == pytest.approx(1 - line.head)  # type: ignore[operator]


def _lines(found: Suite) -> list[Line]:
    return [line for line in found.lines if line.metric == "p50"]


@pytest.fixture
def slow_run(measured: Measurement) -> Callable[[float], Measurement]:
    """The run file of a model that took so many times a scripted 0.1 ms a candidate, in five processes."""

    def made(times: float) -> Measurement:
        samples = [
            msgspec.structs.replace(
                one,
                process=process,
                runs_ns=[round(times * one.slate * level)] * 9,
                peak_rss_bytes=one.peak_rss_bytes + process * PAGE,
            )
            for one in measured.samples
            if one.process == 0
            for process, level in enumerate((99_000, 99_500, 100_000, 100_500, 101_000))
        ]
        return msgspec.structs.replace(measured, samples=samples)

    return made


@pytest.mark.parametrize(
    ("times", "verdict"), [(1.0, Verdict.PASS), (0.5, Verdict.REGRESSED), (2.0, Verdict.PASS)]
)
def test_a_run_file_is_a_baseline(
    machine: Machine,
    trained: Artifact,
    planted: Dataset,
    slow_run: Callable[[float], Measurement],
    times: float,
    verdict: Verdict,
) -> None:
    found = suite([pair(slow_run(times), trained)], planted, scope=dataclasses.replace(LATENCY, slates=None))
    assert {line.verdict for line in _lines(found)} == {verdict}
    assert {line.tolerance for line in _lines(found)} == {0.1}
    assert {side for side, _ in machine.jobs} == {"head"}


def test_a_baseline_of_another_machine_is_advice(
    machine: Machine, trained: Artifact, planted: Dataset, slow_run: Callable[[float], Measurement]
) -> None:
    foreign = msgspec.structs.replace(slow_run(0.5), comparability_key="elsewhere")
    found = suite([pair(foreign, trained)], planted)
    assert (found.verdict, found.exit_code) == (Verdict.NOT_COMPARABLE, 6)
    assert all(line.change == pytest.approx(1, abs=0.05) for line in found.lines)


def test_a_baseline_of_too_few_processes_says_so(
    machine: Machine, trained: Artifact, planted: Dataset, measured: Measurement
) -> None:
    found = suite([pair(measured, trained)], planted)
    assert (found.verdict, found.rounds) == (Verdict.INCONCLUSIVE, 6)
    assert found.lines[0].reason == "base has 2 process(es), and 5 are the fewest to judge by"
    assert found.lines[0].change is not None
    assert found.lines[0].low is None


def test_two_run_files_are_judged_without_measuring(
    machine: Machine, planted: Dataset, slow_run: Callable[[float], Measurement]
) -> None:
    scope = Scope(["onnx-fp32"])
    found = suite([pair(slow_run(1), slow_run(1.3))], planted, scope=scope)
    assert found.verdict is Verdict.REGRESSED
    assert {line.metric: line.verdict for line in found.lines} == {
        "p50": Verdict.REGRESSED, "peak_rss": Verdict.PASS, "file_size": Verdict.PASS, "auc": Verdict.PASS,
    }  # fmt: skip
    assert machine.jobs == []


def test_an_unknown_metric_is_refused(planted: Dataset) -> None:
    with pytest.raises(UsageError, match="unknown metric: speed"):
        suite([], planted, scope=Scope(metrics=["speed"]))


def test_the_scripted_machine_is_not_the_real_one(
    trained: Artifact, planted: Dataset, tmp_path: Path
) -> None:
    """Real workers: whatever the times are, every figure is there."""
    found = suite(
        [Pair("dnn", trained, trained)], planted, GateConfig(max_rounds=6, runs=3, seconds=0.01),
        Scope(["onnx-fp32"], [4]),
    )  # fmt: skip
    assert {line.metric for line in found.lines} == {"p50", "peak_rss", "file_size", "auc"}
    assert all(line.base and line.head for line in found.lines)
    assert {line.verdict for line in found.lines if line.metric in ("auc", "file_size")} == {Verdict.PASS}


def test_five_processes_of_one_and_the_same_time_are_not_exact(
    machine: Machine, planted: Dataset, slow_run: Callable[[float], Measurement]
) -> None:
    run = slow_run(1)
    level = [msgspec.structs.replace(one, runs_ns=[one.slate * 100_000] * 9) for one in run.samples]
    same = msgspec.structs.replace(run, samples=level)
    found = suite([pair(same, same)], planted, scope=Scope(["onnx-fp32"], metrics=["p50"]))
    assert {line.verdict for line in found.lines} == {Verdict.INCONCLUSIVE}
    assert all("no spread between processes was seen" in (line.reason or "") for line in found.lines)
