"""A model that was made elsewhere, through the real command line: adopted, measured, reported, recommended."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from adopted import expected_scores, write_graph
from entry_point import rbserve
from sklearn.metrics import roc_auc_score

from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset

QUERIES, EACH = 60, 4
SHORT = ["--processes", "2", "--runs", "10", "--slates", "1,8", "--no-cost"]


def write_clicks(folder: Path, shift: float = 0.0) -> pa.Table:
    """clicks.parquet: 60 queries of 30 users with 4 candidates each, in the layout with a row a candidate."""
    rng = np.random.default_rng(11)
    rows = QUERIES * EACH
    likes = rng.normal(size=rows) + shift
    age = np.repeat(rng.normal(size=QUERIES), EACH)
    chance = expected_scores(likes.astype(np.float32), age.astype(np.float32))
    table = pa.table(
        {
            "query": np.repeat(np.arange(QUERIES), EACH),
            "user": np.repeat(np.arange(QUERIES) % 30, EACH),
            "likes": likes,
            "age": age,
            "click": (rng.random(rows) < chance).astype(np.int64),
        }
    )
    pq.write_table(table, folder / "clicks.parquet")
    return table


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home beside the graph logistic.onnx and the table clicks.parquet, which were adopted in it."""
    home = tmp_path_factory.mktemp("home")
    write_graph(home / "logistic.onnx")
    write_clicks(home)
    adopt(home)
    return home


def adopt(home: Path, *words: str, model: str = "logistic.onnx", check: int = 0) -> str:
    """Adopts the graph with the table and returns what is printed, or the messages of an error."""
    table = ["--requests", "clicks.parquet", "--group", "query", "--label", "click", "--user", "user"]
    done = rbserve("adopt", model, *table, *words, home=home, check=check)
    return done.stderr if check else done.stdout


def files(home: Path) -> list[str]:
    """Everything below the data and the artefacts of a home."""
    found = [*home.glob("data/**/*"), *home.glob("artifacts/**/*")]
    return sorted(str(path.relative_to(home)) for path in found)


def test_adopting_says_what_fills_the_inputs_and_what_was_guessed(home: Path) -> None:
    printed = adopt(home, "--name", "again")
    assert "60 requests of 4 candidates, labels 0 and 1" in printed
    assert "likes, age" in printed
    assert "in the table's order" in printed
    assert [path.name for path in (home / "data").iterdir()] == ["clicks"]
    document = json.loads(adopt(home, "--name", "again", "--map", "features=likes,age", "--json"))
    (tensor,) = document["adopted"]["signature"]["inputs"]
    assert (tensor["columns"], tensor["dims"]) == (["likes", "age"], ["N", 2])
    shutil.rmtree(home / "artifacts" / "clicks" / "again")


def test_adopted_models_are_listed_in_a_section_of_their_own_and_hinted_at(home: Path) -> None:
    printed = rbserve("models", home=home).stdout.split("Adopted here:")[1].splitlines()
    assert [line.split() for line in printed if line.strip()][1] == [
        "logistic",
        "X",
        "ctr",
        "onnx",
        "clicks",
        "onnx-fp32",
    ]
    rows = json.loads(rbserve("models", "--json", home=home).stdout)
    (row,) = [row for row in rows if "adopted" in row]
    assert (row["name"], row["adopted"], row["dataset"], row["variants"]) == (
        "logistic",
        "onnx",
        "clicks",
        ["onnx-fp32"],
    )
    assert "logistic" not in rbserve("models", "--group", "A", home=home).stdout
    assert (
        "hint: did you mean logistic?" in rbserve("profile", "--model", "logistik", home=home, check=2).stderr
    )


