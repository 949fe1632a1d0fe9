"""The tables of figures and of metrics: what is added to one of them is stored and shown everywhere.

The figures here are made up and mean nothing; only their shape is that of real runs.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
from artificial import measurement, result, sampled
from numpy.typing import NDArray
from rich.console import Console

from rbserve.cli.profile_table import results_table
from rbserve.profilers.compare.figures import FIGURES, PLACES, Figure, point_record
from rbserve.profilers.compare.points import points_of
from rbserve.profilers.compare.uncertainty import Evidence
from rbserve.profilers.compare.wording import significant
from rbserve.profilers.report.render import collect, render
from rbserve.runs.measurement import Measurement
from rbserve.runs.run_file import read_measurement, write_measurement
from rbserve.runs.schema import run_schema
from rbserve.stats.bootstrap import RESAMPLES, draws_interval, mean_draws
from rbserve.stats.metrics import CTR_METRICS, Metric

REPORT = ("table.md", "table.csv", "report.html", "report.json")


def reported(run: Measurement, folder: Path) -> dict[str, str]:
    """The text of each file of a report on a run, and of the console's table of it."""
    (folder / "runs").mkdir()
    write_measurement(folder / "runs", run)
    made = render(collect(folder / "runs"), folder / "report")
    console = Console(width=400, file=io.StringIO())
    console.print(results_table(run))
    texts = {name: (made / name).read_text() for name in REPORT}
    return {**texts, "console": console.file.getvalue()}  # type: ignore[attr-defined]


# ---- A metric is one row of stats/metrics.py ----


def hits(labels: NDArray[Any], scores: NDArray[Any], users: NDArray[Any]) -> NDArray[np.float64]:
    """1.0 for each user [U] whose best-scored row is a positive."""
    names = np.unique(users)
    best = [np.flatnonzero(users == name)[np.argmax(scores[users == name])] for name in names]
    return labels[best].astype(np.float64)


HIT = Metric(
    "hit@1 (user's candidates)",
    lambda labels, scores, users: float(hits(labels, scores, users).mean()),
    draws=lambda labels, scores, users, resamples, seed: mean_draws(
        hits(labels, scores, users), resamples, seed
    ),
    in_tables=True,
)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Measurement:
    """A run of two variants, made when the table of metrics had one more row."""
    monkeypatch.setitem(CTR_METRICS, "hit@1", HIT)
    return sampled("dnn", {"onnx-fp32": 1.0, "onnx-int8": 0.5})


def test_a_metric_of_one_row_is_stored_for_every_variant_with_its_interval(
    run: Measurement, tmp_path: Path
) -> None:
    stored = json.loads(write_measurement(tmp_path, run).read_bytes())
    for variant in stored["results"]:
        rows = run.predictions.judged_rows(variant["variant"])
        assert variant["accuracy"]["hit@1"] == hits(*rows).mean()
        low, high = variant["accuracy"]["hit@1_ci95"]
        assert (low, high) == draws_interval(mean_draws(hits(*rows)))
        assert low < hits(*rows).mean() < high
    again = read_measurement(tmp_path / f"{run.id}.json")
    assert again.results[0].accuracy["hit@1"] == run.results[0].accuracy["hit@1"]


def test_a_metric_of_one_row_has_draws_on_the_same_users_as_every_other(run: Measurement) -> None:
    evidence = Evidence()
    draws = evidence.accuracy(run, "onnx-int8", "hit@1")
    assert draws is not None
    assert draws.shape == (RESAMPLES,)
    values = hits(*run.predictions.judged_rows("onnx-int8"))
    assert np.isclose(draws.mean(), values.mean(), atol=3 * values.std() / np.sqrt(len(values)))


def test_a_metric_of_one_row_is_in_every_table(run: Measurement, tmp_path: Path) -> None:
    texts = reported(run, tmp_path)
    value = f"{run.results[0].accuracy['hit@1']:.4f}"
    low, high = draws_interval(mean_draws(hits(*run.predictions.judged_rows("onnx-fp32"))))
    for name in ("table.md", "report.html"):
        assert "hit@1 (user's candidates) [95%]" in html.unescape(texts[name]), name
        assert f"{value} [{low:.4f}, {high:.4f}]" in texts[name], name
    assert value in texts["console"]
    assert re.search(r"hit@1\b", texts["console"])
    for row in csv.DictReader(io.StringIO(texts["table.csv"])):
        assert float(row["hit@1"]) == pytest.approx(float(value), abs=1e-4)
        assert float(row["hit@1_ci95_low"]) == pytest.approx(low, rel=1e-5)
    section = json.loads(texts["report.json"])["sections"][0]
    assert section["metric_titles"]["hit@1"] == "hit@1 (user's candidates)"
    assert section["points"][0]["accuracy"]["hit@1_ci95"] == [low, high]


