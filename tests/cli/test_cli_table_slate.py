"""`--slates table` through the real command line: profiled, reported, recommended, gated, refused for other models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adopted import write_graph
from entry_point import rbserve, run_here

SIZES = [1, 2, 3, 5, 8, 13, 21, 34, 55]
TABLE = (
    "--requests",
    "clicks.parquet",
    "--group",
    "query",
    "--label",
    "click",
    "--map",
    "features=likes,age",
)
SHORT = ("--processes", "2", "--runs", "9", "--no-cost")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the logistic graph was adopted with a table of requests of SIZES, and profiled."""
    home = tmp_path_factory.mktemp("home")
    write_graph(home / "logistic.onnx")
    rng = np.random.default_rng(11)
    query = np.repeat(np.arange(len(SIZES)), SIZES)
    likes, age = rng.normal(size=(2, query.size)).astype(np.float32)
    columns = {"query": query, "likes": likes, "age": age, "click": np.arange(query.size) % 2}
    pq.write_table(pa.table(columns), home / "clicks.parquet")
    rbserve("adopt", "logistic.onnx", *TABLE, home=home)
    return home


@pytest.fixture(scope="module")
def printed(home: Path) -> str:
    """What a profile with the usual slates prints."""
    return rbserve("profile", "--model", "logistic", "--variants", "onnx-fp32", *SHORT, home=home).stdout


def test_a_profile_times_the_tables_own_requests_first_and_tells_their_sizes(printed: str) -> None:
    assert "1 / 8 / 55" in printed
    assert "slate table: the table's own requests, of 1 to 55 candidates, median 8; p95" in printed


def test_the_run_its_report_and_a_recommendation_have_it_as_a_slate(printed: str, home: Path) -> None:
    assert printed
    (path,) = (home / "runs").glob("*.json")
    run = json.loads(path.read_text())
    assert run["plan"]["slates"] == ["table", 1, 100]
    assert run["results"][0]["slate_sizes"] == {"min": 1, "median": 8.0, "max": 55}
    folder = Path(json.loads(rbserve("report", "--json", home=home).stdout)["folder"])
    (section,) = json.loads((folder / "report.json").read_text())["sections"]
    assert section["slates"] == ["table", 1, 100]
    assert "onnx-fp32 | table |" in (folder / "table.md").read_text()
    assert (folder / "figures" / "clicks-ctr-forward-slate-table.png").exists()
    words = ("recommend", "--slo", "mean<10s", "--slate", "table", "--json")
    answer = json.loads(rbserve(*words, home=home).stdout)
    assert (answer["slate"], answer["pick"]["model"]) == ("table", "logistic")


@pytest.mark.alone
def test_the_gate_compares_it_like_any_other_slate(home: Path) -> None:
    sides = ("--base", "logistic.onnx", "--head", "logistic.onnx")
    words = ("check", *sides, *TABLE, "--metrics", "p50", "--budget", "40")
    suite = json.loads(rbserve(*words, "--json", home=home, check=None).stdout)
    assert {line["slate"] for line in suite["lines"]} == {"table", 1, 100}
    assert all(line["rounds"] > 0 for line in suite["lines"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("profile", "--model", "dnn", "--slates", "table"),
            "dnn is measured on the rows of a data set, which has no requests as they come",
        ),
        (("bench", "--models", "dnn", "--slates", "table,1", "--dry-run"), "dnn is measured on the rows of a data set"),
        (("profile", "--model", "logistic", "--slates", "tables"), "slates must be whole numbers, not tables"),
        (("load", "--url", "http://x", "--rate", "1", "--slate", "table"), "slate must be whole numbers, not table"),
        (("recommend", "--slo", "p99<20ms", "--slate", "table,1"), "--slate takes one here, not table, 1"),
    ],
)  # fmt: skip
def test_where_there_are_no_requests_as_they_come_one_line_says_so(
    words: tuple[str, ...],
    message: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RBSERVE_HOME", str(home))
    before = sorted(home.rglob("*"))
    assert run_here(monkeypatch, *words) == 2
    error, _hint = capsys.readouterr().err.strip().splitlines()
    assert message in error
    assert sorted(home.rglob("*")) == before
