"""Wrong models, tables and options through the command line: one clear line, an exit code, and nothing left behind."""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import wrong_models
from entry_point import run_here

from rbserve.data.request_set_writer import RequestSetWriter

USAGE, FAILURE, INTERRUPTED = 2, 1, 130
GOOD = ["--requests", "clicks.parquet", "--group", "query", "--label", "click", "--map", "features=likes,age"]


class Wrong(NamedTuple):
    """What the user adopts, with which options; what is told of it, the exit code, and words of the hint."""

    model: str
    said: str
    hint: str = ""
    options: str = ""
    table: str = "clicks.parquet"
    code: int = USAGE
    roles: str = "--group query --label click"


FEATURES = "--map features=likes,age"
TEXTS = "--map query=title --map document=title"

MODELS = {
    "no such file": Wrong("gone.onnx", "there is no file gone.onnx", "an ONNX file"),
    "no such directory": Wrong("./nowhere/", "there is no file ./nowhere/", "a directory of transformers"),
    "a link to nothing": Wrong("link.onnx", "there is no file link.onnx"),
    "an empty file": Wrong("empty.onnx", "empty.onnx is no ONNX file"),
    "a page that was downloaded in its place": Wrong("text.onnx", "text.onnx is no ONNX file"),
    "half a graph": Wrong("cut.onnx", "cut.onnx is no ONNX file"),
    "a directory without a model": Wrong("nothing", "nothing is no model that can be adopted"),
    "a directory named as a graph": Wrong("folder.onnx", "folder.onnx is no model that can be adopted"),
    "a file of another kind": Wrong("model.exe", "model.exe is no model that can be adopted", "LightGBM"),
    "the table in place of the model": Wrong(
        "clicks.parquet", "clicks.parquet is no model that can be adopted"
    ),
    "an operator that ONNX has not got": Wrong(
        "unknown_operator.onnx", "it uses the operator Frobnicate", "opset"
    ),
    "an operator of its own": Wrong("custom_operator.onnx", "the operator Rank of the domain com.acme"),
    "an opset of the future": Wrong("future.onnx", "its opset 99 of ai.onnx is too new", "older opset"),
    "weights that are not there": Wrong(
        "without_weights.onnx", "there is no file weights.bin", "put it beside"
    ),
    "weights outside its folder": Wrong(
        "weights_elsewhere.onnx", "../../etc/passwd, which is not below its folder"
    ),
    "weights at an absolute path": Wrong(
        "weights_absolute.onnx", "/etc/passwd, which is not below its folder"
    ),
    "no outputs": Wrong("no_outputs.onnx", "no_outputs.onnx has no outputs"),
    "no inputs": Wrong("no_inputs.onnx", "no_inputs.onnx has no inputs"),
    "texts as its only output": Wrong("texts_out.onnx", "which output has the scores is not clear: u str[N]"),
    "two outputs as likely": Wrong(
        "two_outputs.onnx", "which output has the scores is not clear: a float32[N], b"
    ),
    "three scores a candidate": Wrong(
        "three_columns.onnx",
        "scores float32[N, 3] has 3 values for each candidate",
        options="--map features=likes,age,item",
    ),
    "two dimensions that could be the slate": Wrong(
        "two_slates.onnx", "K or M of left", "--slate-dim K or --slate-dim M"
    ),
    "no dimension of candidates": Wrong(
        "one_score.onnx", "no dimension of the inputs counts the candidates", options=FEATURES
    ),
    "two scores a candidate, in a vector": Wrong(
        "too_many.onnx", "has 8 values for the 4 candidates of request 0", "--slate-dim", FEATURES
    ),
    "complex numbers": Wrong(
        "complex.onnx", "tensor(complex64) is not currently registered", "export it anew"
    ),
    "names with control characters": Wrong(
        "lines.onnx", "a tensor whose name has control characters", "rename"
    ),
    "scores that are not a number": Wrong(
        "nan_scores.onnx", "the score of candidate 0 of request 0 of clicks.parquet is nan"
    ),
    "an index beyond its table": Wrong(
        "fails.onnx",
        "the model fails on request 19 of clicks.parquet (4 candidates): "
        "indices element out of data bounds, idx=79",
        "--map",
    ),
    "an index that is met later": Wrong("fails_late.onnx", "the model fails on request 10 of clicks.parquet"),
    "tensors beyond all memory": Wrong(
        "huge.onnx", "out of memory while scoring request 0", options=FEATURES, code=FAILURE
    ),
    "a column that the table has not got": Wrong(
        "missing_column.onnx", "which columns fill the inputs price, stock"
    ),
    "a column of texts for an input of numbers": Wrong(
        "takes_text.onnx", "the column title has texts", "--map title=COLUMN"
    ),
    "fractions for an input of whole numbers": Wrong(
        "whole_numbers.onnx", "the input likes int64[N] takes whole numbers"
    ),
    "a pickle": Wrong("model.pkl", "model.pkl is a pickle", "skops.io.dump"),
    "a pickle of joblib": Wrong("model.joblib", "model.joblib is a pickle"),
    "a pickle of another name": Wrong("model.bin", "model.bin is a pickle"),
    "three classes of LightGBM": Wrong("three.txt", "three.txt has 3 classes", "one number"),
    "three classes of XGBoost": Wrong("three.json", "three.json has 3 classes"),
    "a feature that the table has not got": Wrong(
        "other_features.txt", "the model's feature price is no column", "--map features"
    ),
    "half a model of LightGBM": Wrong(
        "cut.txt", "cannot be read as a model of lightgbm: the file is cut off"
    ),
    "a model of XGBoost that is no JSON": Wrong(
        "spoilt.json", "cannot be read as a model of xgboost: Expecting"
    ),
    "a model of CatBoost that is damaged": Wrong(
        "spoilt.cbm", "cannot be read as a model of catboost: Flatbuffers"
    ),
    "clusters": Wrong("clusters.skops", "holds a KMeans, which predicts neither"),
    "types that are not trusted": Wrong("untrusted.skops", "types that are not trusted: wrong_models.twice"),
    "a program that is none": Wrong("text.pt2", "text.pt2 is no file of torch.export.save"),
    "a directory without a tokenizer": Wrong(
        "no_tokenizer", "no_tokenizer has no tokenizer.json", options=TEXTS
    ),
    "pickled weights": Wrong("pickled_weights", "has no *.safetensors", "safetensors", TEXTS),
    "a model that writes texts": Wrong(
        "decoder", "a gpt2 model cannot be adopted as a reranker", options=TEXTS
    ),
    "a config that is no JSON": Wrong(
        "spoilt_config", "transformers cannot load the config of spoilt_config", options=TEXTS
    ),
    "a module that is not there": Wrong("gone_module:make", "there is no Python module gone_module"),
    "a factory that is not there": Wrong("wrong_rankers:gone", "wrong_rankers has no gone", "MODULE:FACTORY"),
    "a factory that is a number": Wrong(
        "wrong_rankers:number", "wrong_rankers:number is a int, which is no factory"
    ),
    "a factory of nothing": Wrong("wrong_rankers:nothing", "returned nothing, which is no function"),
    "one score for four candidates": Wrong(
        "wrong_rankers:few", "scores of shape [1] for 4 candidates", code=FAILURE
    ),
    "words in place of scores": Wrong(
        "wrong_rankers:words", "returned a str, which is no array", code=FAILURE
    ),
    "a function that raises": Wrong(
        "wrong_rankers:raises", "failed: KeyError: 'price'", "mend", code=FAILURE
    ),
    "a factory that raises two lines": Wrong(
        "wrong_rankers:broken", "OSError: the disk is gone", code=FAILURE
    ),
    "a factory that ends the process": Wrong("wrong_rankers:leaves", "failed: SystemExit: 3", code=FAILURE),
    "a module that is no Python": Wrong(
        "wrong_syntax:make", "importing wrong_syntax failed: SyntaxError", code=FAILURE
    ),
    "a module that needs another": Wrong(
        "wrong_import:make", "No module named 'a_module_that_nobody_has'", code=FAILURE
    ),
    "Ctrl-C while it is tried": Wrong("wrong_rankers:stopped", "interrupted", code=INTERRUPTED),
}
"""Models that cannot be adopted, with a good table."""


