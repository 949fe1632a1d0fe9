"""The table of variants: what depends on a variant is said in its row, and no other module knows one by name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from rbserve.core.tasks import CTR, SEQREC
from rbserve.core.variants import (
    BY_PRECISION,
    EXPORTABLE,
    FP32,
    INDEXES,
    VARIANTS,
    device_of,
    export_option,
    exports_of,
    find_variant,
    possible_variants,
    precisions_of,
    weights_size,
)

ROOT = Path(__file__).resolve().parent.parent.parent
PRODUCT = ("rbserve", "train", "exporters", "profilers")
# A runtime and a kind of config, a format and a library, or a separator, have the same name as these variants.
ALSO_OTHER_NAMES = {"endpoint", "python", "native"}


def spelled(tree: ast.AST) -> list[str]:
    """The texts in a module that are names of variants; docstrings and longer texts, such as help, are none."""
    names = {row.name for row in VARIANTS} - ALSO_OTHER_NAMES
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in names
    ]


@pytest.mark.parametrize("folder", PRODUCT)
def test_no_other_module_spells_the_name_of_a_variant(folder: str) -> None:
    table = ROOT / "rbserve/core/variants.py"
    modules = [path for path in (ROOT / folder).rglob("*.py") if path != table]
    assert modules
    for path in modules:
        assert not spelled(ast.parse(path.read_text())), path


def test_a_spelled_name_would_be_seen() -> None:
    assert spelled(ast.parse('if variant == "onnx-int8":\n    pass')) == ["onnx-int8"]


def test_the_rows_have_names_colours_and_markers_of_their_own() -> None:
    assert len({row.name for row in VARIANTS}) == len(VARIANTS)
    drawn = [row for row in VARIANTS if row.colour != find_variant("of an older version").colour]
    assert len(drawn) >= 5
    for field in ("colour", "dark_colour", "marker"):
        assert len({getattr(row, field) for row in drawn}) == len(drawn), field


def test_every_runtime_is_a_module_that_opens_and_says_why_it_cannot() -> None:
    for row in VARIANTS:
        module = (ROOT / f"rbserve/runtimes/{row.runtime}.py").read_text()
        functions = {node.name for node in ast.parse(module).body if isinstance(node, ast.FunctionDef)}
        assert {"open", "unavailable"} <= functions, row.runtime


def test_which_models_have_which_variants() -> None:
    exported = ["onnx-fp32", "onnx-int8"]
    language = ["torch-fp32", *exported, "onnx-int4", "openvino-bf16", "torch-bf16"]
    assert possible_variants(CTR.name, "recommender") == ["torch-fp32", *exported]
    assert possible_variants(SEQREC.name, "language") == language
    searched = [
        name for name in possible_variants(SEQREC.name, "recommender") if find_variant(name).approximate
    ]
    assert searched == ["faiss-hnsw", "faiss-ivf", "faiss-ivf-int8", "faiss-ivf-pq"]
    assert possible_variants(SEQREC.name, "codes") == ["torch-fp32", *exported]
    assert possible_variants(CTR.name, "language") == [*language, "torch-recbench"]
    assert possible_variants(CTR.name, "endpoint") == ["endpoint"]


def test_an_adopted_model_has_what_it_came_as_and_the_graph_that_it_was_converted_to() -> None:
    graphs = ["onnx-fp32", "onnx-int8", "onnx-fp16"]
    assert possible_variants(CTR.name, "graph") == graphs
    assert possible_variants(CTR.name, "program") == ["torch-fp32", *graphs]
    assert possible_variants(CTR.name, "library") == ["native", *graphs]


def test_variants_are_exported_loaded_and_named_by_their_rows() -> None:
    indexes = ("faiss-hnsw", "faiss-ivf", "faiss-ivf-int8", "faiss-ivf-pq")
    assert ("onnx-fp32", "onnx-int8", "onnx-int4", "onnx-fp16", *indexes) == EXPORTABLE
    assert INDEXES == ("hnsw", "ivf", "ivf-int8", "ivf-pq")
    assert [export_option(name) for name in EXPORTABLE[1:5:3]] == ["--precision int8", "--index hnsw"]
    assert exports_of(["torch-fp32", "openvino-bf16", "onnx-int8", "onnx-fp32"]) == ["onnx-fp32", "onnx-int8"]
    assert precisions_of(["torch-fp32", "onnx-int4"]) == ["int4"]
    assert FP32 == ("torch-fp32", "native", "onnx-fp32")
    assert BY_PRECISION == {
        "fp32": "onnx-fp32", "int8": "onnx-int8", "int4": "onnx-int4", "bf16": "openvino-bf16",
        "fp16": "onnx-fp16",
    }  # fmt: skip


def test_openvino_needs_room_for_two_copies_of_the_weights() -> None:
    assert weights_size("openvino-bf16", 100) == 2 * weights_size("onnx-fp32", 100) == 800
    assert weights_size("onnx-int8", 1000) == 1125


def test_a_variant_of_an_old_run_that_the_table_lacks_gets_a_plain_row() -> None:
    row = find_variant("tvm-fp16")
    assert (row.runtime, row.precision, row.automatic, row.usual) == ("tvm", "fp16", False, False)
    assert find_variant("mystery").precision == "unknown"


def test_what_variants_compute_on() -> None:
    assert device_of(["torch-fp32", "onnx-int8"]) == device_of([]) == "cpu"
