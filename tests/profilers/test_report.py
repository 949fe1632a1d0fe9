"""A report of artificial measurements: seven files that agree, survive hostile names and never draw over a label.

The figures here are made up and mean nothing; only their shape is that of real runs.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from html.parser import HTMLParser
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import msgspec
import pytest
from artificial import GROUP_A, SLATES, VARIANTS, measurement, profiles, ranking, result

from rbserve.core.errors import DataError, UsageError
from rbserve.profilers.compare.sections import sections
from rbserve.profilers.report.chart_data import chart_sections
from rbserve.profilers.report.label_layout import Box
from rbserve.profilers.report.plot import chart_panel, column_panels, draw, picture
from rbserve.profilers.report.render import answers, collect, render
from rbserve.runs.measurement import Predictions
from rbserve.runs.plan import Plan
from rbserve.runs.run_file import write_measurement

FILES = {"table.md", "table.csv", "paper.csv", "pareto.png", "pareto.svg", "report.html", "report.json"}
WARNING = "int8 loses 0.0031 AUC on 1000 rows, more than 0.002"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of nine models, one of them with a warning."""
    measured = profiles()
    warned = [
        msgspec.structs.replace(one, warnings=[WARNING]) if one.variant == "onnx-int8" else one
        for one in measured[1].results
    ]
    measured[1] = msgspec.structs.replace(measured[1], results=warned)
    return render(measured, tmp_path_factory.mktemp("reports") / "nine")


def embedded(folder: Path) -> Any:
    """What the page's script reads."""
    page = (folder / "report.html").read_text()
    found = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


