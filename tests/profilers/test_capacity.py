"""The queueing simulation against formulas of queues, and `rbserve size` on profiles whose answer is known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from artificial import sampled
from entry_point import rbserve

from rbserve.core.errors import UsageError
from rbserve.profilers.capacity.arrivals import deal, poisson, rate_of, read_arrivals
from rbserve.profilers.capacity.plan import CapacityPlan
from rbserve.profilers.capacity.queueing import Discipline, Seconds, WorkerQueue, departures, latencies
from rbserve.profilers.capacity.service_times import Overhead, ServiceTimes
from rbserve.profilers.capacity.sizing import Sizing, size
from rbserve.profilers.choose.objectives import parse_objectives

N = 400_000
OPEN = Discipline(max_waiting=10**9)


def rng(seed: int = 5) -> np.random.Generator:
    return np.random.default_rng(seed)


def waits(arrivals: Seconds, work: Seconds) -> Seconds:
    return departures(arrivals, work) - arrivals - work


@pytest.mark.parametrize("used", [0.5, 0.8, 0.9])
def test_equal_calls_wait_as_long_as_in_an_m_d_1_queue(used: float) -> None:
    work = np.full(N, 0.001)
    measured = waits(poisson(used / 0.001, N, rng()), work).mean() / 0.001
    assert measured == pytest.approx(used / (2 * (1 - used)), rel=0.06)


@pytest.mark.parametrize("used", [0.5, 0.8])
def test_times_of_exponential_calls_are_exponential(used: float) -> None:
    times = latencies(poisson(used, N, rng()), rng(1).exponential(1.0, N), 0.0, OPEN)
    assert np.quantile(times, 0.99) == pytest.approx(math.log(100) / (1 - used), rel=0.06)


@pytest.mark.parametrize("workers", [2, 8])
def test_one_queue_for_all_workers_is_an_m_m_c_queue(workers: int) -> None:
    used, work = 0.8, rng(1).exponential(1.0, N)
    arrivals = poisson(used * workers, N, rng())
    places = deal(arrivals, work, workers, "shared", rng(2))
    wait = np.concatenate(
        [waits(arrivals[places == worker], work[places == worker]) for worker in range(workers)]
    )
    offered = used * workers
    last = offered**workers / math.factorial(workers) / (1 - used)
    erlang_c = last / (sum(offered**k / math.factorial(k) for k in range(workers)) + last)
    assert wait.mean() == pytest.approx(erlang_c / (workers * (1 - used)), rel=0.06)
    assert (wait > 1e-9).mean() == pytest.approx(erlang_c, rel=0.03)


def test_other_ways_to_deal_out_lie_between_one_queue_and_separate_queues() -> None:
    workers, work = 4, rng(1).exponential(1.0, N // 4)
    arrivals = poisson(0.8 * workers, N // 4, rng())
    means = {}
    for balance in ("shared", "least", "connections", "random"):
        places = deal(arrivals, work, workers, balance, rng(2))  # type: ignore[arg-type]
        means[balance] = np.concatenate(
            [waits(arrivals[places == worker], work[places == worker]) for worker in range(workers)]
        ).mean()
    assert means["shared"] < means["least"] < means["connections"] < means["random"]
    assert means["random"] == pytest.approx(0.8 / 0.2, rel=0.1), "an M/M/1 queue each"


def test_a_full_queue_refuses_as_many_as_in_an_m_m_1_k_queue() -> None:
    used, most, n = 1.2, 5, 100_000
    rules = Discipline(max_waiting=most)
    times = latencies(poisson(used, n, rng()), rng(1).exponential(1.0, n), 0.0, rules)
    refused = (1 - used) * used**most / (1 - used ** (most + 1))
    assert np.isinf(times).mean() == pytest.approx(refused, rel=0.03)


def test_followed_and_recursive_queues_agree_where_nobody_is_refused() -> None:
    arrivals, calls = poisson(0.9, 2_000, rng()), rng(1).exponential(1.0, 2_000)
    queue = WorkerQueue(arrivals.tolist(), calls.tolist(), 0.05, Discipline(max_waiting=10**9), None)
    for number in range(len(arrivals)):
        queue.arrive(number)
    queue.advance(np.inf)
    np.testing.assert_allclose(queue.left, departures(arrivals, calls + 0.05))


def test_who_waits_past_the_deadline_is_refused_and_who_is_answered_is_mostly_in_time() -> None:
    n, rules = 20_000, Discipline(deadline_s=0.05, refusal_s=0.0001)
    times = latencies(poisson(2 / 0.002, n, rng()), np.full(n, 0.0018), 0.0002, rules)
    answered = times[np.isfinite(times)]
    assert len(answered) / n == pytest.approx(0.5 * 0.9, rel=0.05), "a tenth of the worker refuses"
    assert np.quantile(answered, 0.95) < 0.05
    free = latencies(poisson(2 / 0.002, n, rng()), np.full(n, 0.0018), 0.0002, rules._replace(refusal_s=0))
    assert np.isfinite(free).mean() > len(answered) / n


def test_short_calls_refuse_nobody_and_a_core_for_http_raises_what_a_worker_answers() -> None:
    n = 5_000
    arrivals, calls = poisson(700, n, rng()), np.full(n, 0.001)
    assert np.isfinite(latencies(arrivals * 0.5, calls, 0.001, Discipline(inline=True))).all()
    shared = latencies(arrivals, calls, 0.001, OPEN)
    own = latencies(arrivals, calls, 0.001, OPEN._replace(http_core=True))
    assert shared[-1] > 1.0, "700 x 2 ms are more than a core has"
    assert own[-1] < 0.1


def test_requests_of_one_length_share_a_call() -> None:
    n = 5_000
    arrivals, calls = poisson(300, n, rng()), np.full(n, 0.005)
    rules = Discipline(batch_share=0.1)
    alike = latencies(arrivals, calls, 0.0, rules, [7] * n)
    unlike = latencies(arrivals, calls, 0.0, rules, [*range(n)])
    assert np.isfinite(alike).all()
    assert np.isinf(unlike).mean() > 0.2, "300 x 5 ms are one and a half workers"


def times_of(ms: float = 2.0, processes: int = 5) -> ServiceTimes:
    run = sampled("gdcn", {"onnx-int8": ms}, processes=processes)
    samples = [np.array(process.runs_ns) / 1e9 for process in run.samples]
    return ServiceTimes(run, "onnx-int8", 100, samples)


QUARTER = Overhead(0.25)


def sized(slo: str, ms: float = 2.0, overhead: Overhead = QUARTER, **plan: object) -> Sizing:
    options = CapacityPlan(**{"rate": 2000.0, "requests": 4_000, "draws": 10, **plan})  # type: ignore[arg-type]
    return size(times_of(ms), overhead, parse_objectives(slo), options)


def test_enough_replicas_are_found_and_the_same_each_time() -> None:
    answer = sized("p99<50ms")
    assert answer.needed is not None
    assert answer.needed_ci95 is not None
    assert answer.likely is not None
    low, high = answer.needed_ci95
    assert low <= answer.likely <= high == answer.needed
    assert 2000 / answer.capacity_per_s < answer.needed <= 2 * 2000 / answer.capacity_per_s
    by_replicas = {fleet.replicas: fleet for fleet in answer.fleets}
    assert by_replicas[answer.needed].meets
    assert not by_replicas[answer.needed - 1].meets
    assert by_replicas[answer.needed].used == pytest.approx(
        2000 / answer.capacity_per_s / answer.needed, rel=1e-9
    )
    assert msgspec.json.encode(sized("p99<50ms")) == msgspec.json.encode(answer)
    two = sized("p99<50ms", workers=2)
    assert two.needed is not None
    assert two.needed <= math.ceil(answer.needed / 2)


def test_a_stricter_limit_a_higher_overhead_and_a_worse_balance_need_more() -> None:
    few = sized("p99<50ms").needed
    assert few is not None
    for more in (sized("p99<6ms"), sized("p99<50ms", overhead=Overhead(1.5, 0.1, 10))):
        assert more.needed is not None
        assert more.needed > few
    shared = sized("p99<6ms", balance="shared").needed
    random = sized("p99<6ms").needed
    assert shared is not None
    assert random is not None
    assert shared < random


def test_a_call_that_alone_breaks_the_objective_is_not_possible() -> None:
    answer = sized("p50<2ms")
    assert answer.needed is answer.needed_ci95 is None
    assert answer.impossible is not None
    assert answer.impossible.startswith("one call alone, without any wait, has p50 2.2")
    assert "not certain" in str(sized("p50<2.253ms").impossible)
    assert "not with 900 replicas" in str(sized("p99<3ms", rate=100_000.0, most=900).impossible)


def test_a_file_of_arrivals_is_read_in_seconds_or_as_timestamps(tmp_path: Path) -> None:
    file = tmp_path / "arrivals.txt"
    seconds = poisson(50, 500, rng()) + 1_700_000_000
    file.write_text("\n".join(f"{time:.6f}" for time in seconds[::-1]))
    np.testing.assert_allclose(read_arrivals(file, rng()), seconds - seconds[0], atol=1e-5)
    stamps = [np.datetime64(int(time * 1e6), "us").item().isoformat() for time in seconds]
    file.write_text("\n".join(stamps))
    np.testing.assert_allclose(read_arrivals(file, rng()), seconds - seconds[0], atol=1e-5)
    file.write_text("\n".join(str(int(time)) for time in seconds))
    spread = read_arrivals(file, rng())
    assert len(np.unique(spread)) == 500
    assert rate_of(spread) == pytest.approx(50, rel=0.2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\nsoon\n", "line 3: 'soon' is no time"),
        ("1\n2\n", "2 arrivals"),
        ("1.5\n" * 200, "at the same time"),
        ("nan\n" * 200, "line 1: 'nan' is no time"),
    ],
)
def test_a_file_of_arrivals_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "arrivals.txt"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_arrivals(file, rng())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the run file of one model."""
    runs = tmp_path / "runs"
    runs.mkdir()
    run = sampled("gdcn", {"onnx-int8": 2.0, "onnx-fp32": 4.0})
    (runs / "gdcn.json").write_bytes(msgspec.json.encode(run))
    return tmp_path


