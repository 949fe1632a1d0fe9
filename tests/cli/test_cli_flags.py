"""One spelling a notion over all commands, its aliases, and names that stay inside their folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from entry_point import run_here

from rbserve.core.errors import UsageError
from rbserve.core.names import plain_name
from rbserve.core.types import ModelSpec
from rbserve.data.artifact import open_artifact
from rbserve.home.paths import artifact_path
from rbserve.models.zoo import select_models
from rbserve.pipeline import training

Calls = list[tuple[Any, ...]]


def run(*words: str, monkeypatch: pytest.MonkeyPatch, code: int = 0) -> None:
    """Runs the command line in this process and expects an exit code."""
    assert run_here(monkeypatch, *words) == code


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained_pairs(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What `train` was asked to train: (model, data set)."""
    calls: Calls = []

    class Made:
        manifest = None

    def train(spec: ModelSpec, dataset: str, *rest: object) -> Made:
        del rest
        calls.append((spec.name, dataset))
        return Made()

    monkeypatch.setattr(training, "train", train)
    return calls


@pytest.mark.parametrize(
    "words",
    [
        ("--model", "dnn,gdcn", "--dataset", "synthetic,goodbooks"),
        ("--models", "dnn,gdcn", "--datasets", "synthetic,goodbooks"),
        ("-m", "dnn", "-m", "gdcn", "-d", "synthetic", "-d", "goodbooks"),
        ("--model", "dnn", "--models", "gdcn", "--dataset", "synthetic", "--datasets", "goodbooks"),
    ],
    ids=" ".join,
)
def test_a_list_is_comma_separated_or_repeated_under_either_spelling(
    words: tuple[str, ...], empty_home: Path, trained_pairs: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("train", *words, monkeypatch=monkeypatch)
    assert trained_pairs == [
        ("dnn", "synthetic"), ("gdcn", "synthetic"), ("dnn", "goodbooks"), ("gdcn", "goodbooks"),
    ]  # fmt: skip


@pytest.mark.parametrize("option", ["--model", "--models", "-m"])
@pytest.mark.parametrize("group", ["A", "A,C", "all", "B-D"])
def test_a_group_stands_for_its_rows_in_table_order(
    option: str, group: str, empty_home: Path, trained_pairs: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("train", option, group, monkeypatch=monkeypatch)
    assert trained_pairs == [(spec.name, "ml-100k") for spec in select_models(group)]


def test_json_is_a_document_for_model_and_a_list_for_models_or_several(
    empty_home: Path,
    trained_pairs: Calls,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words, document in (
        (("--model", "dnn"), None),
        (("--models", "dnn"), [None]),
        (("--model", "dnn,gdcn"), [None, None]),
    ):
        run("train", *words, "--json", monkeypatch=monkeypatch)
        assert json.loads(capsys.readouterr().out) == document


def test_a_recipe_with_a_backbone_is_no_zoo_row(
    empty_home: Path, trained_pairs: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("train", "--model", "text", "--backbone", "minilm-l6", monkeypatch=monkeypatch)
    assert trained_pairs == [("text-minilm-l6", "ml-100k")]


ONE = [
    ("serve", "--model", "dnn", "--dataset", "a,b"),
    ("serve", "--model", "dnn", "--variant", "onnx-fp32,onnx-int8"),
    ("serve", "--model", "dnn", "--precision", "auto", "--slates", "1,100"),
    ("verify", "--models", "dnn,gdcn", "--url", "http://127.0.0.1:1"),
    ("verify", "--model", "A", "--url", "http://127.0.0.1:1"),
    ("verify", "--model", "dnn", "--url", "http://127.0.0.1:1", "--slate", "1,2"),
    ("load", "--url", "http://127.0.0.1:1", "--rate", "1", "--models", "dnn,gdcn"),
    ("load", "--url", "http://127.0.0.1:1", "--rate", "1", "--slate", "1", "--slate", "2"),
    ("recommend", "--slo", "p99<1ms", "--dataset", "a,b"),
    ("recommend", "--slo", "p99<1ms", "--slates", "1,2"),
    ("recommend", "--slo", "p99<1ms", "--metrics", "auc,gauc"),
    ("sids", "--dataset", "a,b"),
    ("distill", "--teacher", "gdcn", "--student", "dnn", "--datasets", "a,b"),
    ("train", "--model", "text,sid", "--backbone", "minilm-l6"),
]  # fmt: skip


@pytest.mark.parametrize("words", ONE, ids=" ".join)
def test_a_command_that_works_on_one_refuses_a_list(
    words: tuple[str, ...],
    empty_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(*words, monkeypatch=monkeypatch, code=2)
    error, hint = capsys.readouterr().err.splitlines()
    assert "takes one here, not" in error
    assert hint == "hint: run the command once for each"
    assert not [*empty_home.iterdir()]


BAD_NAMES = ["", " ", ".", "..", "../x", "a/b", "/x", "a\\b", ".hidden", "a\nb", "a\x1bb", "x" * 300]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_a_name_that_is_no_single_directory_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="takes a plain name"):
        plain_name(name, "--name")


@pytest.mark.parametrize("name", ["shop", "ml-100k", "Läden 2", "a.b", "gdcn-emb-from-text-minilm-l6"])
def test_a_plain_name_is_kept(name: str) -> None:
    assert plain_name(name, "--name") == name


@pytest.mark.parametrize(
    "words",
    [
        ("report", "--name", "../x"),
        ("bench", "--models", "dnn", "--out", "../x"),
        ("bench", "--models", "dnn", "--name", "../x"),
        ("bench", "--models", "dnn", "--datasets", "synthetic", "--report", "../x"),
        ("bench", "--models", "dnn", "--datasets", "../x"),
        ("prepare", "synthetic", "--name", "../x"),
        ("train", "--model", "dnn", "--dataset", "../x"),
        ("export", "--model", "dnn", "--dataset", "../x"),
        ("profile", "--model", "dnn", "--dataset", "../x"),
        ("serve", "--model", "dnn", "--dataset", "../x"),
        ("verify", "--model", "dnn", "--dataset", "../x", "--url", "http://127.0.0.1:1"),
        ("sids", "--dataset", "../x"),
        ("distill", "--teacher", "gdcn", "--student", "dnn", "--dataset", "../x"),
    ],
    ids=" ".join,
)
def test_no_command_takes_a_name_that_leads_out_of_its_folder(
    words: tuple[str, ...],
    empty_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    beside = {*empty_home.parent.iterdir()}
    run(*words, monkeypatch=monkeypatch, code=2)
    assert "takes a plain name, not ../x" in capsys.readouterr().err
    assert {*empty_home.parent.iterdir()} == beside
    assert not [*empty_home.iterdir()]


def test_a_report_is_of_the_data_sets_that_were_named(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = empty_home / "runs"
    runs.mkdir()
    for task, name in (("ctr", "shop"), ("seqrec", "library")):
        text = (Path(__file__).parent.parent / "data" / f"run-schema-1-{task}.json").read_text()
        (runs / f"{task}.json").write_text(text.replace('"dataset":"ml-100k"', f'"dataset":"{name}"', 1))
    names = ["library", "shop"]
    rendered: list[list[str]] = []

    def render(measurements: list[Any], folder: Path) -> Path:
        rendered.append(sorted({one.dataset for one in measurements}))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text('{"sections": []}')
        return folder

    monkeypatch.setattr("rbserve.profilers.report.render.render", render)
    for name in names:
        run("report", "--dataset", name, monkeypatch=monkeypatch)
        assert rendered.pop() == [name]
    run("report", "--datasets", ",".join(names), monkeypatch=monkeypatch)
    assert rendered.pop() == names
    run("report", monkeypatch=monkeypatch)
    assert rendered.pop() == names
    capsys.readouterr()
    run("report", "--dataset", "gone", monkeypatch=monkeypatch, code=2)
    assert "unknown data set with runs: gone" in capsys.readouterr().err


def test_bench_sets_a_value_of_every_models_config(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "bench",
        "--model",
        "dnn,gdcn",
        "--dataset",
        "synthetic",
        "--set",
        "dim=8",
        "--dry-run",
        "--json",
    )
    run(*words, monkeypatch=monkeypatch)
    cells = [one["cell"] for one in json.loads(capsys.readouterr().out)]
    assert [(cell["step"], cell["options"]) for cell in cells] == [
        ("prepare", {}), *(2 * [("build", {"dim": "8"}), ("profile", {"dim": "8"})]),
    ]  # fmt: skip
    run("bench", "--models", "dnn,sasrec-3l", "--set", "hidden=32", monkeypatch=monkeypatch, code=2)
    assert "error: sasrec-3l: " in capsys.readouterr().err


def test_a_cell_trains_with_its_options_and_knows_an_artefact_of_others(
    empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rbserve.bench.journal import trained_otherwise
    from rbserve.bench.matrix import Cell
    from rbserve.bench.work import work

    fit = {"epochs": 1}
    cell = Cell("build", "synthetic", "dnn", ["torch-fp32"], fit, options={"dim": "8", "hidden": "16"})
    assert work(cell, "x").status == "done"
    config = open_artifact(artifact_path("dnn", "synthetic")).manifest.config
    assert (config["dim"], config["hidden"]) == (8, [16])
    assert not trained_otherwise(cell)
    assert trained_otherwise(Cell("build", "synthetic", "dnn", [], fit, options={"dim": "4"}))
