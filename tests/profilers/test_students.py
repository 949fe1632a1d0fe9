"""A student beside its teacher: shares, speed-ups, and why there are none. The figures are made up."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from artificial import sampled

from rbserve.core.distillation import Distillation
from rbserve.home.commands import command
from rbserve.models.configs import config_to_dict
from rbserve.models.zoo import find_model
from rbserve.profilers.compare.points import Point
from rbserve.profilers.compare.sections import sections
from rbserve.profilers.compare.students import paper_claim
from rbserve.profilers.report.render import collect, render
from rbserve.runs.changes import display_name
from rbserve.runs.measurement import Measurement

RECORD = Distillation("gdcn-emb", "text-minilm-l6", "d" * 64, "onnx-fp32", 900, 500, 1.5, -0.2, 0.7)
NAME = "gdcn-emb-from-text-minilm-l6"


def student(record: Distillation = RECORD, **changes: Any) -> Measurement:
    config = config_to_dict(find_model("gdcn-emb").config)
    times = {"torch-fp32": 2.0, "onnx-fp32": 0.5}
    return sampled(NAME, times, skill=1.0, group="C", distilled=record, config=config, **changes)


def teacher(times: dict[str, float] | None = None, **changes: Any) -> Measurement:
    given = {"group": "E", "model_digest": "d" * 64, "skill": 1.5, **changes}
    return sampled("text-minilm-l6", times or {"onnx-fp32": 100.0, "onnx-int8": 60.0}, **given)


def points(*runs: Measurement) -> list[Point]:
    (section,) = sections(runs)
    return section.points


def of_student(*runs: Measurement) -> Point:
    (point,) = [one for one in points(*runs) if one.model == NAME and one.variant == "onnx-fp32"]
    return point


def test_a_student_keeps_a_share_of_the_auc_and_is_so_many_times_as_fast() -> None:
    found = {(one.model, one.variant): one for one in points(student(), teacher())}
    mine, theirs = found[NAME, "onnx-fp32"], found["text-minilm-l6", "onnx-fp32"]
    lesson = mine.lesson
    assert lesson is not None
    assert (lesson.teacher, lesson.variant, lesson.absent) == ("text-minilm-l6", "onnx-fp32", None)
    mine_auc, their_auc = mine.value("auc"), theirs.value("auc")
    assert mine_auc is not None
    assert their_auc is not None
    assert lesson.kept == pytest.approx(mine_auc / their_auc)
    assert lesson.speedup == pytest.approx(theirs.p50_ms / mine.p50_ms)
    for value, interval in ((lesson.kept, lesson.kept_ci95), (lesson.speedup, lesson.speedup_ci95)):
        assert interval is not None
        assert interval[0] < value < interval[1]
    assert lesson.kept < 1
    assert lesson.speedup > 150
    assert theirs.lesson is None


def test_a_students_own_users_cancel_in_the_share_that_it_keeps() -> None:
    """Scores of the same order for the same users: the share is 1 in every resample."""
    lesson = of_student(student(), teacher(skill=1.0)).lesson
    assert lesson is not None
    assert lesson.kept_ci95 == (1.0, 1.0)


def test_a_variant_that_did_not_teach_stands_in_for_the_one_that_did() -> None:
    lesson = of_student(student(), teacher({"torch-fp32": 150.0, "onnx-int8": 60.0})).lesson
    assert lesson is not None
    assert lesson.variant == "onnx-int8"


@pytest.mark.parametrize(
    ("others", "kept", "absent"),
    [
        (
            [],
            False,
            "no run of text-minilm-l6 is comparable: same machine, libraries, threads, scope and data",
        ),
        (
            [teacher(model_digest="e" * 64)],
            False,
            "the comparable runs of text-minilm-l6 are of other weights than those that taught",
        ),
        ([teacher(slate=1)], False, "text-minilm-l6 was measured at slate 1, not at 100"),
        ([teacher(users=40)], False, "judged on other test rows"),
        ([teacher(skill=-0.5)], False, "that of chance"),
        ([teacher(model_digest="")], True, None),
    ],
    ids=[
        "no teacher",
        "trained again",
        "another slate",
        "other users",
        "no better than chance",
        "an old run",
    ],
)
def test_what_is_not_comparable_is_not_compared(
    others: list[Measurement], kept: bool, absent: str | None
) -> None:
    lesson = of_student(student(), *others).lesson
    assert lesson is not None
    assert (lesson.kept is not None) == kept
    assert absent is None if lesson.absent is None else absent is not None and absent in lesson.absent


def test_the_papers_claim_follows_from_its_figures() -> None:
    assert "95% of the accuracy, 5,800 times faster" in paper_claim()


def test_how_it_was_taught_is_part_of_its_name_and_of_its_command() -> None:
    assert display_name(student()) == NAME
    assert command(student()).startswith(
        "rbserve distill --teacher text-minilm-l6 --student gdcn-emb --dataset ml-100k --teacher-variant onnx-fp32 && "
        f"rbserve profile --model {NAME} --dataset ml-100k"
    )
    record = msgspec.structs.replace(RECORD, alpha=0.25, teacher_users=500)
    config = {**config_to_dict(find_model("gdcn-emb").config), "dim": 32}
    changed = msgspec.structs.replace(student(record), config=config)
    assert display_name(changed) == f"{NAME} (dim=32, alpha=0.25, teacher-users=500)"
    folder = f"artifacts/ml-100k/{NAME}-dim-32-alpha-0.25-teacher-users-500"
    options = "--set dim=32 --teacher-variant onnx-fp32 --alpha 0.25 --teacher-users 500"
    assert f"{options} --out {folder} && " in command(changed)


def test_a_report_shows_the_student_as_a_row_of_its_group(tmp_path: Path) -> None:
    rows = [student(), teacher(), sampled("gdcn-emb", {"onnx-fp32": 0.5}, group="C", skill=0.8)]
    runs = [msgspec.json.decode(msgspec.json.encode(one), type=Measurement) for one in rows]
    (tmp_path / "runs").mkdir()
    for one in runs:
        (tmp_path / "runs" / f"{one.id}.json").write_bytes(msgspec.json.encode(one))
    folder = render(collect(tmp_path / "runs"), tmp_path / "report")
    text = (folder / "table.md").read_text()
    assert "| model | variant | slate | teacher | % of its AUC [95%] | × teacher [95%] |" in text
    assert f"| {NAME} | onnx-fp32 | 100 | text-minilm-l6 onnx-fp32 | " in text
    assert text.index("\n| gdcn-emb |") < text.index(f"\n| {NAME} |") < text.index("\n| text-minilm-l6 |")
    assert "The paper: 95% of the accuracy, 5,800 times faster" in text
    page = (folder / "report.html").read_text()
    assert "5,800 times faster" in page
    flat = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    (line,) = [one for one in flat if (one["model"], one["variant"]) == (NAME, "onnx-fp32")]
    assert line["lesson_teacher"] == "text-minilm-l6"
    assert float(line["lesson_kept_ci95_low"]) <= float(line["lesson_kept"])


def test_a_report_without_students_has_no_such_columns(tmp_path: Path) -> None:
    text = (render([teacher()], tmp_path / "report") / "table.md").read_text()
    assert "× teacher" not in text
    assert "The paper: " not in text
