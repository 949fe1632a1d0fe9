"""The paper's tables with artificial figures beside its own: every row, and a reason where there is no figure."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from artificial import measurement, ranking, result

from rbserve.models.zoo import MODELS, find_model
from rbserve.profilers.compare.paper import PAPER_COLUMNS, printed_rows
from rbserve.profilers.report.paper_tables import (
    PaperCell,
    PaperTable,
    PaperTableRow,
    paper_tables,
    why_absent,
)
from rbserve.profilers.report.render import render
from rbserve.profilers.report.tables import speed_text


def run(model: str = "dnn", auc: float = 0.75, **changes: Any) -> Any:
    """A profile of a pair-wise model in two variants, on microlens unless told."""
    lines = [result("onnx-int8", 1, 0.1, auc - 0.002), result("torch-fp32", 1, 0.8, auc)]
    return msgspec.structs.replace(measurement(model, lines, dataset="microlens"), **changes)


def row_of(tables: list[PaperTable], model: str) -> PaperTableRow:
    """The one row of a model."""
    (found,) = [row for table in tables for row in table.rows if row.model == model]
    return found


def cell_of(tables: list[PaperTable], model: str, dataset: str) -> PaperCell:
    """The one cell of a model and data set."""
    (found,) = [cell for cell in row_of(tables, model).cells if cell.dataset == dataset]
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one run a task."""
    return render([run(), ranking("sasrec-3l", 0.05)], tmp_path_factory.mktemp("reports") / "both")


# ---- Which rows, which tables ----


def test_every_row_of_the_paper_appears_once_in_its_order_and_under_its_group() -> None:
    tables = paper_tables([run(), ranking("sasrec-3l", 0.05)])
    assert [table.table for table in tables] == ["3", "4", "5"]
    shown = [row.model for table in tables for row in table.rows]
    assert len(shown) == len(set(shown)) == 63
    assert set(shown) == {row.model for row in printed_rows()} == {spec.name for spec in MODELS}
    for table, groups in zip(tables, ("E", "ABCDEF", "GIHJ"), strict=True):
        found = "".join(row.group for row in table.rows)
        assert re.sub(r"(.)\1+", r"\1", found) == groups
        order = [row.model for row in printed_rows()]
        for group in groups:
            names = [row.model for row in table.rows if row.group == group]
            assert names == sorted(names, key=order.index)
    assert tables[2].rows[8].model == "seq-p5-opt-1b"  # of section 3.2: no figures, with its group


def test_a_table_is_there_only_when_its_task_has_a_run() -> None:
    assert [table.table for table in paper_tables([run()])] == ["3", "4"]
    assert [table.table for table in paper_tables([ranking("sasrec-3l", 0.05)])] == ["5"]


def test_a_further_data_set_stands_after_the_papers_in_the_table_that_has_a_row_of_it() -> None:
    zeroshot, trained = paper_tables([run(dataset="ml-100k")])
    assert zeroshot.datasets == [*PAPER_COLUMNS]
    assert trained.datasets == [*PAPER_COLUMNS, "ml-100k"]
    cell = cell_of([trained], "dnn", "ml-100k")
    assert cell.ours
    assert (cell.ours.accuracy, cell.paper, cell.difference) == (0.75, None, None)


def test_a_model_the_paper_does_not_have_is_left_out() -> None:
    tables = paper_tables([run("mine", dataset="shop")])
    assert [table.datasets for table in tables] == [[*PAPER_COLUMNS], [*PAPER_COLUMNS]]


def test_models_made_elsewhere_alone_have_no_table_of_the_paper_beside_them(tmp_path: Path) -> None:
    mine = msgspec.structs.replace(run("mine", dataset="shop"), adopted="onnx")
    assert paper_tables([mine]) == []
    assert [table.table for table in paper_tables([mine, run()])] == ["3", "4"]
    page = (render([mine], tmp_path / "mine") / "report.html").read_text(encoding="utf-8")
    assert 'id="paper"' not in page
    assert 'href="#paper"' not in page


def test_a_row_beyond_the_paper_stands_below_its_table_where_it_was_measured(tmp_path: Path) -> None:
    (without,) = paper_tables([ranking("sasrec-3l", 0.05)])
    assert "itemknn" not in {row.model for row in without.rows}
    beyond = ranking("itemknn", 0.06, group="X", dataset="microlens")
    runs = [ranking("sasrec-3l", 0.05, dataset="microlens"), beyond]
    (table,) = paper_tables(runs)
    assert [row.model for row in table.rows] == [*(row.model for row in without.rows), "itemknn"]
    cell = cell_of([table], "itemknn", "microlens")
    assert cell.ours
    assert (cell.ours.accuracy, cell.paper, cell.difference) == (0.06, None, None)
    assert "Beyond the paper, which has no figures of them: itemknn." in table.notes
    report = render(runs, tmp_path / "beyond")
    assert "| itemknn | X | – | " in (report / "table.md").read_text()
    assert "<span>Beyond the paper</span>" in (report / "report.html").read_text()