class Tags(HTMLParser):
    """Every start tag of a page with its attributes, and every text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.add(data)


def markdown_tables(folder: Path) -> list[list[str]]:
    """The lines of each table in table.md, its head first."""
    lines = (folder / "table.md").read_text().splitlines()
    return [list(table) for row, table in groupby(lines, key=lambda line: line.startswith("| ")) if row]


# ---- The seven files ----


def test_a_report_is_seven_files_and_nothing_half_made(folder: Path) -> None:
    assert {file.name for file in folder.iterdir()} == {*FILES, "figures"}
    names = [f"ml-100k-ctr-forward-slate-{slate}.{kind}" for slate in SLATES for kind in ("png", "svg")]
    assert sorted(file.name for file in (folder / "figures").iterdir()) == sorted(names)
    assert [one.name for one in folder.parent.iterdir()] == ["nine"]


def test_every_table_has_one_row_per_model_variant_and_slate(folder: Path) -> None:
    expected = len(GROUP_A) * len(VARIANTS) * len(SLATES)
    rows = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text())))
    keys = {(row["dataset"], row["model"], row["variant"], row["slate"]) for row in rows}
    assert len(rows) == len(keys) == expected
    summary, accuracy = markdown_tables(folder)[:2]
    assert len(summary) == expected + 2
    assert len(accuracy) == len(GROUP_A) * len(VARIANTS) + 2  # whatever the slate
    page = Tags((folder / "report.html").read_text())
    assert len([one for one in page.found if one[0] == "article"]) == len(SLATES)
    assert sum("data-point" in attributes for _, attributes in page.found) == expected


def test_the_page_carries_the_same_data_as_the_json_file(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert {
        key: value for key, value in embedded(folder).items() if key not in ("styles", "charts")
    } == report
    assert (report["schema"], report["created"]) == (1, "2001-01-01T00:00:00+00:00")
    assert len(report["sections"][0]["points"]) == 54


def test_csv_figures_are_those_of_the_json_file(folder: Path) -> None:
    points = {
        one["id"]: one for one in json.loads((folder / "report.json").read_text())["sections"][0]["points"]
    }
    for row in csv.DictReader(io.StringIO((folder / "table.csv").read_text())):
        point = points[row["id"]]
        assert float(row["p50_ms"]) == pytest.approx(point["p50_ms"], rel=1e-5)
        assert float(row["auc_ci95_high"]) == pytest.approx(point["accuracy"]["auc_ci95"][1], rel=1e-5)
        assert row["on_front"] == ("yes" if point["on_front"] else "no")


def test_a_table_that_people_read_in_table_md_has_ten_columns_at_most(folder: Path) -> None:
    tables = markdown_tables(folder)
    widths = {
        line.count(" | ") + 1 for table in tables for line in table if not table[0].count("paper's name")
    }
    assert max(widths) == 10
    for table in tables:
        assert len({line.count("|") for line in table}) == 1


def test_the_page_opens_offline_with_no_outside_resource(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert len(page) < 1_000_000
    outside = re.findall(r"https?://[^\"' ]+", page)
    assert set(outside) <= {"http://www.w3.org/2000/svg"}
    tags = Tags(page)
    assert not {tag for tag, _ in tags.found} & {"link", "img", "iframe", "object", "embed"}
    assert not any("src" in attributes for _, attributes in tags.found)
    links = [str(attributes["href"]) for _, attributes in tags.found if "href" in attributes]
    ids = {attributes.get("id") for _, attributes in tags.found}
    assert links
    assert all(link[0] == "#" and link[1:] in ids for link in links)


def test_the_same_runs_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    few = profiles(("dnn", "gdcn"))
    first, second = render(few, tmp_path / "a"), render(few[::-1], tmp_path / "b")
    figures = {f"figures/{file.name}" for file in (first / "figures").iterdir()}
    assert figures
    for name in sorted(FILES | figures):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "report.html").write_text("old")
    for package in ("matplotlib", "jinja2"):
        with monkeypatch.context() as missing, pytest.raises(UsageError, match=f"(?i)needs {package}"):
            missing.setitem(sys.modules, package, None)
            render(profiles(("dnn",)), tmp_path / "kept")
    assert [file.read_text() for file in tmp_path.rglob("*") if file.is_file()] == ["old"]


# ---- What it says ----


def test_a_warning_appears_in_every_table(folder: Path) -> None:
    assert f"⚠ pnn onnx-int8: {WARNING}" in (folder / "table.md").read_text()
    assert sum(line.startswith("| pnn ⚠ ▼ | onnx-int8 |") for line in markdown_tables(folder)[0]) == 2
    rows = csv.DictReader(io.StringIO((folder / "table.csv").read_text()))
    assert [row["model"] for row in rows if row["warnings"] == WARNING] == ["pnn", "pnn"]
    assert (folder / "report.html").read_text().count(f'data-sort="{WARNING}">{WARNING}</td>') == 2


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    name = "</script><script>alert('1')</script><img src=x onerror=\"alert(1)\">|$x$ `{{data}}` ](x)"
    warned = result("onnx-fp32", 1, 0.1, 0.7, warnings=["<i>'\"&"])
    folder = render([measurement(name, [warned], dataset="<b>&")], tmp_path / "hostile")
    page = (folder / "report.html").read_text()
    tags = [tag for tag, _ in Tags(page).found]
    assert not {*tags} & {"img", "b", "i"}
    assert tags.count("script") == 2  # the data and the page's own
    assert any(name in text for text in Tags(page).texts)
    assert "alert('1')" not in page
    assert {attributes.get("data-point") for _, attributes in Tags(page).found} >= {f"{name}/onnx-fp32/1"}
    data = embedded(folder)
    assert data["sections"][0]["points"][0]["model"] == name
    assert "".join(data["charts"]["section-1"]["1"]["plain"]["wide"]["names"][0][2]).replace(
        " ", ""
    ) == name.replace(" ", "")
    (row,) = csv.DictReader(io.StringIO((folder / "table.csv").read_text()))
    assert row["model"] == name
    assert "<img" not in (folder / "table.md").read_text().split("```")[0]


def test_an_uncertified_percentile_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    line = result("onnx-fp32", 1, 250.0, 0.7, n=40)
    latency = msgspec.structs.replace(line.latency_ms, p90=None, p99=None)
    slow = measurement("text-bert-base", [msgspec.structs.replace(line, latency_ms=latency)])
    folder = render([slow], tmp_path / "slow")
    markdown = (folder / "table.md").read_text()
    assert "p99 of text-bert-base onnx-fp32 slate 1 (40): fewer than the 662 timed calls" in markdown
    assert "| 250 [232, 265] | – | 0.7000 [0.6700, 0.7300] |" in markdown
    page = (folder / "report.html").read_text()
    assert re.search(r">275</td><td[^>]*>–</td><td[^>]*>–</td><td[^>]*>–</td><td[^>]*>1,500</td>", page)
    (row,) = csv.DictReader(io.StringIO((folder / "table.csv").read_text()))
    assert (row["p90_ms"], row["p99_ms"]) == ("", "")


def test_a_model_without_an_accuracy_is_listed_and_not_drawn(tmp_path: Path) -> None:
    blind = msgspec.structs.replace(
        result("onnx-fp32", 1, 0.1, 0.7), accuracy={"auc": None, "auc_ci95": None}
    )
    (section,) = sections([measurement("dnn", [blind])])
    assert section.points[0].on_front is None
    assert answers(section) == []
    folder = render([measurement("dnn", [blind])], tmp_path / "blind")
    assert "AUC of dnn onnx-fp32: not defined" in (folder / "table.md").read_text()


def test_the_answer_is_the_fastest_within_the_tolerance_and_owns_up_to_its_doubts() -> None:
    lines = {"dcn": (1.0, 0.705), "dnn": (0.1, 0.7003), "pnn": (0.101, 0.7005), "gdcn": (0.01, 0.69)}
    measured = [measurement(name, [result("onnx-fp32", 1, *pair)]) for name, pair in lines.items()]
    (answer,) = answers(sections(measured)[0])
    assert answer.point == "dnn/onnx-fp32/1"
    text = " ".join(answer.notes)
    assert "The best AUC is that of dcn onnx-fp32" in text
    assert "the AUC intervals overlap" in text
    assert "Its p50 interval overlaps with that of pnn onnx-fp32" in text
    assert "item_mean reaches AUC 0.7123, no less than any point here" in text
    assert "popularity" not in text


def test_a_dominated_point_names_the_point_that_beats_it_and_whether_that_is_certain() -> None:
    near, far = result("onnx-fp32", 1, 0.2, 0.69), result("torch-fp32", 1, 9.0, 0.5)
    measured = [measurement("dnn", [near, far]), measurement("gdcn", [result("onnx-int8", 1, 0.1, 0.7)])]
    points = {one.id: one for one in sections(measured)[0].points}
    assert points["gdcn/onnx-int8/1"].on_front
    for name, certain in (("dnn/onnx-fp32/1", False), ("dnn/torch-fp32/1", True)):
        assert points[name].dominated_by == "gdcn/onnx-int8/1"
        assert points[name].domination_certain is certain
    assert points["dnn/onnx-fp32/1"].speedup == pytest.approx(45.0)
    assert points["gdcn/onnx-int8/1"].speedup is None


def test_only_equal_comparability_keys_share_a_section() -> None:
    one, other = profiles(("dnn", "gdcn"))
    libraries = msgspec.structs.replace(other.environment, libraries={"onnxruntime": "2.0"})
    other = msgspec.structs.replace(other, comparability_key="other", environment=libraries)
    found = sections([one, other])
    assert [{point.model for point in section.points} for section in found] == [{"gdcn"}, {"dnn"}]
    assert "Not comparable with the section of gdcn: onnxruntime 1.0 and 2.0." in found[1].notes


def test_different_test_rows_are_flagged() -> None:
    one, other = profiles(("dnn", "gdcn"))
    other = msgspec.structs.replace(other, predictions=Predictions([1], [1], {}))
    assert any("not all scored on the same test rows" in note for note in sections([one, other])[0].notes)


# ---- Models that rank the catalogue, and scopes ----


@pytest.fixture(scope="module")
def rankings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two list-wise models."""
    runs = [ranking("sasrec-3l", 0.05), ranking("sasrec-6l", 0.04)]
    return render(runs, tmp_path_factory.mktemp("reports") / "rankings")


