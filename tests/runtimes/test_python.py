"""A function of the user's own is imported, called and held to what it promised: one line for each way to fail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from adopted import adopted_graph, expected_scores, small_requests

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import RbserveError, UsageError
from rbserve.core.requests import TensorSpec
from rbserve.data.artifact import Adopted, Artifact, write_manifest
from rbserve.data.request_set import ColumnRecord, RequestSet
from rbserve.exporters.adopt.callable import convert
from rbserve.home.target import resolve
from rbserve.pipeline.serving import open_for_serving
from rbserve.runtimes.opening import open_scorer
from rbserve.runtimes.python import load_function

LOGISTIC = """
import numpy as np

def make():
    return lambda request: 1 / (1 + np.exp(request["age"] - 2 * request["likes"]))
"""

Write = Callable[[str], str]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the module `shop` into the working directory and names its factory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(code: str) -> str:
        (tmp_path / "shop.py").write_text(code)
        monkeypatch.delitem(sys.modules, "shop", raising=False)
        return "shop:make"

    return write


@pytest.fixture
def requests(tmp_path: Path) -> RequestSet:
    """Requests with a title and likes of each candidate, and the user's age."""
    return small_requests(tmp_path / "data")


def adopted_callable(path: Path, requests: RequestSet, name: str) -> Artifact:
    """The artefact of a function: a manifest, and no file."""
    converted = convert(name, requests.manifest.columns, AdoptOptions(), path)
    graph = adopted_graph(path, requests).manifest
    assert graph.adopted is not None
    adopted = Adopted(
        converted.kind, converted.format, name, converted.signature, graph.adopted.requests, callable=name
    )
    manifest = msgspec.structs.replace(graph, files={}, variants={}, adopted=adopted)
    write_manifest(path, manifest)
    return Artifact(path, manifest)


def test_a_function_is_scored_like_the_graph_that_computes_the_same(
    written: Write, requests: RequestSet, tmp_path: Path
) -> None:
    artifact = adopted_callable(tmp_path / "model", requests, written(LOGISTIC))
    assert artifact.variants == artifact.can_have == ["python"]
    request = requests.request(artifact.signature, 3)
    scores = open_scorer(artifact, "python").score(request)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected_scores(request["likes"], request["age"]), rtol=1e-6)


def test_each_column_is_an_input_of_its_own(written: Write, requests: RequestSet, tmp_path: Path) -> None:
    converted = convert(written(LOGISTIC), requests.manifest.columns, AdoptOptions(), tmp_path)
    assert converted.signature.inputs == [
        TensorSpec("likes", "float32", ["N"], ["likes"]),
        TensorSpec("title", "str", ["N"], ["title"]),
        TensorSpec("age", "float32", [], ["age"]),
    ]
    assert (converted.kind, converted.callable, converted.graph, list(converted.files)) == (
        "callable", "shop:make", None, [],
    )  # fmt: skip


def test_lists_are_tensors_where_their_lengths_allow_it_and_labels_are_no_input(
    written: Write, tmp_path: Path
) -> None:
    columns = {
        "vector": ColumnRecord("float32", "candidate", 4, 0),
        "history": ColumnRecord("int64", "request", -1, 1),
        "tags": ColumnRecord("int64", "candidate", -1, 2),
        "click": ColumnRecord("float32", "candidate", None, 3),
    }
    converted = convert(written(LOGISTIC), columns, AdoptOptions(label="click"), tmp_path)
    assert {spec.name: spec.dims for spec in converted.signature.inputs} == {
        "vector": ["N", 4],
        "history": ["T_history"],
    }
    assert converted.guessed == ["tags: left out, its lists have different lengths"]


