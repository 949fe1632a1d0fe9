"""`check --requests`: two models' files and a table, in one format or two; mistakes are one line and leave nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from adopted import expected_scores, write_graph
from entry_point import run_here
from onnx import TensorProto, helper, numpy_helper

from rbserve.stats.pairwise import auc

REQUESTS = ("--requests", "clicks.parquet", "--label", "click", "--group", "query")
MAPPED = (*REQUESTS, "--map", "features=likes,age")
EXACT = ("--metrics", "file_size,accuracy")
ROWS = 4_000

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of 800 requests, the logistic graph twice, graphs that answer otherwise, and a function."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(5)
    likes, age = rng.normal(size=(2, ROWS)).astype(np.float32)
    click = (rng.random(ROWS) < expected_scores(likes, age)).astype(np.int64)
    columns = {"query": np.arange(ROWS) // 5, "likes": likes, "age": age, "click": click}
    pq.write_table(pa.table(columns), folder / "clicks.parquet")
    pq.write_table(pa.table({**columns, "click": click * 0.5}), folder / "halves.parquet")
    pq.write_table(pa.table({**columns, "age": np.full(ROWS, np.nan, np.float32)}), folder / "gaps.parquet")
    pq.write_table(
        pa.table({name: columns[name] for name in ("query", "likes", "age")}), folder / "unlabelled.parquet"
    )
    write_graph(folder / "a.onnx")
    write_graph(folder / "b.onnx")
    _change(folder, "blind.onnx", weights=[[0.0], [-1.0]])
    _change(folder, "wide.onnx", weights=[[2.0], [-1.0], [0.0]])
    _change(folder, "custom.onnx", operator="ShopRank")
    (folder / "cut.onnx").write_bytes((folder / "a.onnx").read_bytes()[:100])
    (folder / "notes.txt").write_text("no model")
    (folder / "checked_shop.py").write_text(
        "import numpy as np\n"
        "def make():\n    return lambda request: 1 / (1 + np.exp(-(request['features'] @ [2.0, -1.0])))\n"
        "def broken():\n    raise OSError('the shop is closed')\n"
        "def revenue(labels, scores, users):\n    return float((labels * scores).mean())\n"
        "def blank():\n    return lambda request: request['features'][:, 0] * float('nan')\n"
    )
    return folder


def _names(folder: Path) -> list[str]:
    """What stands in a folder, apart from what Python compiled of a user's module."""
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")


def _change(
    folder: Path, name: str, weights: list[list[float]] | None = None, operator: str | None = None
) -> None:
    """Writes the logistic graph with other weights, or with an operator that nobody has."""
    model = onnx.load(folder / "a.onnx")
    if weights is not None:
        tensor = numpy_helper.from_array(np.array(weights, np.float32), "weights")
        model.graph.initializer[0].CopyFrom(tensor)
        model.graph.input[0].CopyFrom(
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", len(weights)])
        )
    if operator:
        model.graph.node[1].op_type, model.graph.node[1].domain = operator, "shop"
        model.opset_import.append(helper.make_opsetid("shop", 1))
    onnx.save(model, folder / name)