def test_a_metric_of_one_row_is_in_the_schema_of_run_files(run: Measurement, tmp_path: Path) -> None:
    schema = json.loads(run_schema())
    stored = json.loads(write_measurement(tmp_path, run).read_bytes())
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(stored)
    assert (
        schema["$defs"]["Result"]["properties"]["accuracy"]["properties"]["hit@1"]["description"] == HIT.title
    )
    stored["results"][0]["accuracy"]["hit@1_ci95"] = [0.1, 0.2, 0.3]
    with pytest.raises(jsonschema.ValidationError, match="too long"):
        validator.validate(stored)


def test_a_lower_metric_without_draws_has_no_interval(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    miss = Metric("miss@1", lambda *rows: 1 - float(hits(*rows).mean()), better="lower", in_tables=True)
    monkeypatch.setitem(CTR_METRICS, "miss@1", miss)
    run = sampled("dnn", {"onnx-fp32": 1.0})
    assert "miss@1_ci95" not in run.results[0].accuracy
    assert Evidence().accuracy(run, "onnx-fp32", "miss@1") is None
    assert "| miss@1 |" in reported(run, tmp_path)["table.md"]


# ---- A figure is one row of figures.py, and where its value is stored ----


@pytest.fixture
def bound() -> Any:
    """A figure that run files have and nothing shows: the bound of p99 (`runs/measurement.py: Latency`)."""
    figure = Figure(
        "p99_bound_ms", "p99 below", "ms", lambda point: point.result.latency_ms.p99_bound, significant,
        "profile page summary tip target", note="p99 below: the true p99 of a {size} is, with 99% confidence.",
    )  # fmt: skip
    FIGURES.append(figure)
    yield figure
    FIGURES.remove(figure)


def test_a_figure_of_one_row_is_in_every_table_and_on_the_page(bound: Figure, tmp_path: Path) -> None:
    run = sampled("dnn", {"onnx-fp32": 1.0})
    value = run.results[0].latency_ms.p99_bound
    assert value is not None
    texts = reported(run, tmp_path)
    for name in ("table.md", "report.html"):
        assert "p99 below ms" in texts[name], name
        assert significant(value) in texts[name], name
        assert "the true p99 of a slate is" in texts[name], name
    assert re.search(r"p99\s+below|below", texts["console"])
    assert significant(value) in texts["console"]
    (row,) = csv.DictReader(io.StringIO(texts["table.csv"]))
    assert float(row[bound.key]) == pytest.approx(value, rel=1e-5)
    report = json.loads(texts["report.json"])
    (point,) = report["sections"][0]["points"]
    assert point[bound.key] == value
    assert ["p99 below ms", significant(value)] in point["facts"]
    assert [bound.key, "p99 below"] in report["figures"]["target"]


def test_every_place_of_a_figure_is_a_known_one_and_every_place_has_figures() -> None:
    shown = {place for figure in FIGURES for place in figure.shown.split()}
    assert shown == {*PLACES}
    assert len({figure.key for figure in FIGURES}) == len(FIGURES)
    assert all(figure.title for figure in FIGURES if figure.shown)


# The chart is drawn by these; the others are words that the script says of something else as well.
DRAWN = {"name", "variant", "slate", "p50_ms", "on_front", "front_probability", "aside", "warnings"}
WORDS = {"runs", "processes", "scope", "group"}


def test_the_pages_script_has_no_list_of_figures() -> None:
    script = (Path(render.__code__.co_filename).parent / "page.js").read_text()
    shown = {figure.key for figure in FIGURES if figure.shown} - DRAWN - WORDS
    assert len(shown) > 20
    assert [key for key in shown if re.search(rf"\b{key}\b", script)] == []


def test_a_point_says_what_it_is_before_anything_is_compared_with_it() -> None:
    lines = [
        result("torch-fp32", 1, 2.0, 0.7),
        result("onnx-fp32", 1, 0.5, 0.7, inconclusive=["load by others"]),
    ]
    reference, point = points_of(measurement("dnn", lines))
    assert (reference.speedup, point.speedup) == (1.0, 4.0)
    assert (point.id, point.label) == ("dnn/onnx-fp32/1", "dnn onnx-fp32")
    assert point.warnings == ["INCONCLUSIVE: load by others"]
    record = point_record(point)
    assert (record["run"], record["on_front"], record["warm_p50_ms"]) == ("run-dnn", None, None)
    assert record["p50_ci95_ms"] == (0.465, 0.53)
    msgspec.json.encode(record)