def test_each_scope_is_a_section_with_its_own_points_and_the_command_for_it(rankings: Path) -> None:
    report = json.loads((rankings / "report.json").read_text())
    assert [section["scope"] for section in report["sections"]] == ["forward", "end_to_end"]
    for section, p50 in zip(report["sections"], (1.0, 1.5), strict=True):
        assert [(one["model"], one["p50_ms"]) for one in section["points"]] == [
            ("sasrec-3l", p50),
            ("sasrec-6l", p50),
        ]
        assert f"--scope {section['scope']}" in section["sources"][0]["command"]
        assert any("scope forward and end_to_end" in n or "scope end_to_end and forward" in n
                   for n in section["notes"])  # fmt: skip


def test_a_ranking_is_reported_in_its_own_terms(rankings: Path) -> None:
    section = json.loads((rankings / "report.json").read_text())["sections"][0]
    assert (section["metric"], section["slate_name"], section["rows"]) == ("ndcg@10", "k", 2)
    assert section["points"][0]["p50_ms_per_candidate"] is None
    question = "Fastest within 0.005 nDCG@10 (catalogue) of the best at k 10 (2 of 2 models measured there)"
    assert section["answers"][0]["question"] == question
    markdown = (rankings / "table.md").read_text()
    assert "| k | front | P(front) | p50 ms [95%] | p99 ms | nDCG@10 (catalogue) [95%] |" in markdown
    accuracies = (
        "nDCG@10 (catalogue) [95%] | recall@10 (catalogue) [95%] | MRR@10 (catalogue) | illegal paths |"
    )
    assert f"| model | variant | {accuracies}" in markdown
    assert "| 0.0400 | 0.1250 |" in markdown
    assert "| prefill 75%, rest 25% |" in markdown
    assert "slate" not in markdown.replace("--slates", "")
    assert "AUC" not in markdown
    (row, *_) = csv.DictReader(io.StringIO((rankings / "table.csv").read_text()))
    assert (row["ndcg@10"], row["stage_prefill"], row["p50_ms_per_candidate"]) == ("0.05", "0.75", "")


