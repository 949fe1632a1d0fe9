"""Judgings side by side: which data sets share a table, ranks, swapped pairs, and the view in Markdown, JSON and page.

The figures are made up and mean nothing.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from artificial import measurement, ranking, result, sampled
from small_dataset import build

from rbserve.data.dataset import Dataset, ItemTable
from rbserve.data.judging import Judging, judging_of
from rbserve.profilers.compare.judgings import JudgingTable, judging_tables
from rbserve.profilers.compare.overall import overalls
from rbserve.profilers.compare.sections import sections
from rbserve.profilers.compare.uncertainty import Evidence
from rbserve.profilers.report.judging_tables import judging_cells, judging_heads, judging_notes
from rbserve.profilers.report.render import render, with_sketch
from rbserve.runs.measurement import Measurement
from rbserve.train.protocol.options import Protocol
from rbserve.train.protocol.sampling import Interactions

SIZES = {"users": 943, "interactions": 72_855}
PAPER = Judging("ml-100k", sizes=SIZES)
TIME = Judging("ml-100k", split="time", sizes=SIZES)
POPULAR = Judging("ml-100k", negatives=2, negatives_by="popularity", sizes=SIZES)
JUDGINGS = {"ml-100k-popular": POPULAR, "ml-100k-time": TIME, "ml-100k": PAPER}
AUC = {
    "ml-100k": {"dnn": 0.74, "gdcn": 0.76, "dcnv2": 0.75},
    "ml-100k-time": {"dnn": 0.73, "gdcn": 0.70, "dcnv2": 0.72},
    "ml-100k-popular": {"dnn": 0.60, "gdcn": 0.61},
}


def _run(model: str, dataset: str, **changes: Any) -> Measurement:
    facts = {
        "dataset": dataset, "dataset_fingerprint": dataset, "comparability_key": dataset, "id": f"{model}-{dataset}",
        "judging": JUDGINGS[dataset], "baselines": {"popularity": {"auc": 0.71}},
    }  # fmt: skip
    variants = (("onnx-int8", 0.5), ("torch-fp32", AUC[dataset][model]))
    lines = [result(variant, 1, 1.0, auc) for variant, auc in variants]
    return measurement(model, lines, **{**facts, **changes})


def _runs(**changes: Any) -> list[Measurement]:
    return [_run(model, dataset, **changes) for dataset in JUDGINGS for model in AUC[dataset]]


@pytest.fixture
def table() -> JudgingTable:
    (only,) = judging_tables(sections(_runs()))
    return only


def test_the_data_sets_of_a_source_stand_side_by_side_with_the_papers_judging_first(
    table: JudgingTable,
) -> None:
    assert (table.source, table.task, table.metric) == ("ml-100k", "ctr", "auc")
    assert table.datasets == ["ml-100k", "ml-100k-popular", "ml-100k-time"]
    assert table.judgings == [
        "split by users, own dislikes", "split by users, 2 popular negatives", "split by time, own dislikes",
    ]  # fmt: skip


def test_a_figure_is_that_of_full_precision_and_ranks_count_what_every_column_has(
    table: JudgingTable,
) -> None:
    figures = {
        model.name: [figure and (figure.accuracy, figure.rank) for figure in model.figures]
        for model in table.models
    }
    assert figures == {
        "gdcn": [(0.76, 1), (0.61, 2), (0.70, 3)],
        "dcnv2": [(0.75, None), None, (0.72, None)],
        "dnn": [(0.74, 2), (0.60, 3), (0.73, 1)],
        "popularity": [(0.71, 3), (0.71, 1), (0.71, 2)],
    }
    assert [model.name for model in table.models if model.is_baseline] == ["popularity"]


def test_pairs_in_another_order_are_counted_by_hand(table: JudgingTable) -> None:
    assert table.pairs == 3
    assert table.swapped == [0, 2, 2]  # popularity rises above both; dnn and popularity rise above gdcn


@pytest.mark.parametrize(
    "changes",
    [
        {"judging": None},  # runs that do not say it, of data that are gone
        {"judging": PAPER},  # three data sets with one judging
    ],
)
def test_without_two_judgings_there_is_no_table(changes: dict[str, Any]) -> None:
    assert judging_tables(sections(_runs(**changes))) == []


def test_data_sets_of_other_events_or_another_task_share_no_table() -> None:
    other = msgspec.structs.replace(TIME, sizes={**SIZES, "users": 3})
    runs = [_run("dnn", "ml-100k"), _run("dnn", "ml-100k-time", judging=other)]
    lists = ranking("sasrec-3l", 0.1, dataset="ml-100k-time", dataset_fingerprint="t", judging=TIME)
    assert judging_tables(sections([*runs, lists])) == []


def test_overall_means_are_of_one_judging() -> None:
    runs = [
        sampled("dnn", {"onnx-fp32": 1.0}, dataset=name, dataset_fingerprint=name, comparability_key=name,
                id=name, judging=judging)
        for name, judging in (("a", PAPER), ("b", Judging("hm")), ("c", TIME), ("d", None))
    ]  # fmt: skip
    (overall,) = overalls(sections(runs), Evidence())
    assert overall.datasets == ["a", "b", "d"]


def test_markdown_json_and_page_show_the_table(table: JudgingTable, tmp_path: Path) -> None:
    folder = render(_runs(), tmp_path / "report")
    assert json.loads((folder / "report.json").read_text())["judgings"] == [
        json.loads(msgspec.json.encode(table))
    ]
    markdown, page = ((folder / name).read_text() for name in ("table.md", "report.html"))
    for head in judging_heads(table):
        assert head in markdown
        assert f'<th scope="col">{head}</th>' in page
    for model in table.models:
        assert f"| {' | '.join(judging_cells(model))} |" in markdown
        assert all(cell in page for cell in judging_cells(model))
    assert "0.7300 [0.7000, 0.7600] #1" in markdown
    notes = list(judging_notes(table))
    assert notes[-1] == "ml-100k-time orders 2 of 3 pairs differently from ml-100k."
    assert all(note in page for note in notes)
    assert 'href="#judgings"' in page


def test_a_csv_has_a_row_for_each_model_and_judging(table: JudgingTable, tmp_path: Path) -> None:
    folder = render(_runs(), tmp_path / "report")
    rows = list(csv.DictReader((folder / "judgings.csv").read_text().splitlines()))
    assert len(rows) == len(table.models) * len(table.datasets)
    for model in table.models:
        own = [row for row in rows if row["model"] == model.name]
        assert [row["judging"] for row in own] == table.judgings
        assert {row["baseline"] for row in own} == {"yes" if model.is_baseline else "no"}
        for row, figure in zip(own, model.figures, strict=True):
            accuracy, rank = (figure.accuracy, figure.rank) if figure else ("", "")
            assert (row["accuracy"], row["rank"]) == (
                f"{accuracy:.6g}" if figure else "", "" if rank is None else str(rank)
            )  # fmt: skip


def test_a_report_without_other_judgings_has_no_such_part(tmp_path: Path) -> None:
    folder = render([_run("dnn", "ml-100k")], tmp_path / "report")
    assert json.loads((folder / "report.json").read_text())["judgings"] == []
    assert "under each judging" not in (folder / "table.md").read_text()
    assert 'id="judgings"' not in (folder / "report.html").read_text()
    assert not (folder / "judgings.csv").exists()


@pytest.fixture(scope="module")
def by_time(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    random = np.random.default_rng(0)
    users, items, times = (random.integers(most, size=900) for most in (30, 40, 400))
    labels = random.integers(2, size=900)
    events = Interactions(users.astype(np.int32), items.astype(np.int32), labels.astype(np.int8), times)
    table = ItemTable([f"i{item}" for item in range(40)], ["tea"] * 40)
    return build(tmp_path_factory.mktemp("data") / "tea-time", "tea", events, table, Protocol(split="time"))


def test_a_run_without_judging_takes_that_of_its_data_while_they_are_there(by_time: Dataset) -> None:
    run = _run("dnn", "ml-100k", judging=None, dataset_fingerprint=by_time.fingerprint)
    judging = by_time.judging
    assert (judging.source, judging.split, judging.suffix) == ("tea", "time", "-time")
    assert judging.sizes == by_time.manifest.counts["source"]
    assert with_sketch(run, by_time.path).judging == judging
    other = msgspec.structs.replace(run, dataset_fingerprint="other")
    assert with_sketch(other, by_time.path).judging is None


def test_a_manifest_of_an_earlier_version_has_the_papers_judging() -> None:
    assert judging_of("hm", {"negatives": 2, "history": 20}) == Judging("hm", negatives=2)
    assert judging_of("hm", {"negatives": 2}).title == "split by users, 2 random negatives"
    both = judging_of("hm", {"split": "time", "negatives": 3, "negatives_by": "popularity"})
    assert (both.suffix, both.title) == ("-time-popular", "split by time, 3 popular negatives")
