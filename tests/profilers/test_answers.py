"""Which one to serve: what the headline says of its pick, and what it must not say.

The figures here are made up and mean nothing; only their shape is that of real runs.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from artificial import measurement, ranking, result, sampled

from rbserve.profilers.compare.answers import answers
from rbserve.profilers.compare.sections import sections
from rbserve.profilers.compare.uncertainty import Evidence
from rbserve.profilers.report.render import render
from rbserve.runs.measurement import Measurement

NOISY = ["load by others: waited for the core 30% of the time"]


def slow_processes(run: Measurement, factors: dict[str, tuple[float, ...]]) -> Measurement:
    """The run with each process's times multiplied, a factor a process of the variant."""
    samples = [
        msgspec.structs.replace(
            one, runs_ns=[int(ns * factors[one.variant][one.process]) for ns in one.runs_ns]
        )
        for one in run.samples
    ]
    changed = msgspec.structs.replace(run, samples=samples)
    from rbserve.runs.summary import summarise

    return msgspec.structs.replace(changed, results=summarise(changed))


def headline(folder: Path) -> list[list[str]]:
    """The cells of the table "Which one to serve"."""
    page = (folder / "report.html").read_text()
    table = page.split('aria-label="Which one to serve"')[1].split("</table>")[0]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table.split("<tbody>")[1], re.DOTALL)
    return [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


# ---- The headline ----


def test_where_one_model_was_measured_no_model_is_recommended(tmp_path: Path) -> None:
    lines = [result("onnx-fp32", 1, 0.1, 0.75), result("onnx-fp32", 20, 1.0, 0.75)]
    fast = [result("onnx-int8", 20, 0.5, 0.7498)]
    runs = [measurement("gdcn", lines + fast), measurement("dnn", [result("onnx-fp32", 1, 0.2, 0.75)])]
    first, alone = answers(sections(runs)[0])
    assert (first.models, first.models_in_section, alone.models) == (2, 2, 1)
    assert first.question.endswith("at slate 1 (2 of 2 models measured there)")
    assert first.label == "gdcn onnx-fp32"
    assert alone.question == "Fastest variant of gdcn within 0.005 AUC of the best at slate 20"
    assert alone.label == "no winner: gdcn alone was measured, its fastest variant is onnx-int8"
    assert "the only model that was measured at slate 20: there is no choice" in alone.notes[0]
    rows = headline(render(runs, tmp_path / "report"))
    assert [row[1:4] for row in rows] == [
        ["slate 1", "2 of 2", "gdcn onnx-fp32"],
        ["slate 20", "1 of 2", "no winner: gdcn alone was measured, its fastest variant is onnx-int8"],
    ]


def test_the_reference_report_names_no_winner_where_one_model_was_measured() -> None:
    report = json.loads((Path(__file__).parents[2] / "reports" / "reference" / "report.json").read_text())
    picks = [(section, answer) for section in report["sections"] for answer in section["answers"]]
    for section, answer in picks:
        judged = {
            point["name"]
            for point in section["points"]
            if point["slate"] == answer["slate"] and section["metric"] in point["accuracy"]
        }
        assert answer["models"] == len(judged)
        assert answer["label"].startswith("no winner") == (len(judged) < 2)
    assert [answer["slate"] for _, answer in picks if answer["models"] < 2] == [20]


def test_the_headline_shows_warnings_noise_and_the_baselines_that_are_no_worse(tmp_path: Path) -> None:
    lines = [
        result("onnx-int8", 1, 0.1, 0.7, inconclusive=NOISY),
        result("onnx-int8", 100, 1.0, 0.73, warnings=["int8 loses 0.0031 AUC"]),
    ]
    runs = [
        measurement("dnn", lines),
        measurement("gdcn", [result("onnx-fp32", n, 9.0, 0.7) for n in (1, 100)]),
    ]
    noisy, warned = answers(sections(runs)[0])
    assert noisy.marks == ["⚠", "INCONCLUSIVE", "no better than item_mean"]
    assert noisy.better_baselines == {"item_mean": 0.7123}
    assert (warned.marks, warned.better_baselines) == (["⚠"], {})
    folder = render(runs, tmp_path / "report")
    first, second = headline(folder)
    assert (first[3], first[4]) == (
        "dnn onnx-int8 ⚠ INCONCLUSIVE no better than item_mean",
        "item_mean 0.7123",
    )
    assert (second[3], second[4]) == ("dnn onnx-int8 ⚠", "none")
    assert "dnn onnx-int8 ⚠ INCONCLUSIVE no better than item_mean**" in (folder / "table.md").read_text()


def test_a_pick_of_one_process_is_inconclusive_for_its_spread_is_not_known() -> None:
    alone, other = (
        sampled(model, {"onnx-fp32": ms}, processes=1) for model, ms in (("dnn", 1.0), ("gdcn", 9.0))
    )
    (answer,) = answers(sections([alone, other])[0])
    assert answer.marks == ["INCONCLUSIVE"]
    assert any(
        note.startswith("One process was timed: the spread between processes is not known")
        for note in answer.notes
    )


def test_a_baseline_is_named_with_its_form_wherever_it_is_shown(tmp_path: Path) -> None:
    forms = {"baseline_forms": {"popularity": "last likes"}, "baselines": {"popularity": {"auc": 0.8}}}
    folder = render([measurement("dnn", [result("onnx-fp32", 1, 0.1, 0.7)], **forms)], tmp_path / "new")
    for name in ("table.md", "report.html", "report.json"):
        assert "popularity (last likes)" in (folder / name).read_text(), name
    assert headline(folder)[0][4] == "popularity (last likes) 0.8000"
    # A run of before the form was chosen: clicks counted last likes, rankings all of them.
    old = render([ranking("sasrec-3l", 0.01)], tmp_path / "old")
    assert headline(old)[0][4] == "popularity (all likes) 0.0300"


def test_the_baselines_of_a_run_that_chose_their_form_are_shown_before_those_of_older_runs() -> None:
    chosen = {"baseline_forms": {"popularity": "all likes"}, "baselines": {"popularity": {"auc": 0.66}}}
    old = measurement("gdcn", [result("onnx-fp32", 1, 0.1, 0.7)], created="2001-01-02T00:00:00+00:00")
    new = measurement("dnn", [result("onnx-fp32", 1, 0.1, 0.7)], **chosen)
    (section,) = sections([old, new])
    assert section.baselines == {"popularity": {"auc": 0.66}}
    assert section.baseline_title("popularity") == "popularity (all likes)"
    assert f"The run files disagree on the baselines; those of {new.id} are shown." in section.notes


# ---- Equal accuracies ----


def test_of_variants_whose_accuracies_are_printed_alike_only_the_fastest_is_on_the_front() -> None:
    lines = [
        result("onnx-int8", 1, 1.0, 0.70001),
        result("onnx-fp32", 1, 2.0, 0.70002),
        result("torch-fp32", 1, 3.0, 0.70003),
        result("openvino-bf16", 1, 4.0, 0.7002),
    ]
    (section,) = sections([measurement("dnn", lines), measurement("gdcn", lines[3:])])
    front = [(point.variant, point.on_front, point.dominated_by) for point in section.points[:3]]
    assert front == [
        ("onnx-int8", True, None),
        ("onnx-fp32", False, "dnn/onnx-int8/1"),
        ("torch-fp32", False, "dnn/onnx-int8/1"),
    ]
    assert section.points[3].on_front
    (answer,) = answers(section)
    assert not any("higher by 0.0000" in note for note in answer.notes)


def test_the_best_accuracy_of_equal_ones_is_that_of_the_fastest() -> None:
    """Two variants whose AUC differs by less than is printed are not told apart in words."""
    fast = sampled("dnn", {"onnx-int8": 1.0, "torch-fp32": 3.0}, users=400)
    labels, scores = np.array(fast.predictions.labels), np.array(fast.predictions.scores["torch-fp32"])
    order = np.argsort(scores)
    rise = next(at for at in range(len(order) - 1) if labels[order[at]] < labels[order[at + 1]])
    worse = scores.copy()  # one pair of rows, of the right order, changes places
    worse[order[[rise, rise + 1]]] = scores[order[[rise + 1, rise]]]
    judged = {"onnx-int8": worse.tolist(), "torch-fp32": scores.tolist()}
    run = with_predictions(fast, msgspec.structs.replace(fast.predictions, scores=judged))
    other = sampled("gdcn", {"onnx-fp32": 9.0}, users=400)
    (section,) = sections([run, other])
    int8, torch = section.points[:2]
    assert 0 < (torch.value("auc") or 0) - (int8.value("auc") or 0) < 1e-6
    assert (int8.on_front, torch.on_front) == (True, False)
    assert int8.front_probability == pytest.approx(1, abs=0.02)
    assert torch.front_probability == pytest.approx(0, abs=0.02)
    (answer,) = answers(section)
    assert not any("The best AUC is that of" in note for note in answer.notes)


def with_predictions(run: Measurement, predictions: Any) -> Measurement:
    from rbserve.runs.summary import summarise

    changed = msgspec.structs.replace(run, predictions=predictions)
    return msgspec.structs.replace(changed, results=summarise(changed))


# ---- Which is faster ----


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_the_probability_of_the_front_is_that_of_being_faster_where_accuracies_are_equal(
    processes: int,
) -> None:
    """And both are as unsure as the intervals of few processes, which overlap here."""
    spread = (0.97, 1.03, 1.0, 0.99, 1.01)
    run = slow_processes(
        sampled("dnn", {"onnx-int8": 1.0, "onnx-fp32": 1.06}, processes=processes),
        {"onnx-int8": spread, "onnx-fp32": spread},
    )
    other = sampled("gdcn", {"onnx-fp32": 9.0})
    evidence = Evidence()
    (section,) = sections([run, other], evidence)
    pick, rival = section.points[:2]
    assert (pick.value("auc"), pick.p50_ms < rival.p50_ms) == (rival.value("auc"), True)
    latency = [evidence.latency(run, point.variant, 100) for point in (pick, rival)]
    assert latency[0] is not None
    assert latency[1] is not None
    faster = float(np.mean(latency[0] < latency[1]))
    assert pick.front_probability == pytest.approx(faster)
    assert rival.front_probability == pytest.approx(1 - faster)
    (answer,) = answers(section, evidence)
    unsettled = [note for note in answer.notes if note.startswith("Which is faster is not settled")]
    assert bool(unsettled) == (faster < 0.975)
    if processes == 2:
        assert pick.p50_ci95_ms[1] > rival.p50_ci95_ms[0]
        assert faster < 0.95
        assert unsettled == [
            f"Which is faster is not settled: of 1,000 resamples, it is faster than dnn onnx-fp32 in {faster:.0%}."
        ]


def test_a_rival_that_is_surely_less_accurate_is_said_to_be() -> None:
    spread = (0.9, 1.1)
    times = {"onnx-fp32": spread}
    run = slow_processes(sampled("dnn", {"onnx-fp32": 1.0}, processes=2, skill=1.01), times)
    rival = slow_processes(sampled("gdcn", {"onnx-fp32": 1.01}, processes=2, skill=1.0), times)
    (section,) = sections([run, rival])
    (answer,) = answers(section)
    assert answer.point.startswith("dnn")
    (said,) = [note for note in answer.notes if note.startswith("Which is faster")]
    assert "gdcn onnx-fp32 (less accurate) in " in said


# ---- Names ----


def test_rankings_of_candidates_and_of_the_catalogue_are_never_named_alike(tmp_path: Path) -> None:
    line = result("onnx-fp32", 1, 0.1, 0.7)
    both = msgspec.structs.replace(line, accuracy={**line.accuracy, "ndcg@10": 0.9, "recall@10": 0.95})
    folder = render([measurement("dnn", [both]), ranking("sasrec-3l", 0.05)], tmp_path / "report")
    parts = json.loads((folder / "report.json").read_text())["sections"]
    assert {(part["task"], part["metric_titles"]["ndcg@10"]) for part in parts} == {
        ("ctr", "nDCG@10 (user's candidates)"),
        ("seqrec", "nDCG@10 (catalogue)"),
    }
    head, *_ = (folder / "table.csv").read_text().splitlines()
    assert {"candidates_ndcg@10", "ndcg@10", "candidates_recall@10", "recall@10"} <= {*head.split(",")}
