"""Which variant to serve, on profiles whose answer is known; and the words of every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from artificial import ranking, sampled
from entry_point import rbserve

from rbserve.core.errors import DataError, UsageError
from rbserve.models.configs import config_to_dict
from rbserve.models.zoo import find_model
from rbserve.profilers.choose.objectives import parse_objectives
from rbserve.profilers.choose.recommend import recommend as choose
from rbserve.profilers.choose.recommendation import Recommendation
from rbserve.runs.measurement import Measurement, Predictions
from rbserve.runs.run_file import write_measurement
from rbserve.runs.summary import summarise

FEW = {"processes": 1, "runs": 20}


def recommend(runs: list[Measurement], slo: str, **choice: Any) -> Recommendation:
    return choose(runs, parse_objectives(slo), **choice)


def three() -> list[Measurement]:
    """Slow and accurate, faster and nearly as accurate, fastest and poor."""
    return [
        sampled("gdcn", {"torch-fp32": 50.0, "onnx-fp32": 30.0}, skill=2.0, seed=1),
        sampled("dnn", {"onnx-fp32": 10.0}, skill=1.2, seed=2),
        sampled("pnn", {"onnx-fp32": 2.0}, skill=0.5, seed=3),
    ]


# ---- The limit ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p99<20ms", [("p99", 20.0)]),
        (" P50 <= 500us , mean<0.02s", [("p50", 0.5), ("mean", 20.0)]),
        ("p99.9<1.5ms", [("p99.9", 1.5)]),
    ],
)
def test_a_limit_is_a_statistic_and_a_time(text: str, expected: list[tuple[str, float]]) -> None:
    assert [(one.statistic, one.limit_ms) for one in parse_objectives(text)] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--slo names no objective: ''"),
        ("fast", "--slo takes STATISTIC<TIME, not 'fast'"),
        ("p99>20ms", "--slo takes STATISTIC<TIME, not 'p99>20ms'"),
        ("p99<20", "--slo 'p99<20' has no unit of time"),
        ("p99<20min", "unknown unit of time: min"),
        ("p99<1.2.3ms", "1.2.3 is no number"),
        ("p99<0ms", "no call takes no time"),
        ("p100<5ms", "--slo cannot limit 'p100'"),
        ("p0<5ms", "--slo cannot limit 'p0'"),
        ("max<5ms", "--slo cannot limit 'max'"),
    ],
)
def test_what_is_no_limit_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_objectives(text)
    assert message in caught.value.message
    assert caught.value.hint


# ---- The choice ----


def test_the_most_accurate_that_meets_the_limit_is_chosen_and_the_others_say_why_not() -> None:
    answer = recommend(three(), "p99<20ms")
    assert answer.pick
    assert answer.pick.label == "dnn onnx-fp32"
    assert (answer.pick.probability or 0) > 0.99
    assert answer.most_accurate_probability == 1.0
    assert answer.pick.serve == "rbserve serve --model dnn --dataset ml-100k --variant onnx-fp32"
    assert [one.label for one in answer.meets] == ["dnn onnx-fp32", "pnn onnx-fp32"]
    reasons = {one.label: one.refused or "" for one in answer.refused}
    assert reasons["gdcn onnx-fp32"].startswith("misses p99<20ms: 700 of 700 calls took longer, p99 is 33")
    assert recommend(three(), "p99<40ms").pick.label == "gdcn onnx-fp32"  # type: ignore[union-attr]


def test_several_limits_have_to_be_met_together() -> None:
    answer = recommend(three(), "p99<40ms,p50<5ms")
    assert answer.pick
    assert answer.pick.label == "pnn onnx-fp32"
    assert [len(one.checks) for one in answer.refused] == [2, 2, 2]


def test_a_limit_that_is_met_by_luck_is_not_met() -> None:
    """Of 700 calls 7 may lie past a p99; with 6 that the true p99 lies below the limit is not sure."""
    (run,) = [sampled("dnn", {"onnx-fp32": 10.0})]
    times = sorted(one for sample in run.samples for one in sample.runs_ns)
    limit = (times[-6] - 1) * 1e-6
    answer = recommend([run], f"p99<{limit}ms")
    assert answer.pick is None
    (refused,) = answer.refused
    (check,) = refused.checks
    assert check.over == 6
    assert check.measured_ms < limit
    assert check.binomial == pytest.approx(0.55, abs=0.03)  # P(Binomial(700, 0.01) > 6)
    assert "with probability" in (refused.refused or "")


def test_a_difference_these_users_cannot_tell_names_the_faster() -> None:
    runs = [sampled("dnn", {"onnx-fp32": 10.0}, skill=1.0), sampled("pnn", {"onnx-fp32": 2.0}, skill=1.0)]
    answer = recommend(runs, "p50<20ms")
    assert answer.pick
    assert (answer.pick.model, answer.faster) == ("pnn", None)  # equal accuracy: the faster is the pick
    better = sampled("gdcn", {"onnx-fp32": 12.0}, skill=1.02)
    answer = recommend([*runs, better], "p50<20ms")
    assert answer.pick
    assert answer.pick.model == "gdcn"
    assert answer.faster is None  # the same users tell even so small a difference: their noise is the same
    other = sampled("gdcn", {"onnx-fp32": 12.0}, skill=1.0, noise=8)
    answer = recommend([*runs, other], "p50<20ms")
    names = {answer.pick.model if answer.pick else None, answer.faster.model if answer.faster else None}
    assert names <= {"gdcn", "pnn", None}
    assert 0.02 < (answer.most_accurate_probability or 0) < 0.98


def test_what_cannot_be_compared_is_refused() -> None:
    blind = msgspec.structs.replace(sampled("gdcn", {"onnx-fp32": 1.0}), random=True)
    blind = msgspec.structs.replace(
        blind, results=[msgspec.structs.replace(one, accuracy={}) for one in blind.results]
    )
    some = sampled("pnn", {"onnx-fp32": 1.0}, skill=9.0, users=10)
    some = msgspec.structs.replace(some, plan=msgspec.structs.replace(some.plan, test_users=10))
    other = sampled("dcn", {"onnx-fp32": 1.0}, skill=9.0, comparability_key="other", created="2000")
    short = sampled("autoint", {"onnx-fp32": 1.0}, slate=1)
    runs = [
        sampled("dnn", {"onnx-fp32": 1.0}),
        sampled("deepfm", {"onnx-fp32": 1.0}),
        blind,
        some,
        other,
        short,
    ]
    answer = recommend(runs, "p99<20ms", slate=100)
    assert {one.model for one in answer.meets} == {"dnn", "deepfm"}
    assert {one.model: one.refused for one in answer.refused} == {
        "gdcn": "its weights are random: latency only",
        "pnn": "judged on 10 test users drawn at random, the others on 60: its accuracy cannot be compared",
    }
    assert answer.elsewhere == {
        "autoint": "not measured at slate 100, but at 1",
        "dcn": "not comparable: their comparability keys differ",
    }


def test_of_requests_without_labels_the_fastest_that_meets_the_limit_is_chosen() -> None:
    timed = {"onnx-fp32": 10.0, "onnx-int8": 4.0, "torch-fp32": 60.0}
    answer = recommend([without_labels(sampled("ranker", timed))], "p99<40ms")
    assert answer.pick
    assert (answer.pick.variant, answer.pick.accuracy) == ("onnx-int8", None)
    assert [candidate.variant for candidate in answer.meets] == ["onnx-int8", "onnx-fp32"]
    assert (answer.most_accurate_probability, answer.faster) == (None, None)
    assert (answer.refused[0].refused or "").startswith("misses p99<40ms")
    assert answer.notes[0] == (
        "Accuracy was not measured: the requests have no labels. The pick is the fastest variant that meets the limits."
    )


def without_labels(run: Measurement) -> Measurement:
    """The run as it would be on requests that have no labels."""
    run = msgspec.structs.replace(run, predictions=Predictions([], [], {}), results=[])
    return msgspec.structs.replace(run, results=summarise(run))


def test_a_percentile_that_no_run_certifies_says_how_many_calls_it_needs() -> None:
    with pytest.raises(DataError) as caught:
        recommend([sampled("dnn", {"onnx-fp32": 10.0}, **FEW)], "p99<20ms")  # type: ignore[arg-type]
    assert caught.value.message == (
        "p99 is not certified by these runs: at most 20 timed calls of a variant at slate 100, 662 are needed"
    )
    assert caught.value.hint == (
        "rbserve profile --models dnn --dataset ml-100k --slates 100 --processes 5 --runs 133 --seconds 600"
    )


def test_an_uncertified_variant_beside_a_certified_one_is_refused_alone() -> None:
    runs = [*three(), sampled("dcn", {"onnx-fp32": 1.0}, skill=9.0, **FEW)]  # type: ignore[arg-type]
    answer = recommend(runs, "p99<20ms")
    assert answer.pick
    assert answer.pick.model == "dnn"
    (dcn,) = [one for one in answer.refused if one.model == "dcn"]
    assert dcn.refused == "p99<20ms is not certified: 20 timed calls, 662 are needed"


def test_what_is_too_slow_for_sure_needs_no_further_calls() -> None:
    answer = recommend([sampled("dnn", {"onnx-fp32": 100.0}, **FEW)], "p99<20ms")  # type: ignore[arg-type]
    assert answer.pick is None
    assert "misses p99<20ms: 20 of 20" in (answer.refused[0].refused or "")


@pytest.mark.parametrize("statistic", ["p50", "mean"])
def test_a_limit_within_the_interval_is_never_met_for_sure(statistic: str) -> None:
    """Two processes of 8 and 17 ms: a p50 of 12 that may as well be 2 or 60 does not meet 20 ms for sure."""
    answer = recommend([of_processes(8.0, 17.0)], f"{statistic}<20ms")
    (refused,) = answer.refused
    (check,) = refused.checks
    assert check.ci95_ms
    assert check.ci95_ms[0] < check.measured_ms < 20 < check.ci95_ms[1]
    assert 0.5 < check.probability < 0.975
    (certain,) = recommend([of_processes(8.0, 17.0)], f"{statistic}<{check.ci95_ms[1] * 1.05}ms").meets
    assert (certain.probability or 0) > 0.96  # 0.975, of a thousand draws


def test_a_limit_within_the_interval_is_not_missed_for_sure_either() -> None:
    """More than half of the calls took longer, which two processes of 8 and 17 ms do not show of others."""
    (refused,) = recommend([of_processes(8.0, 17.0)], "p50<10ms").refused
    assert "with probability" in (refused.refused or "")
    assert "misses" not in (refused.refused or "")


def test_a_percentile_of_processes_that_differ_is_not_sure_either() -> None:
    answer = recommend([of_processes(8.0, 17.0, runs=700)], "p99<25ms")
    assert answer.pick is None
    assert "with probability 0." in (answer.refused[0].refused or "")


def test_one_process_is_not_recommended_for_its_spread_is_unknown() -> None:
    answer = recommend([of_processes(8.0)], "p50<20ms")
    assert answer.pick is None
    assert (answer.refused[0].refused or "").startswith(
        "one process was timed: how far processes differ is unknown, --processes 5 tells, p50 is 8"
    )
    assert answer.refused[0].probability is None


def of_processes(*levels_ms: float, runs: int = 140) -> Measurement:
    """A run of dnn whose processes have these medians."""
    made = sampled("dnn", {"onnx-fp32": 1.0}, processes=len(levels_ms), runs=runs)
    samples = [
        msgspec.structs.replace(one, runs_ns=[round(ns * levels_ms[one.process]) for ns in one.runs_ns])
        for one in made.samples
    ]
    made = msgspec.structs.replace(made, samples=samples)
    return msgspec.structs.replace(made, results=summarise(made))


# ---- What speaks against a pick ----


def test_a_baseline_that_is_better_than_the_pick_is_told() -> None:
    (run,) = [sampled("dnn", {"onnx-fp32": 1.0}, skill=0.3)]
    baselines = {"popularity": {"auc": 0.8191}, "item_mean": {"auc": 0.5}, "nothing": {"gauc": 0.9}}
    answer = recommend([msgspec.structs.replace(run, baselines=baselines)], "p50<20ms")
    assert answer.baselines == {"popularity (last likes)": 0.8191, "item_mean": 0.5}
    assert [note for note in answer.notes if "baseline" in note] == [
        "popularity (last likes), a baseline, has AUC 0.8191, better than the pick's "
        f"{answer.pick.accuracy:.4f}.",  # type: ignore[union-attr]
        "No variant that meets the limits is above the best baseline: the pick is below popularity (last likes), "
        f"0.8191: {answer.pick.accuracy - 0.8191:+.4f}.",  # type: ignore[union-attr,operator]
    ]


def test_a_disturbed_run_and_a_doubtful_accuracy_are_told() -> None:
    run = sampled("dnn", {"onnx-fp32": 1.0})
    reasons = {"inconclusive": ["load by others"], "warnings": ["3 answers of 9 were unclear"]}
    results = [msgspec.structs.replace(one, **reasons) for one in run.results]
    answer = recommend([msgspec.structs.replace(run, results=results)], "p50<20ms")
    assert answer.pick
    assert answer.pick.inconclusive == ["load by others"]
    assert "INCONCLUSIVE, the pick's latency: load by others." in answer.notes
    assert "The pick: 3 answers of 9 were unclear." in answer.notes


def test_rankings_of_two_tasks_are_named_apart_and_never_compared() -> None:
    of_slates = sampled("dnn", {"onnx-fp32": 1.0}, slate=10)
    runs = [of_slates, ranking("sasrec-3l", 0.1)]
    with pytest.raises(UsageError) as caught:
        recommend(runs, "p50<20ms", metric="ndcg@10")
    assert caught.value.hint == (
        "add --task ctr (nDCG@10 (user's candidates)) or --task seqrec (nDCG@10 (catalogue))"
    )
    answer = recommend(runs, "p50<20ms", metric="ndcg@10", task="ctr")
    assert answer.metric_title == "nDCG@10 (user's candidates)"
    assert [one.model for one in answer.meets] == ["dnn"]
    with pytest.raises(UsageError, match="no run of ml-100k is of task seqrec"):
        recommend([of_slates], "p50<20ms", task="seqrec")


def test_a_model_that_is_not_where_it_was_is_not_to_be_served(tmp_path: Path) -> None:
    changed = config_to_dict(find_model("dnn").config) | {"dim": 32}
    run = msgspec.structs.replace(
        sampled("dnn", {"onnx-fp32": 1.0}), artifact=str(tmp_path / "gone"), config=changed
    )
    answer = recommend([run], "p50<20ms")
    assert answer.pick
    assert answer.pick.serve is None
    assert answer.pick.absent == (
        f"there is no artefact at {tmp_path / 'gone'}; rbserve train --model dnn --dataset ml-100k --set dim=32 "
        f"--out {tmp_path / 'gone'} makes it"
    )


# ---- Which runs ----


@pytest.mark.parametrize(
    ("choice", "message", "hint"),
    [
        ({}, "the runs are of several data sets: ml-100k, shop", "add --dataset ml-100k"),
        ({"dataset": "shoe"}, "unknown data set with runs: shoe", "did you mean shop?"),
        (
            {"dataset": "ml-100k"}, "the runs of ml-100k are of several tasks: ctr, seqrec",
            "add --task ctr (AUC) or --task seqrec (nDCG@10 (catalogue))",
        ),
        (
            {"dataset": "shop", "slate": 7}, "no run of shop has slate 7; there are 100",
            "rbserve profile --model dnn --dataset shop --slates 7",
        ),
        ({"dataset": "shop", "metric": "acu"}, "unknown metric: acu", "did you mean auc?"),
        ({"dataset": "shop", "scope": "http"}, "unknown scope with runs: http", "known: forward"),
        ({"dataset": "shop", "threads": 4}, "no run used 4 threads; there are 1", "rbserve profile --threads"),
        ({"dataset": "shop", "confidence": 1.0}, "--confidence must lie between 0 and 1, not 1", "for example 0.95"),
    ],
)  # fmt: skip
def test_a_choice_that_is_open_or_wrong_is_one_line(choice: dict[str, Any], message: str, hint: str) -> None:
    runs = [
        sampled("dnn", {"onnx-fp32": 1.0}),
        sampled("dnn", {"onnx-fp32": 1.0}, dataset="shop"),
        ranking("sasrec-3l", 0.1),
    ]
    with pytest.raises(UsageError) as caught:
        recommend(runs, "p50<20ms", **choice)
    assert (caught.value.message, caught.value.hint) == (message, hint)


# ---- From the command line ----


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    for one in three():
        write_measurement(folder / "runs", one)
    return folder


def test_the_command_prints_what_to_serve_and_how_sure_that_is(home: Path) -> None:
    done = rbserve("recommend", "--slo", "p99<20ms", "--slate", "100", home=home)
    assert done.stdout.startswith("serve dnn onnx-fp32: AUC 0.8")
    assert "meets p99<20ms with probability > 0.99, of 700 calls in 5 processes" in done.stdout
    assert "rbserve serve --model dnn --dataset ml-100k --variant onnx-fp32" in done.stdout
    assert "misses p99<20ms: 700 of 700 calls took longer" in done.stdout
    assert (
        "Measured elsewhere or earlier, not on this machine as it is now: CPU Artificial CPU and"
        in done.stderr
    )


def test_json_is_the_whole_answer_and_nothing_else(home: Path) -> None:
    done = rbserve("recommend", "--slo", "p99<20ms", "--json", home=home)
    answer = json.loads(done.stdout)
    assert msgspec.convert(answer, Recommendation).pick
    assert (answer["pick"]["model"], answer["pick"]["checks"][0]["n"]) == ("dnn", 700)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ("--slo", "p99<1us"),
            1,
            "error: nothing meets p99<0.001ms on ml-100k at slate 100 with probability 0.95",
        ),
        (("--slo", "p99"), 2, "error: --slo takes STATISTIC<TIME, not 'p99'"),
        (
            ("--slo", "p99.9<20ms"),
            1,
            "error: p99.9 is not certified by these runs: at most 700 timed calls of a variant",
        ),
        (("--slo", "p99<1s", "--runs", "nowhere"), 1, "error: no runs in nowhere"),
    ],
)
def test_what_cannot_be_answered_is_one_line_and_a_hint(
    home: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    done = rbserve("recommend", *words, home=home, check=code)
    assert message in done.stderr
    assert "hint: " in done.stderr