# ---- What fills a cell ----


def test_a_measured_cell_has_our_figure_and_the_papers_and_the_difference() -> None:
    cell = cell_of(paper_tables([run(auc=0.74996)]), "dnn", "microlens")
    assert cell.ours
    assert (cell.ours.accuracy, cell.ours.variant, cell.ours.rows) == (0.74996, "torch-fp32", 3)
    assert (cell.paper, cell.difference, cell.absent, cell.command) == (0.7421, 0.0079, None, None)


def test_the_newest_run_that_has_an_accuracy_fills_a_cell() -> None:
    newer = {"id": "newer", "created": "2001-01-02T00:00:00+00:00"}
    cell = cell_of(paper_tables([run(auc=0.76, **newer), run()]), "dnn", "microlens")
    assert cell.ours
    assert (cell.ours.accuracy, cell.ours.run) == (0.76, "newer")
    blind = [msgspec.structs.replace(one, accuracy={}) for one in run().results]
    cell = cell_of(paper_tables([run(), run(results=blind, **newer)]), "dnn", "microlens")
    assert cell.ours
    assert (cell.ours.accuracy, cell.ours.run) == (0.75, "run-dnn")


@pytest.mark.parametrize(
    ("variants", "shown"),
    [
        (("onnx-int8", "onnx-fp32", "torch-fp32"), "torch-fp32"),
        (("onnx-int8", "onnx-fp32"), "onnx-fp32"),
        (("onnx-int8", "onnx-int4"), "onnx-int8"),
    ],
)
def test_the_accuracy_is_that_of_the_reference_or_the_next_best(
    variants: tuple[str, ...], shown: str
) -> None:
    lines = [result(variant, 1, 0.1, 0.75) for variant in variants]
    tables = paper_tables([run(results=lines)])
    cell = cell_of(tables, "dnn", "microlens")
    assert cell.ours
    assert cell.ours.variant == shown
    assert f"The accuracies are of {shown}." in tables[1].notes


def test_the_latency_is_of_one_candidate_by_the_reference_and_the_fastest() -> None:
    lines = [*run().results, result("onnx-int8", 100, 0.001, 0.75)]
    row = row_of(paper_tables([run(results=lines)]), "dnn")
    assert row.speed
    assert (row.speed.reference_ms, row.speed.fastest_ms, row.speed.fastest) == (0.8, 0.1, "onnx-int8")
    assert speed_text(row) == "0.800 → 0.100 onnx-int8 (microlens)"
    assert row.paper_latency_ms == 0.43


def test_the_latency_of_a_list_is_forward_where_it_was_measured_so() -> None:
    both = ranking("sasrec-3l", 0.05)
    assert speed_text(row_of(paper_tables([both]), "sasrec-3l")) == "1.00 onnx-fp32 (ml-100k)"
    outer = msgspec.structs.replace(both, results=both.results[1:])
    assert speed_text(row_of(paper_tables([outer]), "sasrec-3l")) == "1.50 onnx-fp32 (ml-100k, end_to_end)"


# ---- Why a cell is empty ----


def test_what_was_not_run_comes_with_its_command() -> None:
    absence = why_absent(find_model("dnn"), "mind", ("hm",))
    assert absence.reason == "not measured"
    assert absence.command == "rbserve profile --model dnn --dataset mind"


def test_what_was_only_timed_is_latency_only() -> None:
    assert why_absent(find_model("dnn"), "mind", ("mind",)).reason == "latency only"
    blind = [msgspec.structs.replace(one, accuracy={"auc": None}) for one in run().results]
    cell = cell_of(paper_tables([run(results=blind)]), "dnn", "microlens")
    assert (cell.ours, cell.absent, cell.difference) == (None, "latency only", None)
    assert cell.speed
    assert cell.speed.fastest_ms == 0.1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("text-llama-3-8b", "needs hub weights meta-llama/Meta-Llama-3-8B"),
        ("zeroshot-p5-beauty", "needs the OpenP5 checkpoint of t5-base for Beauty"),
        ("zeroshot-gpt-3.5", "needs an OpenAI-compatible endpoint"),
    ],
)
def test_weights_of_a_hub_are_named_unless_the_row_was_run_elsewhere(name: str, reason: str) -> None:
    spec = find_model(name)
    assert why_absent(spec, "mind", ()).reason == reason
    assert why_absent(spec, "mind", ("hm",)).reason == "not measured"
    assert why_absent(find_model("dnn-emb"), "mind", ()).reason == "not measured"  # its model needs no hub


