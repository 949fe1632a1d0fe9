"""A program of torch.export is adopted as it computes, and nothing in its file is unpickled, evaluated or called."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from adopted import adopted_graph, small_requests

from rbserve.core.adoption import AdoptOptions
from rbserve.core.errors import UsageError
from rbserve.core.files import digest
from rbserve.data.artifact import Adopted, Artifact, write_manifest
from rbserve.data.request_set import ColumnRecord, RequestSet
from rbserve.exporters.adopt.converted import Converted
from rbserve.exporters.adopt.program import convert
from rbserve.runtimes.opening import open_scorer
from rbserve.runtimes.program import GRAPH, check_program, load_program, program_function, write_clean

COLUMNS = {
    "likes": ColumnRecord("float32", "candidate", None, 0),
    "age": ColumnRecord("float32", "request", None, 1),
}


class Ranker(torch.nn.Module):
    """Scores of candidates' likes and the user's age."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = torch.nn.Linear(2, 8), torch.nn.Linear(8, 1)

    def forward(self, likes: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
        features = torch.stack([likes, age.expand(likes.shape[0])], -1)
        return torch.sigmoid(self.out(torch.relu(self.hidden(features)))).squeeze(-1)


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    torch.manual_seed(0)
    return Ranker().eval()


@pytest.fixture(scope="module")
def saved(ranker: Ranker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of torch.export.save whose first dimension is free."""
    path = tmp_path_factory.mktemp("program") / "ranker.pt2"
    example = torch.zeros(4), torch.tensor(1.0)
    shapes = {"likes": {0: torch.export.Dim("slate")}, "age": None}
    torch.export.save(torch.export.export(ranker, example, dynamic_shapes=shapes), path)
    return path


@pytest.fixture
def requests(tmp_path: Path) -> RequestSet:
    return small_requests(tmp_path / "data")


def adopted_program(path: Path, requests: RequestSet, converted: Converted) -> Artifact:
    """The artefact of a program alone, without an ONNX graph."""
    graph = adopted_graph(path, requests).manifest
    assert graph.adopted is not None
    shutil.rmtree(path / "onnx")
    (file,) = converted.files
    shutil.copy(file, path / file.name)
    adopted = Adopted(
        converted.kind,
        converted.format,
        "ranker.pt2",
        converted.signature,
        graph.adopted.requests,
        [file.name],
    )
    manifest = msgspec.structs.replace(
        graph, files={file.name: digest(path / file.name)}, variants={}, adopted=adopted
    )
    write_manifest(path, manifest)
    return Artifact(path, manifest)


def test_a_program_scores_like_the_module_and_nothing_is_unpickled(
    saved: Path, ranker: Ranker, requests: RequestSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    converted = convert(saved, COLUMNS, AdoptOptions(), tmp_path)
    artifact = adopted_program(tmp_path / "model", requests, converted)
    assert artifact.variants == ["torch-fp32"]
    scorer = open_scorer(artifact, "torch-fp32")
    for number in range(5):
        request = requests.request(artifact.signature, number)
        expected = ranker(torch.from_numpy(request["likes"]), torch.tensor(float(request["age"])))
        np.testing.assert_array_equal(scorer.score(request), expected.detach().numpy())


def test_the_signature_is_that_of_the_program(saved: Path, tmp_path: Path) -> None:
    converted = convert(saved, COLUMNS, AdoptOptions(), tmp_path)
    assert [str(spec) for spec in converted.signature.inputs] == ["likes float32[N]", "age float32[]"]
    assert (converted.kind, converted.format, [file.name for file in converted.files]) == (
        "program", "torch-export", ["program.pt2"],
    )  # fmt: skip
    assert any("counts the candidates" in line for line in converted.guessed)


def test_its_onnx_graph_scores_slates_of_any_size(saved: Path, ranker: Ranker, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    import onnxruntime

    converted = convert(saved, COLUMNS, AdoptOptions(), tmp_path)
    session = onnxruntime.InferenceSession(str(converted.graph))
    for size in (1, 2, 7):
        likes = np.linspace(-1, 1, size, dtype=np.float32)
        (scores,) = session.run(None, {"likes": likes, "age": np.array(0.3, np.float32)})
        expected = ranker(torch.from_numpy(likes), torch.tensor(0.3)).detach().numpy()
        np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_a_program_that_cannot_become_onnx_is_run_by_torch_alone(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no ONNX function for aten.histc\nand a long story")

    monkeypatch.setattr(torch.onnx, "export", fail)
    converted = convert(saved, COLUMNS, AdoptOptions(), tmp_path)
    assert converted.graph is None
    assert converted.guessed[-1] == (
        "It has no ONNX graph, and runs in torch alone: no ONNX function for aten.histc."
    )
    assert [file.name for file in tmp_path.iterdir()] == ["program.pt2"]


def test_read_only_arrays_are_scored(saved: Path, tmp_path: Path) -> None:
    write_clean(saved, tmp_path / "clean.pt2")
    likes = np.zeros(3, np.float32)
    likes.flags.writeable = False
    (scores,) = program_function(load_program(tmp_path / "clean.pt2"))(
        {"likes": likes, "age": np.zeros((), np.float32)}
    )
    assert scores.shape == (3,)


def test_the_copy_says_nothing_of_the_machine_it_was_made_on(saved: Path, tmp_path: Path) -> None:
    write_clean(saved, tmp_path / "clean.pt2")
    with zipfile.ZipFile(saved) as archive:
        assert __file__.encode() in archive.read(f"ranker/{GRAPH}")
    with zipfile.ZipFile(tmp_path / "clean.pt2") as archive:
        assert __file__.encode() not in archive.read(f"ranker/{GRAPH}")
        assert archive.read("ranker/data/sample_inputs/model.pt") == b""


# ---- Files that are refused ----


def rewrite(source: Path, target: Path, member: str, change: Callable[[Any], object]) -> Path:
    """A program's file with one JSON document changed."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as changed:
        for info in archive.infolist():
            content = archive.read(info)
            if info.filename.endswith(member):
                document = json.loads(content)
                change(document)
                content = json.dumps(document).encode()
            changed.writestr(info, content)
    return target


def graph_of(document: Any) -> Any:
    return document["graph_module"]["graph"]


def set_target(document: Any, target: str) -> None:
    graph_of(document)["nodes"][0]["target"] = target


def set_expression(document: Any) -> None:
    size = graph_of(document)["tensor_values"]["likes"]["sizes"][0]
    size["as_expr"]["expr_str"] = "__import__('os').system('touch pwned')"


def set_quoted_code(document: Any) -> None:
    size = graph_of(document)["tensor_values"]["likes"]["sizes"][0]
    size["as_expr"]["expr_str"] = "Symbol('s0; import os')"


def set_name(document: Any) -> None:
    graph_of(document)["nodes"][0]["name"] = "x; import os"


def set_structure(document: Any) -> None:
    signature = document["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = json.dumps(
        [
            1,
            {
                "type": "collections.defaultdict",
                "context": '{"default_factory_module": "shop"}',
                "children_spec": [],
            },
        ]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda graph: set_target(graph, "torch.ops.shop.rank.default"), "calls torch.ops.shop.rank"),
        (lambda graph: set_target(graph, "torch.os.system"), "calls torch.os.system, which is no operator"),
        (lambda graph: set_target(graph, "_operator.call"), "calls _operator.call, which is no operator"),
        (lambda graph: set_target(graph, "torch.ops.aten.from_file.default"), "calls torch.ops.aten.from_file"),
        (lambda graph: set_target(graph, "#shop:rank"), "calls #shop:rank, which is no operator"),
        (set_expression, r"has a dimension that is no expression: __import__\('os'\)"),
        (set_quoted_code, "has a dimension that is no expression: Symbol"),
        (set_name, "has a name that is none: x; import os"),
        (set_structure, "takes or gives structures that are no lists, tuples and dictionaries"),
    ],
)  # fmt: skip
def test_a_graph_that_would_run_other_code_is_refused(
    saved: Path, tmp_path: Path, change: Callable[[Any], object], message: str
) -> None:
    write_clean(rewrite(saved, tmp_path / "changed.pt2", GRAPH, change), tmp_path / "clean.pt2")
    with pytest.raises(UsageError, match=message) as caught:
        load_program(tmp_path / "clean.pt2")
    assert "\n" not in caught.value.message