@pytest.fixture
def run(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs `check` in this process and returns exit code, standard output and error; nothing may be left behind."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(files)

    def check(*words: str) -> tuple[object, str, str]:
        before = _names(files)
        code = run_here(monkeypatch, "check", *words)
        assert [*(tmp_path / "temporary").iterdir()] == []
        assert not (tmp_path / "home").exists()
        assert _names(files) == before
        return code, *capsys.readouterr()

    return check


def test_two_files_that_score_alike_pass(run: Run, files: Path) -> None:
    code, out, _ = run("--base", "a.onnx", "--head", "b.onnx", *MAPPED, *EXACT, "--json")
    table = pq.read_table(files / "clicks.parquet").to_pydict()
    scores = expected_scores(np.array(table["likes"]), np.array(table["age"]))
    lines = {line["metric"]: line for line in json.loads(out)["lines"]}
    assert code == 0
    assert {line["model"] for line in lines.values()} == {"a to b"}
    assert lines["auc"]["base"] == pytest.approx(auc(table["click"], scores))
    assert lines["file_size"]["base"] == pytest.approx((files / "a.onnx").stat().st_size / 2**20)


def test_a_head_that_does_not_see_a_feature_is_regressed(run: Run) -> None:
    code, out, _ = run("--base", "a.onnx", "--head", "blind.onnx", *MAPPED, "--metrics", "accuracy", "--json")
    (line,) = json.loads(out)["lines"]
    assert (code, line["verdict"], line["metric"]) == (3, "REGRESSED", "auc")


def test_a_function_is_the_base_of_the_graph_that_replaces_it(run: Run) -> None:
    words = ("--base", "checked_shop:make", "--head", "a.onnx", *MAPPED)
    code, out, _ = run(*words, "--metrics", "accuracy", "--json")
    (line,) = json.loads(out)["lines"]
    assert (code, line["variant"], line["model"]) == (0, "python to onnx-fp32", "make to a")
    assert line["base"] == pytest.approx(line["head"])


def test_a_metric_of_ones_own_is_gated_with_the_tolerance_that_is_stated(run: Run) -> None:
    words = (*MAPPED, "--metric", "checked_shop:revenue", "--metric-tolerance", "0.01", "--json")
    code, out, _ = run("--base", "a.onnx", "--head", "b.onnx", *words)
    (same,) = json.loads(out)["lines"]
    assert (code, same["metric"], same["tolerance"]) == (0, "checked_shop:revenue", 0.01)
    code, out, _ = run("--base", "a.onnx", "--head", "blind.onnx", *words)
    (lost,) = json.loads(out)["lines"]
    assert (code, lost["verdict"], lost["base"]) == (3, "REGRESSED", same["base"])


def test_without_labels_only_the_rest_is_compared_and_that_is_said(run: Run) -> None:
    words = ("--requests", "unlabelled.parquet", "--group", "query", "--map", "features=likes,age")
    code, out, err = run("--base", "a.onnx", "--head", "b.onnx", *words, *EXACT)
    assert code == 0
    assert "auc" not in out
    assert "note: accuracy is not compared: the requests have no labels" in err


MISTAKES = [
    (("--base", "a.onnx", "--head", "b.onnx", "--requests", "gone.parquet"), "there is no table gone.parquet"),
    (("--base", "gone.onnx", "--head", "b.onnx", *MAPPED), "gone.onnx"),
    (("--base", "a.onnx", "--head", "notes.txt", *MAPPED), "notes.txt is no model that can be adopted"),
    (("--base", "a.onnx", "--head", "cut.onnx", *MAPPED), "cut.onnx"),
    (("--base", "a.onnx", "--head", "custom.onnx", *MAPPED), "ShopRank"),
    (("--base", "a.onnx", "--head", "wide.onnx", *MAPPED), "features"),
    (("--base", "a.onnx", "--head", "b.onnx", *REQUESTS[:2], "--label", "clicks"), "clicks"),
    (("--base", "a.onnx", "--head", "b.onnx", "--requests", "halves.parquet", "--label", "click"), "0.5"),
    (("--base", "a.onnx", "--head", "b.onnx", "--requests", "notes.txt"), "notes.txt"),
    (("--base", "a.onnx", "--head", "b.onnx", *REQUESTS, "--map", "features=likes,price"), "price"),
    (("--base", "a.onnx", "--head", "b.onnx", *REQUESTS, "--map", "features"), "--map features names no input"),
    (("--base", "a.onnx", "--head", "b.onnx", "--requests", "gaps.parquet", "--map", "features=likes,age"), "nan"),
    (("--base", "a.onnx", "--head", "checked_shop:broken", *MAPPED), "OSError: the shop is closed"),
    (("--base", "a.onnx", "--head", "checked_shop:blank", *MAPPED), "returned NaN or infinity for 5 of 5 candidates"),
    (("--base", "a.onnx", "--head", "checked_shop:price", *MAPPED), "checked_shop has no price"),
    (("--base", "a.onnx", "--head", "b.onnx", *MAPPED, "--metrics", "speed"), "unknown metric: speed"),
    (
        ("--base", "a.onnx", "--head", "b.onnx", *MAPPED, "--metric", "checked_shop:revenue"),
        "how much less of checked_shop:revenue is no regression is not said",
    ),
    (
        ("--base", "a.onnx", "--head", "b.onnx", *MAPPED, "--metric", "checked_shop:gain", "--metric-tolerance", "1"),
        "checked_shop has no gain",
    ),
    (("--base", "a.onnx", "--head", "b.onnx", *MAPPED, "--base-python", "gone"), "there is no interpreter gone"),
    (("--base", "a.onnx", "--head", "b.onnx", *MAPPED, "--models", "dnn"), "neither --baseline nor --models"),
    (("--head", "b.onnx", *MAPPED), "--requests takes --base and --head"),
    (("--base", "a.onnx", "--head", "b.onnx"), "a.onnx is neither an artefact nor a run file"),
    (("--base", "a.onnx", "--head", "b.onnx", "--slate-dim", "N"), "--slate-dim without --requests says nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing(run: Run, words: tuple[str, ...], message: str) -> None:
    code, out, err = run(*words)
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code in (1, 2)
    assert message in error
    assert "Traceback" not in err
    assert out == ""


def test_an_artefact_has_its_requests(run: Run, files: Path) -> None:
    (files / "adopted").mkdir()
    try:
        (files / "adopted" / "manifest.json").write_text("{}")
        code, _, err = run("--base", "adopted", "--head", "b.onnx", *MAPPED)
    finally:
        (files / "adopted" / "manifest.json").unlink()
        (files / "adopted").rmdir()
    assert code == 2
    assert "adopted is an artefact, which has its requests" in err


def test_ctrl_c_leaves_nothing(files: Path, tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "RBSERVE_HOME": str(tmp_path / "home")}
    words = ("--base", "a.onnx", "--head", "b.onnx", *MAPPED)
    with subprocess.Popen(
        [sys.executable, "-m", "rbserve", "check", *words],
        cwd=files, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while process.poll() is None and not [*tmp_path.glob(".rbserve-check.*/data/*/manifest.json")]:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=100)
    assert (process.returncode, err[-2000:]) == (130, err[-2000:])
    assert "Traceback" not in err
    assert [*tmp_path.iterdir()] == []
