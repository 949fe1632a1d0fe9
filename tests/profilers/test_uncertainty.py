"""How sure a front is, on profiles whose answer is known, and against brute force."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from artificial import measurement, ranking, result, sampled

from rbserve.profilers.compare.front import front_probabilities, hypervolume
from rbserve.profilers.compare.overall import notes, overalls
from rbserve.profilers.compare.sections import sections
from rbserve.profilers.compare.uncertainty import Evidence
from rbserve.profilers.report.render import answers
from rbserve.runs.measurement import Measurement


def test_a_point_that_nothing_rivals_is_always_on_the_front_and_one_that_is_beaten_never() -> None:
    fast, beaten = (
        sampled("dnn", {"onnx-fp32": 1.0}, skill=2.0),
        sampled("gdcn", {"onnx-fp32": 3.0}, skill=0.5),
    )
    (section,) = sections([fast, beaten])
    assert [(one.model, one.front_probability, one.on_front) for one in section.points] == [
        ("dnn", 1.0, True),
        ("gdcn", 0.0, False),
    ]


def test_users_are_paired_so_equal_scores_are_equal_in_every_resample() -> None:
    one, other = sampled("dnn", {"onnx-fp32": 1.0}), sampled("gdcn", {"onnx-fp32": 3.0})
    evidence = Evidence()
    first, second = (evidence.accuracy(run, "onnx-fp32", "auc") for run in (one, other))
    assert first is not None
    assert second is not None
    assert np.array_equal(first, second)
    assert np.std(first) > 0.01  # each of them is unsure, their difference is not
    (section,) = sections([one, other], evidence)
    assert [point.front_probability for point in section.points] == [1.0, 0.0]


def test_the_probability_is_the_share_of_draws_by_the_definition_of_a_front() -> None:
    rng = np.random.default_rng(1)
    times, values = rng.integers(1, 5, (4, 60)).astype(float), rng.integers(1, 5, (4, 60)).astype(float)
    expected = [
        np.mean([
            not any(
                times[q, r] <= times[p, r] and values[q, r] >= values[p, r]
                and (times[q, r] < times[p, r] or values[q, r] > values[p, r])
                for q in range(4)
            )
            for r in range(60)
        ])
        for p in range(4)
    ]  # fmt: skip
    assert front_probabilities(list(times), list(values)) == pytest.approx(expected)


def test_the_hypervolume_is_the_area_of_the_steps() -> None:
    # (10 ms, 0.6) is two decades below a second; (100 ms, 0.7) adds its own decade above 0.6.
    assert hypervolume([(10.0, 0.6), (100.0, 0.7), (500.0, 0.65)], 0.5) == pytest.approx(2 * 0.1 + 1 * 0.1)
    assert hypervolume([(2000.0, 0.9), (1.0, 0.4)], 0.5) == 0.0


def test_a_section_knows_the_interval_of_its_hypervolume() -> None:
    (section,) = sections(
        [sampled("dnn", {"onnx-fp32": 1.0}), sampled("gdcn", {"onnx-fp32": 3.0}, skill=2.0)]
    )
    (front,) = section.fronts
    assert front.hypervolume is not None
    assert front.ci95 is not None
    assert front.ci95[0] < front.hypervolume < front.ci95[1]
    assert (front.reference_ms, front.reference_accuracy) == (1000.0, 0.5)


def test_without_raw_samples_there_is_no_probability() -> None:
    (section,) = sections([measurement("dnn", [result("onnx-fp32", 1, 0.1, 0.7)])])
    assert section.points[0].front_probability is None
    assert section.fronts[0].ci95 is None
    assert section.fronts[0].hypervolume == pytest.approx(0.2 * 4)


def test_the_answer_says_how_sure_the_better_accuracy_is_on_the_same_users() -> None:
    runs = [sampled("dnn", {"onnx-fp32": 1.0}, skill=1.0), sampled("gdcn", {"onnx-fp32": 3.0}, skill=1.012)]
    (section,) = sections(runs)
    (answer,) = answers(section)
    assert answer.point == "dnn/onnx-fp32/100"
    (said,) = [note for note in answer.notes if note.startswith("The best AUC is that of gdcn")]
    assert "of resamples of the same users" in said
    assert "On the front in over 99% of 1,000 resamples." in answer.notes


def test_a_run_of_some_test_users_is_drawn_and_no_part_of_the_front() -> None:
    plan = sampled("x", {"onnx-fp32": 1.0}).plan
    some = sampled("pnn", {"onnx-fp32": 0.1}, skill=5.0, users=10)
    import msgspec

    some = msgspec.structs.replace(some, plan=msgspec.structs.replace(plan, test_users=10))
    runs = [sampled("dnn", {"onnx-fp32": 1.0}), sampled("gdcn", {"onnx-fp32": 2.0}), some]
    (section,) = sections(runs)
    by_name = {point.name: point for point in section.points}
    assert by_name["pnn"].aside == "judged on 10 test users drawn at random, the others on 60"
    assert (by_name["pnn"].on_front, by_name["pnn"].front_probability) == (None, None)
    assert by_name["dnn"].on_front
    assert section.users == 60
    assert [answer.point for answer in answers(section)] == ["dnn/onnx-fp32/100"]


# ---- Across data sets ----


def test_overall_has_what_was_measured_on_every_data_set_and_says_what_it_leaves_out() -> None:
    runs = [
        sampled(model, {"onnx-fp32": ms}, dataset=dataset, id=f"{model}-{dataset}", dataset_fingerprint=dataset,
                comparability_key=dataset, skill=skill)
        for model, ms, skill in (("dnn", 1.0, 1.0), ("gdcn", 4.0, 2.0))
        for dataset in ("a", "b")
    ]  # fmt: skip
    lone = sampled("pnn", {"onnx-fp32": 1.0}, dataset="c", id="lone", dataset_fingerprint="c")
    evidence = Evidence()
    parts = sections([*runs, lone], evidence)
    (table,) = overalls(parts, evidence)
    assert (table.datasets, table.left_out, table.slate) == (["a", "b"], ["c"], 100)
    assert [(one.name, one.on_front) for one in table.points] == [("dnn", True), ("gdcn", True)]
    own = [p for part in parts for p in part.points if p.model == "gdcn"]
    gdcn = table.points[1]
    assert gdcn.p50_ms == pytest.approx(math.sqrt(own[0].p50_ms * own[1].p50_ms))
    assert gdcn.accuracy == pytest.approx(sum(p.value("auc") or 0 for p in own) / 2)
    assert gdcn.p50_ci95_ms is not None
    assert gdcn.p50_ci95_ms[0] < gdcn.p50_ms < gdcn.p50_ci95_ms[1]


def on_two_data_sets(**changes: dict[str, Any]) -> list[Measurement]:
    """Two models on data sets "a" and "b"; the changes are of the runs of a data set."""
    return [
        sampled(
            model, {"onnx-fp32": ms}, skill=skill, dataset=dataset, id=f"{model}-{dataset}",
            comparability_key=dataset, **{"dataset_fingerprint": dataset, **changes.get(dataset, {})},
        )
        for model, ms, skill in (("dnn", 1.0, 1.0), ("gdcn", 4.0, 2.0))
        for dataset in ("a", "b", *changes.keys() - {"a", "b"})
    ]  # fmt: skip


SKETCH = {user: user + 1 for user in range(20)}


@pytest.mark.parametrize(
    "copy",
    [
        {"b": {"dataset_fingerprint": "a"}},
        {"a": {"data_sketch": SKETCH}, "b": {"data_sketch": {**SKETCH, 0: 0, 1: 0, 99: 9}}},
    ],
)
def test_a_data_set_and_its_shuffled_copy_have_no_mean(copy: dict[str, dict[str, Any]]) -> None:
    runs = on_two_data_sets(**copy)
    parts = sections(runs)
    assert overalls(parts, Evidence()) == []
    assert [part.notes for part in parts] == [
        [f"{own} holds the same users' likes as {other}: a copy, and Overall counts one of the two."]
        for own, other in (("a", "b"), ("b", "a"))
    ]


def test_of_a_data_set_and_its_copy_one_is_in_the_mean_with_a_third() -> None:
    runs = on_two_data_sets(a={"data_sketch": SKETCH}, b={"data_sketch": SKETCH}, c={"data_sketch": {1: 1}})
    (table,) = overalls(sections(runs), Evidence())
    assert (table.datasets, table.left_out, table.copies) == (["a", "c"], ["b"], {"b": "a"})
    assert "Left out, for being a copy: b holds the same users' likes as a, and counts once." in notes(table)


def test_one_data_set_has_no_overall_table() -> None:
    runs = [ranking("sasrec-3l", 0.05), measurement("dnn", [result("onnx-fp32", 1, 0.1, 0.7)])]
    assert overalls(sections(runs), Evidence()) == []
