"""Sessions of exported graphs: 8-bit products are exact on every processor, and no slower than they need be."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from rbserve.core.errors import ArtifactError
from rbserve.data.artifact import Artifact
from rbserve.runtimes import openvino, session


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", ["avx2", "avx512f"], True),
        ("x86_64", [], True),  # not told: the exact kernel
        ("x86_64", ["avx2", "avx_vnni"], False),
        ("AMD64", ["avx512_vnni"], False),
        ("aarch64", ["asimd"], False),
    ],
)
def test_only_x86_without_vnni_saturates(machine: str, flags: list[str], expected: bool) -> None:
    assert session.saturates(machine, flags) is expected


@pytest.mark.parametrize("vnni", [True, False])
def test_the_exact_kernel_is_asked_for_where_the_usual_one_is_not_exact(
    vnni: bool, trained: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is, of version 0.1's language models. Where the usual one is exact, the other costs two and a half times."""
    flags = {"avx512_vnni"} if vnni else {"avx2"}
    monkeypatch.setattr(session, "processor", lambda: ("Invented 4000", flags))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    graph: Path = trained.file("onnx/int8.onnx")
    silent = onnx.load(graph)
    del silent.metadata_props[:]
    onnx.save(silent, tmp_path / "silent.onnx")
    asked = [
        _asks_for_the_exact_kernel(path, eight_bits)
        for path in (graph, tmp_path / "silent.onnx") for eight_bits in (False, True)
    ]  # fmt: skip
    assert asked == [False, False, False, not vnni]


@pytest.mark.parametrize(
    ("flags", "found", "reason"),
    [
        ({"avx2", "avx512_vnni"}, True, "this processor has no bf16"),
        ({"amx_bf16"}, False, "openvino is not installed"),
        ({"avx512_bf16"}, True, None),
    ],
)
def test_bf16_is_refused_where_it_cannot_be_had(
    flags: set[str], found: bool, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "processor", lambda: ("Invented 4000", flags))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: found or None)
    assert openvino.without_bf16() == reason


@pytest.mark.skipif(bool(openvino.without_bf16()), reason=openvino.without_bf16() or "")
def test_a_graph_that_openvino_cannot_load_is_told(tmp_path: Path) -> None:
    """A file that is none, and one of the opset of which it takes the axes of a sum for all of them."""
    broken, old = tmp_path / "broken.onnx", tmp_path / "old.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match=r"openvino cannot load .*broken\.onnx"):
        openvino.open_bf16_session(broken, 1)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "N", 2])
    answers = helper.make_tensor_value_info("answers", TensorProto.FLOAT, ["B", "N"])
    node = helper.make_node("ReduceLogSumExp", ["x"], ["answers"], axes=[-1], keepdims=0)
    graph = helper.make_graph([node], "old", [given], [answers])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), old)
    with pytest.raises(ArtifactError, match=r"openvino misreads .*old\.onnx, which an earlier version wrote"):
        openvino.open_bf16_session(old, 1)


def _asks_for_the_exact_kernel(graph: Path, eight_bits: bool) -> bool:
    options = session.open_session(graph, 1, eight_bits).get_session_options()
    try:
        return bool(options.get_session_config_entry("session.x64quantprecision") == "1")
    except RuntimeError:  # there is no such entry
        return False
