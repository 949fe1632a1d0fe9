"""What a value of --model means, and that one module alone reads it."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.data.artifact import Artifact
from rbserve.home.target import artifact_name, model_path, parse_model, parse_models, resolve
from rbserve.models.zoo import MODELS, find_model, models

ROOT = Path(__file__).resolve().parent.parent.parent
READS_NAMES = {"rbserve/home/target.py"}
READS_VARIANTS = {"rbserve/core/variants.py"}
MAKES_NAMES = {"rbserve/core/distillation.py", "rbserve/models/zoo.py"}
MEANS_NAMES = {"rbserve/home/commands.py", "rbserve/pipeline/home.py", "rbserve/pipeline/data.py"}
MARKS = ("-from-", "-random", "-cbs")
CUTS = {
    "split",
    "rsplit",
    "partition",
    "rpartition",
    "removesuffix",
    "removeprefix",
    "startswith",
    "endswith",
}


@pytest.fixture
def home(tmp_path: Path, trained: Artifact, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with dnn trained on `beauty`."""
    monkeypatch.setenv("RBSERVE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.path, tmp_path / "artifacts" / "beauty" / "dnn")
    return tmp_path


def test_a_row_that_is_not_trained_has_a_path_and_abilities(home: Path) -> None:
    target = resolve("text-minilm-l6", "beauty")
    assert target.path == home / "artifacts/beauty/text-minilm-l6"
    assert (target.artifact, target.task, target.is_language_model) == (None, "ctr", True)
    assert "onnx-int4" in target.variants
    assert target.how_to_make == "rbserve train --model text-minilm-l6 --dataset beauty"
    with pytest.raises(UsageError, match="unknown variant of text-minilm-l6: onnx-int7"):
        target.check_variants(["onnx-int7"])


def test_a_row_that_is_trained_comes_with_its_artefact(home: Path, trained: Artifact) -> None:
    target = resolve("dnn", "beauty")
    assert target.artifact is not None
    assert target.artifact.manifest == trained.manifest
    assert target.variants == trained.can_have


def test_random_weights_are_kept_apart(home: Path) -> None:
    target = resolve("dnn", "beauty", random=True)
    assert target.path == home / "artifacts/beauty/dnn-random"
    assert (target.artifact, target.random, target.name) == (None, True, "dnn-random")
    assert artifact_name("zeroshot-opt-350m", random=True) == "zeroshot-opt-350m-random"


def test_a_student_is_its_row_and_its_teacher(home: Path) -> None:
    target = resolve("dnn-from-text-minilm-l6", "beauty")
    assert (target.spec, target.model.teacher) == (find_model("dnn"), "text-minilm-l6")
    assert target.path == home / "artifacts/beauty/dnn-from-text-minilm-l6"
    assert target.how_to_make == "rbserve distill --teacher text-minilm-l6 --student dnn --dataset beauty"
    assert parse_model("dnn-from-gdcn-from-dnn").teacher == "gdcn-from-dnn"


def test_a_directory_is_opened_and_brings_its_own_data_set(home: Path) -> None:
    for name in ("artifacts/beauty/dnn", home / "artifacts/beauty/dnn"):
        target = resolve(name, "another")
        assert target.artifact is not None
        assert (target.dataset, target.model.spec) == (target.artifact.manifest.dataset.name, None)
    with pytest.raises(ArtifactError, match="no artefact at"):
        resolve("./gone")


def test_a_directory_without_a_slash_is_known_by_its_manifest(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse_model("dnn").spec is not None
    monkeypatch.chdir(home / "artifacts" / "beauty")
    assert parse_model("dnn").spec is None
    assert model_path("dnn", "another") == Path("dnn")


def test_a_list_is_rows_in_the_order_of_the_tables_then_the_others(home: Path) -> None:
    names = [str(model) for model in parse_models(["gdcn,./mine,dnn-from-gdcn,dnn", "dnn,sasrec-3l"])]
    assert names == ["dnn", "gdcn", "./mine", "dnn-from-gdcn", "sasrec-3l"]
    assert [model.spec for model in parse_models(["A"])] == [*models("A")]
    assert [model.spec for model in parse_models(["all"])] == [*MODELS]
    strange = home / "a,b"
    strange.mkdir()
    assert [str(model) for model in parse_models([str(strange)])] == [str(strange)]


@pytest.mark.parametrize("name", ["dnnn", "dnnn-from-gdcn", "dnn-random", ""])
def test_a_name_of_no_row_is_refused(home: Path, name: str) -> None:
    with pytest.raises(UsageError, match="unknown model"):
        resolve(name, "beauty")


def _reads_a_name(node: ast.AST) -> bool:
    """Whether the code has a mark of a name, or cuts a text at a hyphen."""
    if isinstance(node, ast.Constant) and node.value in MARKS:
        return True
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CUTS:
        at_hyphen = any(isinstance(word, ast.Constant) and word.value == "-" for word in node.args)
        return at_hyphen and not ast.unparse(node.func.value).endswith("variant")
    if isinstance(node, ast.ImportFrom):
        return any(alias.name in ("FROM", "RANDOM") for alias in node.names)
    return isinstance(node, ast.FunctionDef) and node.name.strip("_") == "is_path"


def _product_files() -> dict[str, ast.Module]:
    folders = (ROOT / folder for folder in ("rbserve", "train", "exporters", "profilers"))
    files = (file for folder in folders for file in sorted(folder.rglob("*.py")))
    return {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text()) for file in files}


def test_one_module_reads_the_names_of_models() -> None:
    files = _product_files()
    reading = {name for name, tree in files.items() if any(map(_reads_a_name, ast.walk(tree)))}
    assert reading - MAKES_NAMES - READS_VARIANTS == READS_NAMES
    asking = {
        name
        for name, tree in files.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and "names_directory" in {alias.name for alias in node.names}
    }
    assert asking <= MEANS_NAMES


@pytest.mark.parametrize(
    ("code", "reads"),
    [
        ('name.split("-")[1]', True),
        ('model.partition("-from-")', True),
        ('name.endswith("-cbs")', True),
        ("from rbserve.core.distillation import FROM", True),
        ("def is_path(text): ...", True),
        ('f"{name}-cbs"', True),
        ('text.split(",")', False),
    ],
)
def test_reading_a_name_is_recognised(code: str, reads: bool) -> None:
    assert any(map(_reads_a_name, ast.walk(ast.parse(code)))) is reads