def test_a_profile_finds_it_by_name_and_judges_all_its_rows(home: Path) -> None:
    words = ["profile", "--model", "logistic", "--variants", "onnx-fp32", "--scope", "both", *SHORT, "--json"]
    (home / "click_metrics.py").write_text(
        "def mean(labels, scores, users):\n    return scores[labels == 1].mean()\n"
    )
    run = json.loads(rbserve(*words, "--metric", "click_metrics:mean", home=home).stdout)
    table = pq.read_table(home / "clicks.parquet")
    likes, age, click = (table[name].to_numpy() for name in ("likes", "age", "click"))
    expected = roc_auc_score(click, expected_scores(likes.astype(np.float32), age.astype(np.float32)))
    assert [result["accuracy"]["auc"] for result in run["results"]] == [pytest.approx(expected)] * 4
    mean = expected_scores(likes.astype(np.float32), age.astype(np.float32))[click == 1].mean()
    assert run["own_metrics"] == {"onnx-fp32": {"click_metrics:mean": pytest.approx(mean)}}
    low, high = run["own_intervals"]["onnx-fp32"]["click_metrics:mean"]
    assert low < mean < high
    assert (run["dataset"], run["group"], run["artifact"]) == ("clicks", "X", "logistic")
    assert {result["scope"] for result in run["results"]} == {"forward", "end_to_end"}


def test_a_report_has_a_section_of_its_own_and_a_recommendation_names_it(home: Path) -> None:
    if not [*(home / "runs").glob("*.json")]:
        rbserve("profile", "--model", "logistic", "--variants", "onnx-fp32", *SHORT, home=home)
    folder = Path(json.loads(rbserve("report", "--name", "mine", "--json", home=home).stdout)["folder"])
    report = json.loads((folder / "report.json").read_text())
    assert {section["dataset"] for section in report["sections"]} == {"clicks"}
    assert {point["model"] for section in report["sections"] for point in section["points"]} == {"logistic"}
    assert "logistic" in (folder / "table.csv").read_text()
    assert "# needs the artefact that was measured: it was adopted, as onnx" in (
        folder / "report.html"
    ).read_text().replace("&#39;", "'")
    words = ["recommend", "--slo", "mean<10s", "--slate", "8", "--json"]
    pick = json.loads(rbserve(*words, home=home).stdout)["pick"]
    assert pick["model"] == "logistic"
    assert pick["serve"] == "rbserve serve --model logistic --dataset clicks --variant onnx-fp32"


def test_a_bench_measures_it_without_training(home: Path) -> None:
    words = ["bench", "--models", "logistic", "--variants", "onnx-fp32", "--processes", "2", "--runs", "10"]
    rows = json.loads(rbserve(*words, "--slates", "1", "--json", home=home).stdout)["rows"]
    assert [(row["dataset"], row["model"], row["status"]) for row in rows] == [
        ("clicks", "logistic", "measured")
    ]


def test_its_requests_are_listed_and_shown(home: Path) -> None:
    rows = {row["name"]: row for row in json.loads(rbserve("datasets", "--json", home=home).stdout)}
    assert rows["clicks"]["about"].startswith("requests from clicks.parquet: 60 of 240 candidates")
    assert "columns of candidates: " in rbserve("datasets", "show", "clicks", home=home).stdout
    done = rbserve("train", "--model", "dnn", "--dataset", "clicks", home=home, check=None)
    assert done.returncode
    assert "clicks has requests for adopted models, and no items to train on" in done.stderr


def test_the_same_table_is_kept_once_and_another_of_its_name_beside_it(tmp_path: Path) -> None:
    write_graph(tmp_path / "logistic.onnx")
    write_clicks(tmp_path)
    adopt(tmp_path)
    adopt(tmp_path, "--name", "second")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["clicks"]
    write_clicks(tmp_path, shift=1.0)
    adopt(tmp_path, "--name", "third")
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert names[0] == "clicks"
    assert names[1].startswith("clicks-")
    assert [path.name for path in (tmp_path / "artifacts" / names[1]).iterdir()] == ["third"]