QUICK = ("--requests", "2000", "--draws", "5")


def test_the_command_says_how_many_replicas_and_shows_the_others(home: Path) -> None:
    words = (
        "size",
        "--rate",
        "1000",
        "--slo",
        "p99<20ms",
        "--slate",
        "100",
        "--variant",
        "onnx-int8",
        *QUICK,
    )
    done = rbserve(*words, home=home)
    assert "replicas surely answer 1,000 a second with p99<20ms" in done.stdout
    assert "goodput/s" in done.stdout
    assert "rbserve verify --json" in done.stderr
    answer = json.loads(rbserve(*words, "--json", home=home).stdout)
    assert answer["needed"] >= 3
    assert answer["fleets"][0]["p99_ms"]["ci95"]


def test_bursts_of_a_trace_need_more_than_the_same_rate_at_random_times(home: Path) -> None:
    bursts = np.repeat(np.arange(0, 40, 0.5), 50) + np.tile(np.arange(50) * 1e-4, 80)
    (home / "bursts").write_text("\n".join(f"{time:.4f}" for time in bursts))
    words = ("size", "--slo", "p99<20ms", "--variant", "onnx-int8", *QUICK, "--json")
    calm = json.loads(rbserve(*words, "--rate", "101", home=home).stdout)
    trace = json.loads(rbserve(*words, "--arrivals", "bursts", home=home).stdout)
    assert trace["rate"] == pytest.approx(101, rel=0.02)
    assert trace["arrivals"] == "trace"
    assert trace["needed"] > 3 * calm["needed"]