# ---- What is said beside it ----


def test_the_notes_own_up_to_what_differs() -> None:
    seen = msgspec.structs.replace(ranking("sasrec-6l", 0.05).plan, exclude_seen=True)
    other = run("pnn", dataset_fingerprint="e" * 64)
    _, trained, ranked = paper_tables([run(), other, ranking("sasrec-6l", 0.05, plan=seen)])
    notes = " ".join(trained.notes)
    assert "2 of 135 cells are measured" in notes
    assert "microlens: 3 test rows, where the paper has 20,000" in notes
    assert "microlens: these runs saw different versions of the data" in notes
    assert "another machine: not comparable" in notes
    assert "Measured on Artificial CPU, 1 thread." in notes
    assert "suspect" not in notes
    assert "Lists without what the user has seen: sasrec-6l on ml-100k." in ranked.notes
    assert any("BERT rows (Table 5, groups I and J) are suspect" in note for note in ranked.notes)


# ---- In the files ----


def test_markdown_has_every_row_with_its_cells_and_reasons(folder: Path) -> None:
    _, *parts = (folder / "table.md").read_text().split("## Table ")
    rows = [[line for line in part.splitlines() if line.startswith("| ")][2:] for part in parts]
    assert [len(lines) for lines in rows] == [17, 27, 19]
    (dnn,) = [line for line in rows[1] if line.startswith("| dnn |")]
    assert "| 0.7500 (paper 0.7421, +0.0079) | absent: not measured (paper 0.5831) |" in dnn
    assert "| 0.800 → 0.100 onnx-int8 (microlens) | 0.430 |" in dnn
    assert all(line.count("absent: ") == 5 for line in rows[0])
    (bare,) = [line for line in rows[2] if line.startswith("| seq-p5-opt-1b |")]
    reason = why_absent(find_model("seq-p5-opt-1b"), "mind", ()).reason
    assert bare == "| seq-p5-opt-1b | I | P5-OPT_1B |" + f" absent: {reason} |" * 6 + " – | – |"


def test_the_csv_has_a_line_for_every_cell(folder: Path) -> None:
    lines = list(csv.DictReader(io.StringIO((folder / "paper.csv").read_text())))
    assert len({(line["model"], line["dataset"]) for line in lines}) == len(lines) == 17 * 5 + 27 * 5 + 19 * 6
    assert all(bool(line["accuracy"]) != bool(line["absent"]) for line in lines)
    (dnn,) = [line for line in lines if (line["model"], line["dataset"]) == ("dnn", "microlens")]
    assert (dnn["accuracy"], dnn["paper_accuracy"], dnn["difference"]) == ("0.75", "0.7421", "0.0079")
    assert (dnn["reference_ms"], dnn["fastest"], dnn["paper_latency_ms"]) == ("0.8", "onnx-int8", "0.43")


def test_the_page_has_every_row_with_its_cells_and_reasons(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    _, beside = page.split('<section class="beside" id="paper">')
    beside, _ = beside.split("</section>")
    assert len(re.findall(r'<th scope="row">', beside)) == 63
    assert beside.count('scope="rowgroup"') == 1 + 6 + 4
    assert '">0.7500<small>paper 0.7421, +0.0079</small></td>' in beside
    assert (
        'title="rbserve profile --model pnn --dataset mind">absent: not measured<small>paper 0.6581' in beside
    )
    reason = why_absent(find_model("zeroshot-gpt-3.5"), "mind", ()).reason
    assert f'class="gone">absent: {reason}<small>paper 0.5057</small>' in beside
    assert len(page) < 1_000_000
    assert beside.count("data-cell=") == 17 * 6 + 27 * 6 + 19 * 7  # a cell a data set, and the latency


def test_the_json_file_has_the_same_tables(folder: Path) -> None:
    tables = json.loads((folder / "report.json").read_text())["paper_tables"]
    assert msgspec.convert(tables, list[PaperTable]) == paper_tables([run(), ranking("sasrec-3l", 0.05)])
    page = html.unescape((folder / "report.html").read_text())
    for note in (note for table in tables for note in table["notes"]):
        assert f"<li>{note}</li>" in page


def test_a_report_of_runs_without_an_accuracy_still_has_its_tables(tmp_path: Path) -> None:
    blind = [msgspec.structs.replace(one, accuracy={}) for one in run().results]
    folder = render([run(results=blind)], tmp_path / "blind")
    assert "| absent: latency only (paper 0.7421) |" in (folder / "table.md").read_text()