def test_mapped_columns_stand_side_by_side(written: Write, tmp_path: Path) -> None:
    columns = {
        "likes": ColumnRecord("int64", "candidate", None, 0),
        "vector": ColumnRecord("float32", "candidate", 4, 1),
        "age": ColumnRecord("float32", "request", None, 2),
    }
    converted = convert(written(LOGISTIC), columns, AdoptOptions(map=("x=likes,vector",)), tmp_path)
    assert converted.signature.inputs == [
        TensorSpec("x", "float64", ["N", 5], ["likes", "vector"]),
        TensorSpec("age", "float32", [], ["age"]),
    ]


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("shop", "", "shop names no factory of a Python module"),
        ("shop:make()", "", r"shop:make\(\) names no factory of a Python module"),
        ("bakery:make", "", "there is no Python module bakery, which bakery:make names"),
        ("shop.ranker:make", "", "there is no Python module shop.ranker, which shop.ranker:make names"),
        (
            "shop:make",
            "import bakery",
            "importing shop failed: ModuleNotFoundError: No module named 'bakery'",
        ),
        ("shop:make", "def make(:", "importing shop failed: SyntaxError: invalid syntax"),
        ("shop:make", "raise SystemExit(3)", "importing shop failed: SystemExit: 3"),
        ("shop:make", "", "the Python module shop has no make"),
        ("shop:make", "make = 3", "shop:make is a int, which is no factory"),
        (
            "shop:make",
            "def make(path): ...",
            "the factory shop:make failed: TypeError: .* missing 1 required",
        ),
        (
            "shop:make",
            "def make(): return 1 / 0",
            "the factory shop:make failed: ZeroDivisionError: division by",
        ),
        ("shop:make", "def make(): ...", "the factory shop:make returned nothing, which is no function"),
    ],
)
def test_code_that_gives_no_function_is_one_line(written: Write, name: str, code: str, message: str) -> None:
    written(code)
    with pytest.raises(RbserveError, match=message) as caught:
        load_function(name)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("1 / 0", "the function of shop:make failed: ZeroDivisionError: division by zero"),
        ("request['price']", "the function of shop:make failed: KeyError: 'price'"),
        (
            "None",
            r"returned scores of shape \[\] for 5 candidates|returned nothing, which is no array of numbers",
        ),
        ("request['title']", "returned a ndarray, which is no array of numbers"),
        ("[[1], [2, 3]]", "returned a list, which is no array of numbers"),
        ("request['likes'][:3]", r"returned scores of shape \[3\] for 5 candidates"),
        ("request['likes'][:, None]", r"returned scores of shape \[5, 1\] for 5 candidates"),
        ("request['likes'] * float('nan')", "returned NaN or infinity for 5 of 5 candidates"),
    ],
)
def test_an_answer_that_is_no_score_a_candidate_is_one_line(
    written: Write, requests: RequestSet, tmp_path: Path, answer: str, message: str
) -> None:
    name = written(f"def make():\n    return lambda request: {answer}\n")
    artifact = adopted_callable(tmp_path / "model", requests, name)
    scorer = open_scorer(artifact, "python")
    with pytest.raises(RbserveError, match=message) as caught:
        scorer.score(requests.request(artifact.signature, 0))
    assert "\n" not in caught.value.message


def test_a_table_without_candidates_is_refused(written: Write, tmp_path: Path) -> None:
    columns = {"age": ColumnRecord("float32", "request", None, 0)}
    with pytest.raises(UsageError, match="would see no candidates"):
        convert(written(LOGISTIC), columns, AdoptOptions(), tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x=likes,price", "--map x=likes,price: the table has no column price"),
        (
            "x=likes,title",
            "--map x=likes,title: texts and lists of different lengths cannot stand side by side",
        ),
    ],
)
def test_a_map_that_cannot_be_filled_is_refused(
    written: Write, requests: RequestSet, tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        convert(written(LOGISTIC), requests.manifest.columns, AdoptOptions(map=(text,)), tmp_path)


def test_it_is_served_with_trust_alone(written: Write, requests: RequestSet, tmp_path: Path) -> None:
    artifact = adopted_callable(tmp_path / "model", requests, written(LOGISTIC))
    target = resolve(artifact.path)
    with pytest.raises(UsageError, match="runs Python code outside its artefact, shop:make") as caught:
        open_for_serving(target, "python")
    assert caught.value.hint == "serve it with --trust if that code is yours"
    with pytest.raises(UsageError, match="is a Python function and has no variant onnx-fp32") as caught:
        open_for_serving(target, "onnx-fp32", trust=True)
    assert caught.value.hint == "--variant python --trust serves it, if that code is yours"
    assert open_for_serving(target, "python", trust=True).path == artifact.path