def test_what_verify_measured_is_taken_and_that_of_another_model_refused(home: Path) -> None:
    verified = {
        "url": "http://x", "path": "/v1/score", "model": "gdcn", "variant": "onnx-int8", "slate": 100, "compared": 9,
        "difference": 0.0, "in_process_ms": 2.0, "served_ms": 2.6, "overhead_ms": 0.6, "overhead_ci95": [0.5, 0.7],
        "echo_ms": 0.5, "ratio": 1.2, "ratio_ci95": [1.1, 1.3], "limit": 1.2, "rounds": 10, "verdict": "OK",
    }  # fmt: skip
    (home / "verified.json").write_text(json.dumps(verified))
    words = ("size", "--rate", "1000", "--slo", "p99<20ms", *QUICK, "--verified", "verified.json", "--json")
    answer = json.loads(rbserve(*words, "--variant", "onnx-int8", home=home).stdout)
    assert (answer["overhead_ms"], answer["overhead_measured"]) == (0.6, True)
    other = rbserve(*words, "--variant", "onnx-fp32", home=home, check=2)
    assert "is of gdcn onnx-int8 at slate 100" in other.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rate", "9"), "of several variants: onnx-fp32, onnx-int8"),
        (("--rate", "9", "--variant", "onnx-int9"), "onnx-int9"),
        (("--rate", "9", "--variant", "onnx-int8", "--slate", "7"), "has slate 7; there are 100"),
        (("--rate", "9", "--model", "dnn"), "dnn"),
        (("--variant", "onnx-int8"), "how many requests a second"),
        (("--rate", "9", "--variant", "onnx-int8", "--verified", "none.json"), "no output of rbserve verify"),
        (("--rate", "9", "--variant", "onnx-int8", "--arrivals", "none"), "cannot read the arrivals"),
        (("--rate", "9", "--variant", "onnx-int8", "--batch-share", "0.5"), "by a call of its own"),
        (("--rate", "9", "--variant", "onnx-int8", "--balance", "fair"), "balance"),
    ],
)
def test_wrong_arguments_are_told_in_a_line(home: Path, words: tuple[str, ...], message: str) -> None:
    done = rbserve("size", "--slo", "p99<20ms", *words, home=home, check=2)
    assert message in done.stderr


def test_an_impossible_objective_fails_and_says_why(home: Path) -> None:
    words = ("size", "--rate", "9", "--slo", "p99<1ms", "--variant", "onnx-int8", *QUICK)
    done = rbserve(*words, home=home, check=1)
    assert "not possible: one call alone" in done.stderr
