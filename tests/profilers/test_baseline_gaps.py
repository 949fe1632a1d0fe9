"""Models that are no better than a baseline, on profiles whose answer is known."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from artificial import measurement, ranking, result, sampled

from rbserve.profilers.choose.choice import Question, choose
from rbserve.profilers.choose.objectives import parse_objectives
from rbserve.profilers.choose.recommend import recommend
from rbserve.profilers.compare.answers import answers
from rbserve.profilers.compare.baselines import gaps_of, marks_of
from rbserve.profilers.compare.sections import sections
from rbserve.profilers.compare.uncertainty import Evidence
from rbserve.profilers.report.chart import SIZES, lay_out
from rbserve.profilers.report.chart_data import chart_sections
from rbserve.profilers.report.render import render
from rbserve.runs.measurement import Measurement, Predictions
from rbserve.runs.summary import summarise
from rbserve.stats.pairwise import auc

FORM = "likes of the last 7 days"


def against(run: Measurement, noise: float, seed: int = 5) -> Measurement:
    """The run with a baseline whose scores are the labels with so much noise."""
    labels = np.array(run.predictions.labels)
    scores = labels + noise * np.random.default_rng(seed).normal(size=len(labels))
    return msgspec.structs.replace(
        run,
        baselines={"popularity": {"auc": auc(labels, scores)}, "item_mean": {"auc": 0.5}},
        baseline_forms={"popularity": FORM},
        baseline_answers={"popularity": scores.tolist()},
    )


POOR = {"skill": 0.5}  # AUC about 0.64 of the artificial rows


def test_a_variant_is_below_the_best_baseline_where_resamples_of_the_same_users_agree() -> None:
    run = against(sampled("dnn", {"onnx-fp32": 1.0}, **POOR), noise=0.4)
    (gap,) = gaps_of(run, "auc").values()
    own = auc(run.predictions.labels, run.predictions.scores["onnx-fp32"])
    assert gap.gap == pytest.approx(own - run.baselines["popularity"]["auc"], abs=1e-6)
    assert gap.ci95
    assert gap.ci95[0] < gap.gap < gap.ci95[1] < 0
    assert marks_of(run) == {"onnx-fp32": "below popularity"}
    assert gap.text.startswith(f"below popularity ({FORM}), ")


def test_the_interval_is_that_of_the_paired_difference() -> None:
    """A baseline that answers as the model does, but for a few rows, is told apart from it though intervals overlap."""
    run = sampled("dnn", {"onnx-fp32": 1.0}, **POOR)
    labels, scores = np.array(run.predictions.labels), np.array(run.predictions.scores["onnx-fp32"])
    better = scores + 0.02 * labels
    run = msgspec.structs.replace(
        run,
        baselines={"popularity": {"auc": auc(labels, better)}},
        baseline_answers={"popularity": better.tolist()},
    )
    (gap,) = gaps_of(run, "auc").values()
    interval = run.results[0].accuracy["auc_ci95"]
    assert isinstance(interval, tuple)
    assert interval[1] > gap.value  # unpaired, these users would settle nothing
    assert gap.mark == "below popularity"


def test_a_variant_that_the_users_do_not_tell_from_the_baseline_is_no_better_and_a_better_one_not_marked() -> (
    None
):
    run = sampled("dnn", {"onnx-fp32": 1.0}, **POOR)
    same = msgspec.structs.replace(
        run,
        baselines={"popularity": {"auc": auc(run.predictions.labels, run.predictions.scores["onnx-fp32"])}},
        baseline_answers={"popularity": run.predictions.scores["onnx-fp32"]},
    )
    assert marks_of(same) == {"onnx-fp32": "no better than popularity"}
    assert marks_of(against(sampled("gdcn", {"onnx-fp32": 1.0}, skill=3.0), noise=3.0)) == {}


@pytest.mark.parametrize(
    ("accuracy", "mark"), [(0.66, "below item_mean"), (0.7, "no better than item_mean"), (0.72, None)]
)
def test_a_run_file_without_answers_is_marked_by_its_interval(accuracy: float, mark: str | None) -> None:
    old = measurement(
        "dnn", [result("onnx-fp32", 1, 1.0, accuracy)]
    )  # half a width of 0.03; item_mean has 0.7123
    assert marks_of(old).get("onnx-fp32") == mark


def test_runs_without_accuracy_or_baselines_are_not_marked() -> None:
    timed = measurement("dnn", [result("onnx-fp32", 1, 1.0, 0.5, accuracy={})])
    assert marks_of(timed) == {}
    assert marks_of(msgspec.structs.replace(timed, baselines={})) == {}


# ---- Rankings ----


def ranked(model: str, ranks: list[int], **changes: Any) -> Measurement:
    """A profile of a model that gives the target of each of so many users a rank."""
    users = [*range(len(ranks))]
    run = sampled(model, {"onnx-fp32": 1.0}, users=4, runs=20)
    predictions = Predictions(users, [], {}, targets=users, ranks={"onnx-fp32": ranks}, depth=50)
    facts = {"task": "seqrec", "baselines": {"popularity": {"ndcg@10": 0.01}}, "group": "G"}
    run = msgspec.structs.replace(run, predictions=predictions, **{**facts, **changes})
    return msgspec.structs.replace(run, results=summarise(run))


GOOD, BAD = [1, 2, 0, 1] * 50, [0, 9, 0, 0] * 50


def test_itemknn_is_a_baseline_of_the_rankings_beside_it_and_not_of_itself() -> None:
    (section,) = sections([ranked("itemknn", GOOD), ranked("sasrec-3l", BAD), ranked("sasrec-6l", GOOD)])
    reached = {point.name: point.value("ndcg@10") for point in section.points}
    assert section.baselines["itemknn"]["ndcg@10"] == reached["itemknn"]
    marks = {point.name: point.below and point.below.mark for point in section.points}
    assert marks == {
        "itemknn": None,
        "sasrec-3l": "below itemknn",
        "sasrec-6l": "no better than itemknn",
    }


def test_itemknn_of_other_test_rows_is_no_baseline() -> None:
    (section,) = sections([ranked("itemknn", GOOD[:40]), ranked("sasrec-3l", BAD), ranked("sasrec-6l", BAD)])
    assert "itemknn" not in section.baselines


# ---- Where it is said ----


def three() -> list[Measurement]:
    """An accurate, slow model; a poor, fast one; and one between that is just within the tolerance of the first."""
    runs = [
        sampled("gdcn", {"onnx-fp32": 30.0}, skill=2.0, seed=1),
        sampled("dnn", {"onnx-fp32": 10.0, "onnx-int8": 9.0}, skill=0.5, seed=2),
    ]
    return [against(run, noise=0.9) for run in runs]


def test_every_file_of_a_report_marks_the_models_below_a_baseline(tmp_path: Path) -> None:
    folder = render(three(), tmp_path / "report")
    table = (folder / "table.md").read_text()
    assert "| dnn ▼ | onnx-int8 |" in table
    assert "| gdcn | onnx-fp32 |" in table
    assert "below popularity" in table
    assert f"Baseline popularity ({FORM}): AUC" in table
    with (folder / "table.csv").open() as file:
        rows = {(row["name"], row["variant"]): row for row in csv.DictReader(file)}
    assert rows["dnn", "onnx-int8"]["baseline_mark"] == "below popularity"
    assert float(rows["dnn", "onnx-int8"]["baseline_gap"]) < float(
        rows["dnn", "onnx-int8"]["baseline_gap_ci95_high"]
    )
    assert rows["gdcn", "onnx-fp32"]["baseline_mark"] == ""
    page = (folder / "report.html").read_text()
    assert ">dnn ▼</th>" in page
    assert "below popularity</td>" in page
    report = json.loads((folder / "report.json").read_text())
    (section,) = chart_sections(report)
    for size in SIZES.values():
        assert "Below popularity: dnn." in lay_out(section, 100, size).notes


def test_a_report_serves_a_point_above_the_baselines_though_a_faster_one_is_within_the_tolerance() -> None:
    runs = [
        measurement("gdcn", [result("onnx-fp32", 1, 9.0, 0.714)]),
        measurement("dnn", [result("onnx-fp32", 1, 1.0, 0.711)]),
    ]
    (answer,) = answers(sections(runs)[0])
    assert (answer.point, answer.marks) == ("gdcn/onnx-fp32/1", [])
    (alone,) = answers(sections([*runs[1:], measurement("pnn", [result("onnx-fp32", 1, 2.0, 0.7)])])[0])
    assert (alone.point, alone.marks) == ("dnn/onnx-fp32/1", ["no better than item_mean"])


def test_recommend_prefers_a_model_above_the_baselines_and_says_where_none_is() -> None:
    answer = recommend(three(), parse_objectives("p50<100ms"))
    assert answer.pick
    assert (answer.pick.model, answer.pick.below) == ("gdcn", None)
    assert not any("best baseline" in note for note in answer.notes)
    marks = {candidate.label: candidate.below and candidate.below.mark for candidate in answer.meets}
    assert marks["dnn onnx-int8"] == "below popularity"
    within = recommend(three(), parse_objectives("p50<20ms"))
    assert within.pick
    assert within.pick.model == "dnn"
    (note,) = [note for note in within.notes if "best baseline" in note]
    assert note.startswith(
        f"No variant that meets the limits is above the best baseline: the pick is below popularity ({FORM}), "
    )


def test_a_variant_that_falls_below_the_baseline_is_chosen_only_where_all_do() -> None:
    run = sampled("dnn", {"onnx-fp32": 5.0, "onnx-int8": 2.0}, users=400, runs=20, processes=2)
    rows, scores = run.predictions, np.array(run.predictions.scores["onnx-fp32"])
    answered = {"onnx-fp32": scores.tolist(), "onnx-int8": (scores - 1e-3 * np.array(rows.labels)).tolist()}
    run = msgspec.structs.replace(run, predictions=msgspec.structs.replace(rows, scores=answered))
    exact, rounded = (auc(rows.labels, answered[variant]) for variant in ("onnx-fp32", "onnx-int8"))
    assert exact > rounded
    question = Question("a" * 64, "key", 100, 1, 0.01, "")
    between = {"popularity": {"auc": (exact + rounded) / 2}}
    picked = {
        level: choose(msgspec.structs.replace(run, results=summarise(run), baselines=baselines), question, {})
        for level, baselines in (("low", {}), ("between", between), ("high", {"popularity": {"auc": 0.99}}))
    }
    assert {level: choice.chosen for level, choice in picked.items()} == {
        "low": "onnx-int8",
        "between": "onnx-fp32",
        "high": "onnx-int8",
    }
    marks = {option.variant: option.below and option.below.mark for option in picked["high"].options}
    assert marks == {"onnx-fp32": "below popularity", "onnx-int8": "below popularity"}


def test_a_baseline_is_drawn_with_the_users_that_its_models_are_drawn_with() -> None:
    run = sampled("dnn", {"onnx-fp32": 1.0}, **POOR)
    run = msgspec.structs.replace(run, baseline_answers={"popularity": run.predictions.scores["onnx-fp32"]})
    evidence = Evidence()
    model, baseline = evidence.accuracy(run, "onnx-fp32", "auc"), evidence.baseline(run, "popularity", "auc")
    assert model is not None
    assert baseline is not None
    assert model.tolist() == baseline.tolist()
    assert evidence.baseline(run, "item_mean", "auc") is None
    assert evidence.baseline(ranking("sasrec-3l", 0.1), "popularity", "ndcg@10") is None