def table(
    name: str,
    said: str,
    hint: str = "",
    *,
    code: int = FAILURE,
    roles: str = Wrong._field_defaults["roles"],
    options: str = FEATURES,
) -> Wrong:
    """A wrong table, with a good model."""
    return Wrong("good.onnx", said, hint, options, name, code, roles)


LABELLED = "--label click"
TABLES = {
    "no such table": table(
        "gone.parquet", "there is no table gone.parquet", "Parquet, CSV or JSON lines", code=USAGE
    ),
    "a directory": table("nothing", "there is no table nothing", code=USAGE),
    "an empty CSV": table("empty.csv", "empty.csv has no rows", "first line"),
    "an empty Parquet": table(
        "empty.parquet", "cannot read empty.parquet as Parquet: Parquet file size is 0 bytes"
    ),
    "a header alone": table("header.csv", "header.csv has no rows", roles=LABELLED),
    "columns without rows": table("no_rows.parquet", "no_rows.parquet has no rows"),
    "two columns of one name": table("twice.csv", "twice.csv has two columns likes", "a name of its own"),
    "a label alone": table("one_column.parquet", "has no column beside the label", roles="--label likes"),
    "a label that is not there": table(
        "clicks.parquet", "unknown column: clik", "did you mean click?", code=USAGE, roles="--label clik"
    ),
    "a group that is not there": table(
        "clicks.parquet", "unknown column: querry", "did you mean query?", code=USAGE, roles="--group querry"
    ),
    "a user that is not there": table(
        "clicks.parquet", "unknown column: visitor", "known: age", code=USAGE, roles="--user visitor"
    ),
    "the group as the label": table(
        "clicks.parquet",
        "column query cannot be the label and a group",
        code=USAGE,
        roles="--group query --label query",
    ),
    "labels of texts": table("words.parquet", "label click holds texts", "labels are 0 and 1"),
    "negative labels": table("negative.parquet", "label click is -1 in row 1"),
    "labels of fractions": table(
        "clicks.parquet", "label likes is -0.801931 in row 1", roles="--label likes"
    ),
    "labels that are not there": table(
        "nan_labels.parquet", "label click is not there in row 1", "without --label"
    ),
    "groups that stand apart": table(
        "apart.parquet",
        "the rows of group 0 do not stand together: it begins again in row 21",
        "sort the table by query",
    ),
    "lists that differ within a request": table(
        "lists.parquet",
        "the list in column features is another one in row 2",
        "pad them",
        roles="--group query",
    ),
    "lists that are not as long as the labels": table(
        "ragged.parquet",
        "features float32[N, 2] takes 2 values, and likes, age have 3",
        code=USAGE,
        roles=LABELLED,
    ),
    "half a Parquet": table("damaged.parquet", "cannot read damaged.parquet as Parquet", "is it whole"),
    "a Parquet with a hole": table("spoilt.parquet", "cannot read spoilt.parquet", "is it whole"),
    "a CSV in Latin-1": table("latin.csv", "can't decode byte 0xf6", "UTF-8"),
    "a picture": table("picture.png", "cannot read picture.png as CSV", "UTF-8"),
    "a tenth of malformed rows": table(
        "malformed.csv", "10 of 100 rows (10.0%) would be lost", "quote fields", roles=LABELLED
    ),
    "JSON lines that are no objects": table(
        "no_objects.jsonl", "40 rows that are no JSON object", "one object a line", roles=LABELLED
    ),
    "a number that is missing": table(
        "gaps.parquet",
        "the score of candidate 1 of request 11 of gaps.parquet is nan",
        "the column likes is nan there",
        code=USAGE,
    ),
}
"""Tables that make no requests of the good model."""