@pytest.mark.parametrize(
    ("words", "model", "said"),
    [
        (["--name", "dnn"], "logistic.onnx", "dnn is a model of rbserve's own"),
        (["--name", "A-H"], "logistic.onnx", "A-H is a model of rbserve's own, or a group of them"),
        (["--name", "../up"], "logistic.onnx", "--name takes a plain name"),
        ([], "gone.onnx", "there is no file gone.onnx"),
        (["--requests", "gone.csv"], "logistic.onnx", "there is no table gone.csv"),
        (["--dataset", "nowhere"], "logistic.onnx", "unknown data set: nowhere"),
        (["--map", "features"], "logistic.onnx", "--map features names no input and its columns"),
        (["--map", "features=likes,gone"], "logistic.onnx", "gone"),
        (["--name", "logistic"], "other.onnx", "logistic is there, adopted from logistic.onnx"),
    ],
)
def test_what_cannot_be_adopted_is_told_in_a_line_and_leaves_nothing_behind(
    home: Path, words: list[str], model: str, said: str
) -> None:
    shutil.copy(home / "logistic.onnx", home / "other.onnx")
    before = files(home)
    messages = adopt(home, *words, model=model, check=2)
    assert said in messages
    assert len([line for line in messages.splitlines() if line.startswith("error: ")]) == 1
    assert files(home) == before


def test_another_model_takes_the_name_where_that_is_forced(home: Path) -> None:
    shutil.copy(home / "logistic.onnx", home / "other.onnx")
    adopt(home, "--name", "logistic", "--force", model="other.onnx")
    manifest = json.loads((home / "artifacts/clicks/logistic/manifest.json").read_text())
    assert manifest["adopted"]["source"] == "other.onnx"


def test_on_the_test_rows_of_a_data_set_it_shares_the_front_with_the_models_trained_on_it(
    trained: Artifact, planted: Dataset, tmp_path: Path
) -> None:
    shutil.copytree(planted.path, tmp_path / "data" / "planted")
    shutil.copytree(trained.path, tmp_path / "artifacts" / "planted" / "dnn")
    write_graph(tmp_path / "counts.onnx")
    train, test = planted.ctr("train"), planted.ctr("test")
    likes = np.bincount(train.candidates, train.labels, len(planted.items))
    rbserve("datasets", "export", "planted", "--to", "tables", home=tmp_path)
    rows = pq.read_table(tmp_path / "tables" / "test.parquet")
    rows = rows.append_column("likes", pa.array(likes[test.candidates]))
    rows = rows.append_column("length", pa.array(test.histories.lengths / 100))
    pq.write_table(rows, tmp_path / "rows.parquet")
    words = ["adopt", "counts.onnx", "--requests", "rows.parquet", "--map", "features=likes,length"]
    words += ["--dataset", "planted"]
    rbserve(*words, home=tmp_path)
    assert (tmp_path / "artifacts/planted/counts/manifest.json").is_file()
    both = ["--models", "dnn,counts", "--dataset", "planted", "--variants", "onnx-fp32"]
    rbserve("profile", *both, *SHORT, home=tmp_path)
    folder = Path(json.loads(rbserve("report", "--name", "front", "--json", home=tmp_path).stdout)["folder"])
    (section,) = json.loads((folder / "report.json").read_text())["sections"]
    assert {point["model"] for point in section["points"]} == {"dnn", "counts"}
    assert all(point["aside"] is None and point["on_front"] is not None for point in section["points"])
    pq.write_table(rows.slice(1), tmp_path / "fewer.parquet")
    words[words.index("rows.parquet")] = "fewer.parquet"
    refused = rbserve(*words, "--name", "fewer", home=tmp_path, check=2)
    assert "fewer.parquet has 1,993 rows, but planted has 1,994 test rows" in refused.stderr
    assert not (tmp_path / "artifacts/planted/fewer").exists()


