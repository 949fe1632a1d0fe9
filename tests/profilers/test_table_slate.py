"""The slate `table`: requests of all sizes, as they come in an adopted model's own table, are timed as one sample."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from adopted import adopted_graph, requests_of_sizes

from rbserve.core.errors import UsageError
from rbserve.core.options import option_fields
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset
from rbserve.data.request_set import RequestSet
from rbserve.profilers.compare.figures import columns, point_record
from rbserve.profilers.compare.sections import sections
from rbserve.profilers.measure.harness import default_plan, profile, usual_slates
from rbserve.profilers.report.tables import footnotes
from rbserve.profilers.timing.requests import draw_table
from rbserve.runs.measurement import Measurement, SlateSizes
from rbserve.runs.plan import TABLE, Plan, Slate, in_order
from rbserve.runs.run_file import read_measurement, write_measurement
from rbserve.runs.samples import Samples
from rbserve.runs.summary import summarise

SIZES = [1, 2, 3, 5, 8, 13, 21, 34]
PLAN = msgspec.structs.replace(default_plan(), processes=2, runs=len(SIZES), slates=[TABLE, 8], scope="both")


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> RequestSet:
    """A request set with a request of each of SIZES."""
    return requests_of_sizes(tmp_path_factory.mktemp("data") / "clicks", SIZES)


@pytest.fixture(scope="module")
def logistic(requests: RequestSet, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The logistic graph, adopted with these requests."""
    return adopted_graph(tmp_path_factory.mktemp("artifacts") / "logistic", requests)


@pytest.fixture(scope="module")
def run(logistic: Artifact, requests: RequestSet) -> Measurement:
    """A short profile at the slates `table` and 8 in both scopes."""
    return profile(logistic, requests, PLAN)


def test_every_process_times_each_request_of_the_table_once(run: Measurement) -> None:
    timed = [sample for sample in run.samples if sample.slate == TABLE]
    assert len(timed) == 2 * PLAN.processes
    assert all(sorted(sample.slate_sizes) == SIZES for sample in timed)
    assert all(sample.slate_sizes == [] for sample in run.samples if sample.slate != TABLE)


def test_a_result_has_the_distribution_of_its_calls_candidates(run: Measurement) -> None:
    shapes = [(result.scope, result.slate, result.slate_sizes) for result in run.results]
    sizes = SlateSizes(min=1, median=6.5, max=34)
    assert shapes == [
        (scope, slate, told)
        for scope in ("forward", "end_to_end")
        for slate, told in ((TABLE, sizes), (8, None))
    ]


def test_a_run_file_keeps_the_slate_and_the_sizes(run: Measurement, tmp_path: Path) -> None:
    again = read_measurement(write_measurement(tmp_path, run))
    assert again.plan.slates == [TABLE, 8]
    assert again.samples == run.samples
    assert [result.slate_sizes for result in again.results] == [result.slate_sizes for result in run.results]


def test_p95_and_p99_are_those_of_the_pooled_calls(run: Measurement) -> None:
    long = [_sample(process, [*range(1, 1001)]) for process in range(5)]
    (result,) = summarise(msgspec.structs.replace(run, samples=long, costs=[]))
    pooled = np.concatenate([np.array(sample.runs_ns) * 1e-6 for sample in long])
    for q, value in ((95, result.latency_ms.p95), (99, result.latency_ms.p99)):
        assert value == pytest.approx(np.percentile(pooled, q), rel=0.01)
    assert result.latency_ms.p95_bound is not None
    assert result.latency_ms.p95_bound >= result.latency_ms.p95


def test_the_growth_over_candidates_is_that_of_single_calls(run: Measurement) -> None:
    quadratic = [_sample(process, [size * size for size in SIZES], SIZES) for process in range(3)]
    (result,) = summarise(msgspec.structs.replace(run, samples=quadratic, costs=[]))
    assert result.slate_growth is not None
    assert result.slate_growth.exponent == pytest.approx(2)
    assert (result.slate_growth.smallest, result.slate_growth.largest) == (1, 34)
    assert result.history_growth is None


def test_a_number_grows_from_no_table(run: Measurement) -> None:
    samples = [_sample(0, [1, 2, 3], [1, 2, 3]), *(_sample(0, [size] * 9, slate=size) for size in (1, 4))]
    growths = {
        result.slate: result.slate_growth
        for result in summarise(msgspec.structs.replace(run, samples=samples))
    }
    assert growths[1] is None
    assert growths[4] is not None
    assert (growths[4].smallest, growths[4].largest) == (1, 4)


def test_few_requests_have_the_distribution_of_sizes_of_all() -> None:
    rng = np.random.default_rng(4)
    sizes = rng.geometric(0.02, 5_000) - 1  # some requests are without candidates
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    drawn = sizes[draw_table(np.random.default_rng(1), offsets, 200)]
    known = sizes[sizes > 0]
    assert (len(drawn), drawn.min(), drawn.max()) == (200, known.min(), known.max())
    for q in (0.1, 0.5, 0.9):
        assert abs(np.mean(known <= np.quantile(drawn, q)) - q) < 0.02
    assert not (np.diff(drawn) >= 0).all()


def test_no_request_is_drawn_twice_and_only_those_of_the_drawn_users() -> None:
    offsets = np.array([0, 2, 2, 9, 12])
    assert sorted(draw_table(np.random.default_rng(1), offsets, 99).tolist()) == [0, 2, 3]
    among = np.array([1, 3])
    assert draw_table(np.random.default_rng(1), offsets, 99, among).tolist() == [3]


def test_the_table_stands_before_the_numbers() -> None:
    assert in_order([100, TABLE, 1, 100]) == [TABLE, 1, 100]
    assert option_fields(Plan)["slates"].takes == "one or more integers of at least 1 or table, such as 1,100"
    with pytest.raises(UsageError, match=r"invalid option: slates=\['tables'\]"):
        Plan(slates=["tables"])  # type: ignore[list-item]


def test_figures_tell_the_sizes_beside_the_slate(run: Measurement) -> None:
    section = next(part for part in sections([run]) if part.scope == "forward")
    assert section.slates == [TABLE, 8]
    first = section.points[0]
    record = point_record(first)
    assert (record["slate"], record["slate_sizes"]) == (TABLE, "1 / 6.5 / 34")
    assert [record[f"slate_{name}"] for name in ("min", "median", "max")] == [1, 6.5, 34]
    assert record["p50_ms_per_candidate"] is None
    assert "slate_sizes" in [figure.key for figure in columns(section.points, "page")]
    told = (
        "slate table: the requests of the model's own table as they come, of 1 to 34 candidates, median 6.5."
    )
    assert told in footnotes(section)


def test_a_model_on_the_rows_of_a_data_set_has_no_requests_as_they_come(
    trained: Artifact, planted: Dataset, logistic: Artifact
) -> None:
    with pytest.raises(UsageError, match="dnn is measured on the rows of a data set"):
        profile(trained, planted, msgspec.structs.replace(PLAN, scope="forward"))
    assert (usual_slates(trained), usual_slates(logistic)) == ([1, 100], [TABLE, 1, 100])


def _sample(
    process: int, runs_ns: list[int], sizes: list[int] | None = None, slate: Slate = TABLE
) -> Samples:
    """Samples of onnx-fp32 with the given times."""
    return Samples(
        variant="onnx-fp32", scope="forward", slate=slate, threads=1, process=process, core=None, load_ns=1,
        first_call_ns=1, warmup_ns=[], runs_ns=runs_ns, peak_rss_bytes=1, slate_sizes=sizes or [],
    )  # fmt: skip