def option(options: str, said: str, hint: str = "", code: int = USAGE) -> Wrong:
    """A wrong option, with a good model and a good table."""
    return Wrong("good.onnx", said, hint, options, code=code)


OPTIONS = {
    "a dimension that is none": option(
        "--slate-dim K", "--slate-dim K is no symbol of the inputs", "its symbols: N"
    ),
    "an output that is none": option("--score gone", "unknown output of --score: gone", "known: scores"),
    "an input that is none": option("--map other=likes", "unknown input of --map: other", "known: features"),
    "a column that is none": option(
        "--map features=likes,agee", "unknown column of --map features: agee", "did you mean age?"
    ),
    "a column of texts": option("--map features=likes,title", "the column title has texts"),
    "too few columns": option("--map features=likes", "takes 2 values, and likes has 1", "2 values together"),
    "a map without columns": option(
        "--map features", "--map features names no input and its columns", "--map features=likes"
    ),
    "a map without an input": option("--map =likes", "--map =likes names no input and its columns"),
    "an input twice": option(
        "--map features=likes --map features=age",
        "--map names the columns of features twice",
        "--map features=likes,age",
    ),
    "a slash in the name": option("--name a/b", "--name takes a plain name, not a/b", "my-ranker"),
    "a name that leads up": option("--name ..", "--name takes a plain name, not .."),
    "the name of a trained model": option("--name gdcn", "gdcn is a model of rbserve's own", "--name"),
    "a data set that is none": option("--dataset gone", "unknown data set: gone", "known: "),
    "a data set that leads up": option("--dataset ../data", "a data set takes a plain name, not ../data"),
    "a data set that is not prepared": option(
        "--dataset ml-100k", "no data set at ", "rbserve prepare ml-100k", FAILURE
    ),
}
"""Options that fit neither the good model nor the good table."""
WRONG = {
    f"{kind}: {name}": wrong
    for kind, group in (("model", MODELS), ("table", TABLES), ("option", OPTIONS))
    for name, wrong in group.items()
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All wrong files, beside good.onnx and clicks.parquet."""
    folder = tmp_path_factory.mktemp("wrong")
    wrong_models.write_all(folder)
    return folder


@pytest.fixture
def home(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory; commands run in the folder of the wrong files."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])  # modules of the folder are imported from there
    monkeypatch.setenv("RBSERVE_HOME", str(home))
    return home


def content(home: Path) -> dict[str, bytes | None]:
    """Every file below a home directory with its bytes, and every folder."""
    return {
        str(path.relative_to(home)): path.read_bytes() if path.is_file() else None for path in home.rglob("*")
    }


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_command_is_told_in_one_line_and_leaves_nothing_behind(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = WRONG[name]
    words = ["adopt", wrong.model, "--requests", wrong.table, *wrong.roles.split(), *wrong.options.split()]
    assert run_here(monkeypatch, *words) == wrong.code
    printed = capfd.readouterr()
    error, *hints = printed.err.splitlines()
    assert error.startswith("error: ")
    assert wrong.said in error
    assert error.isprintable()
    assert len(hints) <= 1
    assert wrong.hint in "".join(hints)
    assert all(hint.startswith("hint: ") for hint in hints)
    assert printed.out == ""
    assert content(home) == {}


@pytest.fixture
def adopted(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Path:
    """A home directory in which the good model is adopted."""
    assert run_here(monkeypatch, "adopt", "good.onnx", *GOOD) == 0
    capfd.readouterr()
    return home


def test_a_name_that_is_taken_keeps_its_model(
    adopted: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = content(adopted)
    assert run_here(monkeypatch, "adopt", "one_score.onnx", *GOOD, "--name", "good") == USAGE
    assert "good is there, adopted from good.onnx" in capfd.readouterr().err
    assert run_here(monkeypatch, "adopt", "nan_scores.onnx", *GOOD[:-2], "--name", "good", "--force") == USAGE
    assert "is nan" in capfd.readouterr().err
    assert content(adopted) == before


def flip(path: Path) -> None:
    """Changes a bit in the middle of a file."""
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)


def cut(path: Path) -> None:
    """Takes the second half off a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "a bit of the graph": ("artifacts/clicks/good/onnx/fp32.onnx", flip, "artefact good is damaged"),
    "half the manifest": (
        "artifacts/clicks/good/manifest.json",
        cut,
        "manifest.json is not an artefact manifest",
    ),
    "a bit of the offsets": ("data/clicks/offsets.npy", flip, "request set clicks is damaged"),
    "no labels": ("data/clicks/label.npy", Path.unlink, "label.npy is missing"),
    "half the manifest of the requests": (
        "data/clicks/manifest.json",
        cut,
        "is not the manifest of a request set",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_was_changed_on_disk_is_not_measured(
    name: str, adopted: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file, damage, said = DAMAGE[name]
    damage(adopted / file)
    (adopted / "runs").mkdir()
    before = content(adopted)
    words = ["--processes", "2", "--runs", "10", "--slates", "1", "--no-cost", "--variants", "onnx-fp32"]
    assert run_here(monkeypatch, "profile", "--model", "good", *words) == FAILURE
    error, hint = capfd.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert said in error
    assert "adopt" in hint
    assert content(adopted) == before


def test_adopting_again_mends_what_was_changed_on_disk(
    adopted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(adopted)
    flip(adopted / "data/clicks/columns/0.npy")
    flip(adopted / "artifacts/clicks/good/onnx/fp32.onnx")
    assert run_here(monkeypatch, "adopt", "good.onnx", *GOOD) == 0
    assert content(adopted) == before


def test_ctrl_c_while_the_table_is_read_leaves_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    append = RequestSetWriter.append

    def stopped(writer: RequestSetWriter, *rows: object) -> None:
        append(writer, *rows)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RequestSetWriter, "append", stopped)
    assert run_here(monkeypatch, "adopt", "good.onnx", *GOOD) == INTERRUPTED
    assert capfd.readouterr().err == "error: interrupted\n"
    assert content(home) == {}


@contextmanager
def small_disk(largest: int) -> Iterator[None]:
    """Files grow to so many bytes; the system's error for more is, but for its number, that of a full disk.

    Python, here and in processes that are started, writes no compiled module meanwhile: it would stay cut off.
    """
    before, compiles = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    sys.dont_write_bytecode = True
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("PYTHONDONTWRITEBYTECODE", "1")
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = compiles


@pytest.mark.parametrize(
    ("model", "table", "largest", "file"),
    [
        ("good.onnx", "clicks.parquet", 400, ".npy"),
        ("good.onnx", "clicks.csv", 1_000, "Error writing bytes to file"),
        ("other_features.txt", "clicks.parquet", 2_800, ""),
    ],
    ids=["at a column", "at the typed table", "at the model"],
)
def test_a_disk_that_fills_is_one_line_and_leaves_nothing(
    model: str,
    table: str,
    largest: int,
    file: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with small_disk(largest):
        assert run_here(monkeypatch, "adopt", model, "--requests", table, *GOOD[2:]) == FAILURE
    error, hint = capfd.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert "File too large" in error
    assert file in error
    assert "ulimit" in hint
    assert content(home) == {}
