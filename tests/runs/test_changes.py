"""A run of a changed config is never taken for its row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from artificial import measurement, result

from rbserve.models.configs import config_to_dict
from rbserve.models.zoo import find_model
from rbserve.profilers.compare.sections import sections
from rbserve.profilers.report.paper_tables import PaperCell, paper_tables
from rbserve.profilers.report.render import collect, render
from rbserve.profilers.report.tables import ours_text
from rbserve.runs.changes import changed, display_name
from rbserve.runs.measurement import Measurement
from rbserve.runs.run_file import read_measurement, write_measurement


def run(auc: float = 0.75, day: int = 1, model: str = "dnn-emb", **options: Any) -> Measurement:
    """A profile on microlens of a row with some options changed, as its file has it."""
    config = {**config_to_dict(find_model(model).config), **options}
    made = measurement(
        model, [result("onnx-fp32", 1, 0.1, auc)], dataset="microlens", config=config, group="C",
        id=f"{model}-{day}", created=f"2001-01-{day:02}T00:00:00+00:00",
    )  # fmt: skip
    return msgspec.json.decode(msgspec.json.encode(made), type=Measurement)


def cell(runs: list[Measurement]) -> PaperCell:
    (found,) = [
        one
        for table in paper_tables(runs)
        for row in table.rows
        for one in row.cells
        if (row.model, one.dataset) == ("dnn-emb", "microlens")
    ]
    return found


def test_only_what_differs_from_the_row_is_a_change() -> None:
    assert changed(run()) == {}
    assert changed(run(vectors="tuned", hidden=[32, 16])) == {"hidden": "32,16", "vectors": "tuned"}
    assert display_name(run(vectors="tuned")) == "dnn-emb (vectors=tuned)"


def test_a_file_without_a_config_and_a_model_of_no_row_have_no_changes(tmp_path: Path) -> None:
    old = msgspec.to_builtins(run(vectors="tuned"))
    del old["config"]
    path = tmp_path / "old.json"
    path.write_bytes(msgspec.json.encode(old))
    assert changed(read_measurement(path)) == {}
    assert changed(msgspec.structs.replace(run(vectors="tuned"), model="mine")) == {}


def test_where_an_endpoint_is_is_no_change() -> None:
    assert changed(run(model="zeroshot-gpt-3.5", api_base="http://localhost", top_logprobs=0)) == {
        "top_logprobs": "0"
    }


def test_a_newer_run_of_a_changed_config_does_not_replace_the_rows(tmp_path: Path) -> None:
    for one in (run(0.75, 1), run(0.80, 2, vectors="tuned"), run(0.76, 3)):
        write_measurement(tmp_path, one)
    kept = collect(tmp_path)
    assert [display_name(one) for one in kept] == ["dnn-emb", "dnn-emb (vectors=tuned)"]
    (section,) = sections(kept)
    assert [(one.id, one.value("auc")) for one in section.points] == [
        ("dnn-emb/onnx-fp32/1", 0.76),
        ("dnn-emb (vectors=tuned)/onnx-fp32/1", 0.80),
    ]
    command = section.sources[1].command
    assert command.startswith(
        "rbserve train --model dnn-emb --dataset microlens --set vectors=tuned --out "
        "artifacts/microlens/dnn-emb-vectors-tuned && "
        "rbserve profile --model artifacts/microlens/dnn-emb-vectors-tuned "
    )


def test_the_papers_cell_is_the_rows_and_shows_the_change_beside_it() -> None:
    found = cell([run(0.75, 1), run(0.80, 2, vectors="tuned")])
    assert found.ours
    assert (found.ours.accuracy, found.ours.marks) == (0.75, [])
    assert [(one.accuracy, one.marks) for one in found.also] == [(0.80, ["changed: vectors=tuned"])]


def test_a_cell_of_nothing_but_a_change_is_marked() -> None:
    found = cell([run(0.80, 2, vectors="tuned")])
    assert ours_text(found) == "0.8000, changed: vectors=tuned"
    (table,) = [one for one in paper_tables([run(0.80, 2, vectors="tuned")]) if one.table == "4"]
    assert "Not the row as it is: dnn-emb on microlens (changed: vectors=tuned)." in table.notes
    assert not any("do not say their config" in note for note in table.notes)
    old = msgspec.structs.replace(run(), config={})
    (table,) = [one for one in paper_tables([old]) if one.table == "4"]
    assert any(note.startswith("1 of these runs do not say their config") for note in table.notes)


@pytest.mark.parametrize("file", ["table.md", "table.csv", "paper.csv", "report.html", "report.json"])
def test_every_file_of_a_report_says_what_was_changed(tmp_path: Path, file: str) -> None:
    folder = render([run(0.80, vectors="tuned")], tmp_path / "report")
    assert "vectors=tuned" in (folder / file).read_text()


def test_a_run_of_all_test_users_stands_before_a_newer_one_of_some() -> None:
    some = run(0.9, 5)
    some = msgspec.structs.replace(some, plan=msgspec.structs.replace(some.plan, test_users=2))
    found = cell([some, run(0.75, 1)])
    assert found.ours
    assert found.ours.accuracy == 0.75
    alone = cell([some])
    assert ours_text(alone) == "0.9000, 2 test users"