def test_without_labels_the_fastest_variant_is_recommended_and_no_accuracy_told(tmp_path: Path) -> None:
    write_graph(tmp_path / "logistic.onnx")
    table = write_clicks(tmp_path).drop_columns(["click", "user"])
    pq.write_table(table, tmp_path / "views.parquet")
    words = ["--requests", "views.parquet", "--group", "query", "--map", "features=likes,age"]
    rbserve("adopt", "logistic.onnx", *words, home=tmp_path)
    variants = ["--variants", "onnx-fp32,onnx-fp16"]
    rbserve("profile", "--model", "logistic", *variants, *SHORT, home=tmp_path)
    slo = ["recommend", "--slo", "mean<10s", "--slate", "8"]
    pick, *others = json.loads(rbserve(*slo, "--json", home=tmp_path).stdout)["meets"]
    assert pick["accuracy"] is None
    assert pick["p50_ms"] <= others[0]["p50_ms"]
    done = rbserve(*slo, home=tmp_path)
    served = done.stdout.replace(" (INCONCLUSIVE)", "")  # what a machine with neighbours adds
    assert (
        f"serve logistic {pick['variant']}: accuracy was not measured, the requests have no labels;" in served
    )
    assert "Accuracy was not measured: the requests have no labels" in done.stderr


def test_a_python_function_that_fails_leaves_no_folder_and_serving_it_names_what_is_lacking(
    tmp_path: Path,
) -> None:
    write_clicks(tmp_path)
    (tmp_path / "closing_shop.py").write_text(
        "def make():\n    return lambda request: request['features'][:, 0]\n"
    )
    rbserve(
        "adopt",
        "closing_shop:make",
        "--requests",
        "clicks.parquet",
        "--map",
        "features=likes,age",
        home=tmp_path,
    )
    served = rbserve("serve", "--model", "make", home=tmp_path, check=2)
    assert served.stderr.splitlines() == [
        "error: make is a Python function and has no variant onnx-fp32",
        "hint: --variant python --trust serves it, if that code is yours",
    ]
    (tmp_path / "closing_shop.py").write_text("def make():\n    raise OSError('the shop is closed')\n")
    failed = rbserve("profile", "--model", "make", *SHORT, home=tmp_path, check=1)
    assert "the shop is closed" in failed.stderr
    assert not (tmp_path / "runs").exists()


def test_a_metric_of_ones_own_is_measured_by_bench_reported_recommended_by_and_gated(tmp_path: Path) -> None:
    write_graph(tmp_path / "logistic.onnx")
    write_clicks(tmp_path)
    adopt(tmp_path)
    (tmp_path / "click_metrics.py").write_text(
        "def mean(labels, scores, users):\n    return scores[labels == 1].mean()\n"
    )
    name = "click_metrics:mean"
    few = ["--processes", "2", "--runs", "10", "--slates", "8", "--variants", "onnx-fp32"]
    rbserve("bench", "--models", "logistic", "--datasets", "clicks", *few, "--metric", name, home=tmp_path)
    (file,) = (tmp_path / "runs").glob("*.json")
    run = json.loads(file.read_text())
    value = run["own_metrics"]["onnx-fp32"][name]
    rbserve("report", "--name", "mine", home=tmp_path)
    report = tmp_path / "reports" / "mine"
    for page in ("table.md", "report.html"):
        assert f"{value:.4f} [" in (report / page).read_text()
        assert name in (report / page).read_text()
    (row,) = csv.DictReader((report / "table.csv").read_text().splitlines())
    assert float(row[name]) == pytest.approx(value)
    assert float(row[f"{name}_ci95_low"]) < value < float(row[f"{name}_ci95_high"])
    words = ["recommend", "--slo", "mean<10s", "--metric", name, "--json"]
    pick = json.loads(rbserve(*words, home=tmp_path).stdout)["pick"]
    assert (pick["accuracy"], len(pick["accuracy_ci95"])) == (pytest.approx(value), 2)
    (tmp_path / "click_metrics.py").write_text("")  # a run file tells without its module
    assert f"click_metrics:mean {value:.4f} [" in rbserve(*words[:-1], home=tmp_path).stdout