def test_the_papers_rows_that_see_the_answer_are_flagged_beside_its_figures(rankings: Path) -> None:
    caution = "BERT rows (Table 5, groups I and J) are suspect"
    assert caution in (rankings / "table.md").read_text()
    assert caution in embedded(rankings)["sections"][0]["paper_cautions"][0]
    (drawn, _) = chart_sections(json.loads((rankings / "report.json").read_text()))
    for slate, cautioned in ((10, False), (None, True)):
        texts = picture([[chart_panel(drawn, slate, "wide")]]).axes[0].texts
        assert any("are suspect" in text.get_text() for text in texts) == cautioned


def test_lists_with_and_without_seen_items_do_not_share_a_section() -> None:
    left_out = Plan(5, 200, 10.0, [10], 1, "forward", 2024, exclude_seen=True)
    lines = ranking("sasrec-6l", 0.04).results[:1]
    found = sections([ranking("sasrec-3l", 0.05), ranking("sasrec-6l", 0.04, plan=left_out, results=lines)])
    (alone,) = [section for section in found if section.exclude_seen]
    assert [point.model for point in alone.points] == ["sasrec-6l"]
    assert any("seen items left out and kept" in note for note in alone.notes)
    assert alone.sources[0].command.endswith("--exclude-seen")


# ---- Where runs come from ----


def test_collect_keeps_the_newest_run_of_each_scope(tmp_path: Path) -> None:
    forward = ranking("sasrec-3l", 0.05).results[:1]
    write_measurement(tmp_path, ranking("sasrec-3l", 0.05, id="both"))
    newer = {"id": "newer", "created": "2001-01-02T00:00:00+00:00", "results": forward}
    write_measurement(tmp_path, ranking("sasrec-3l", 0.06, **newer))
    assert {(one.plan.scope, one.id) for one in collect(tmp_path)} == {
        ("forward", "newer"),
        ("end_to_end", "both"),
    }


def test_collect_keeps_the_newest_run_of_a_model_and_data_set(tmp_path: Path) -> None:
    line = [result("onnx-fp32", 1, 0.1, 0.7)]
    for day in ("01", "03", "02"):
        write_measurement(tmp_path, measurement("dnn", line, id=day, created=f"2001-01-{day}T00:00:00+00:00"))
    write_measurement(tmp_path, measurement("dnn", line, id="other", dataset="mind"))
    assert [(one.dataset, one.id) for one in collect(tmp_path)] == [("mind", "other"), ("ml-100k", "03")]


def test_no_runs_is_an_error_that_says_how_to_get_one(tmp_path: Path) -> None:
    for attempt in (lambda: collect(tmp_path), lambda: render([], tmp_path / "x")):
        with pytest.raises(DataError, match="no runs in") as caught:
            attempt()
        assert caught.value.hint == "rbserve profile --model gdcn"


def test_a_file_that_is_not_a_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match=r"broken\.json is not a run file"):
        collect(tmp_path)


# ---- The picture ----


@pytest.mark.parametrize("size", ["column", "wide"])
def test_names_are_drawn_where_the_chart_says_and_cover_neither_each_other_nor_other_words(
    folder: Path, size: str
) -> None:
    sections = chart_sections(json.loads((folder / "report.json").read_text()))
    for panel in (chart_panel(section, slate, size) for section in sections for slate in section.slates):
        drawn = picture([[panel]])
        drawn.canvas.draw()
        renderer = drawn.canvas.get_renderer()
        (axes,) = drawn.axes
        words = [text for text in axes.texts if text.get_text()]
        assert not any(a.meets(b) for a, b in combinations([extent(text, renderer) for text in words], 2))
        names = [text.get_text() for text in words if text.get_gid() == "label"]
        assert names == [line for name in panel.chart.names for line in name.lines]
        assert len(names) >= 3


def test_a_column_figure_is_legible_at_400_pixels(folder: Path) -> None:
    panels = column_panels(chart_sections(json.loads((folder / "report.json").read_text())))
    assert {Path(name).stem for name in panels} == {file.stem for file in (folder / "figures").iterdir()}
    for panel in panels.values():
        drawn = picture([[panel]])
        smallest = min(text.get_fontsize() for text in drawn.axes[0].texts)
        assert smallest / 72 * 400 / drawn.get_figwidth() > 8.5


def test_the_pictures_are_drawn_again_from_the_json_file(folder: Path, tmp_path: Path) -> None:
    draw(json.loads((folder / "report.json").read_text()), tmp_path)
    pictures = [file.relative_to(tmp_path) for file in tmp_path.rglob("*.*")]
    assert len(pictures) == 2 + 2 * len(SLATES)
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in pictures)


def extent(text: Any, renderer: Any) -> Box:
    """The rectangle of a text, y downwards."""
    left, bottom, right, top = text.get_window_extent(renderer).extents
    return Box(left, -top, right, -bottom)