def set_pickled(document: Any) -> None:
    document["config"]["out.bias"]["use_pickle"] = True


def test_pickled_weights_are_refused(saved: Path, tmp_path: Path) -> None:
    changed = rewrite(saved, tmp_path / "changed.pt2", "model_weights_config.json", set_pickled)
    write_clean(changed, tmp_path / "clean.pt2")
    with pytest.raises(UsageError, match=r"clean\.pt2 has pickled weights") as caught:
        check_program(tmp_path / "clean.pt2")
    assert caught.value.hint == "save it again with torch.export.save of torch 2.9 or newer"


def test_a_file_as_it_was_saved_is_not_loaded_with_its_examples(saved: Path) -> None:
    with pytest.raises(UsageError, match="has pickled example inputs"):
        load_program(saved)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["version", "serialized_state_dict.pt"], "old.pt2 has .*: version"),
        (["ranker/data/weights/model.pt"], "old.pt2 has pickled weights: ranker/data/weights/model.pt"),
        (["ranker/data/aotinductor/model/model.so"], "has a member that is not read: .*model.so"),
        (["ranker/byteorder"], "old.pt2 is no file of torch.export.save: it has no models/model.json"),
        (["ranker/models/model.json"], "old.pt2 is damaged: its graph is no JSON"),
    ],
)
def test_archives_of_other_versions_and_contents_are_refused(
    tmp_path: Path, members: list[str], message: str
) -> None:
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        for member in members:
            archive.writestr(member, b"\x80")
    with pytest.raises(UsageError, match=message):
        write_clean(tmp_path / "old.pt2", tmp_path / "clean.pt2")


def test_a_file_that_is_no_archive_is_refused(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.pt2").write_bytes(saved.read_bytes()[:2000])
    with pytest.raises(UsageError, match="is no file of torch"):
        convert(tmp_path / "cut.pt2", COLUMNS, AdoptOptions(), tmp_path)


def test_what_torch_cannot_read_is_one_line(saved: Path, tmp_path: Path) -> None:
    def age(document: Any) -> None:
        document["schema_version"]["major"] = 1

    write_clean(rewrite(saved, tmp_path / "changed.pt2", GRAPH, age), tmp_path / "clean.pt2")
    with pytest.raises(UsageError, match="cannot read clean") as caught:
        load_program(tmp_path / "clean.pt2")
    assert "\n" not in caught.value.message
