"""Prompts that are read part by part: the same attention, the same integers, and the same scores as with a mask."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from small_backbone import make_backbone

from rbserve.core.options import with_options
from rbserve.core.requests import slate_request
from rbserve.data.artifact import WEIGHTS, Artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters import weights as weights_module
from rbserve.exporters.export import export
from rbserve.exporters.graph import OPSET, data_file, save
from rbserve.exporters.language import rounding_plan, trace_graph, write
from rbserve.exporters.quantize import DOMAIN, round_matrix, round_rows
from rbserve.exporters.weights import fill
from rbserve.models.part_attention import attend, part_queries
from rbserve.models.part_packing import pack_parts
from rbserve.models.zoo import find_model
from rbserve.runtimes.contents import artifact_prompts
from rbserve.runtimes.language import LanguageScorer, PrefixCache
from rbserve.runtimes.onnx import OnnxLanguageCall
from rbserve.runtimes.opening import open_scorer
from rbserve.runtimes.session import open_session
from rbserve.runtimes.torch import backbone_config, load_model
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings

LENGTHS = st.lists(st.integers(1, 6), min_size=1, max_size=4)


@given(LENGTHS, st.integers(0, 5))
def test_every_token_of_a_part_has_one_place(lengths: list[int], before: int) -> None:
    parts = [np.arange(length) + 10 * number for number, length in enumerate(lengths)]
    packed = pack_parts(parts, before)
    rows = packed.tokens[packed.own]
    np.testing.assert_array_equal(rows.ravel()[packed.place], packed.tokens)
    for part, row, read in zip(parts, rows, packed.read, strict=True):
        np.testing.assert_array_equal(row[: len(part)], part)
        assert packed.tokens[read] == part[-1]
    expected = np.concatenate([before + np.arange(length) for length in lengths])
    np.testing.assert_array_equal(packed.positions, expected)


@settings(max_examples=30, deadline=None)
@given(LENGTHS, st.integers(1, 7), st.integers(1, 3), st.integers(1, 3), st.integers(0, 9))
def test_attention_in_two_summands_is_softmax_over_all_keys(
    lengths: list[int], before: int, groups: int, heads: int, seed: int
) -> None:
    """Beside a softmax over the cache and the tokens of the same part up to the query, token by token."""
    torch.manual_seed(seed)
    packed = pack_parts([np.arange(length) for length in lengths], before)
    own, place, read = (torch.from_numpy(array) for array in (packed.own, packed.place, packed.read))
    total, width = sum(lengths), 4
    query, key, value = (3 * torch.randn(total, number, width) for number in (groups * heads, groups, groups))
    cache = 3 * torch.randn(2, groups, before, width)
    begins = np.repeat(np.cumsum(lengths) - lengths, lengths)
    expected = torch.empty(total, groups * heads, width)
    for token in range(total):
        span = slice(int(begins[token]), token + 1)
        for head in range(groups * heads):
            group = head // heads
            keys = torch.cat((cache[0, group], key[span, group]))
            values = torch.cat((cache[1, group], value[span, group]))
            expected[token, head] = (keys @ query[token, head]).softmax(0) @ values
    keys, values = key.transpose(0, 1)[:, own], value.transpose(0, 1)[:, own]
    every, answering = part_queries(own, place, read, query)
    torch.testing.assert_close(
        attend(query, keys, values, cache, every), expected.flatten(1), rtol=1e-4, atol=1e-5
    )
    found = attend(query[read], keys, values, cache, answering)
    torch.testing.assert_close(found, expected[read].flatten(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1.0, 1e6])
def test_the_rows_of_a_matrix_are_rounded_to_the_integers_of_round_rows(scale: float) -> None:
    rows = np.random.default_rng(3).standard_normal((7, 32)).astype(np.float32) * np.float32(scale)
    rows[2] = 0
    found = []
    for round_activation in (round_rows, round_matrix):
        tensors: dict[str, NDArray[np.generic]] = {}
        nodes = round_activation("x", "x", tensors.__setitem__)
        graph = helper.make_graph(
            nodes, "rounding", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["L", 32])],
            [helper.make_tensor_value_info("x.int8", TensorProto.UINT8, ["L", 32]),
             helper.make_tensor_value_info("x.scale", TensorProto.FLOAT, ["L", 1])],
            [numpy_helper.from_array(array, name) for name, array in tensors.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        found.append(session.run(None, {"x": rows}))
    np.testing.assert_array_equal(found[1][1], found[0][1])
    # A quotient beside a product with the inverse: a half may fall to either side.
    assert np.abs(found[1][0].astype(int) - found[0][0].astype(int)).max() <= 1
    assert (found[1][0] != found[0][0]).mean() < 0.01


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def artifact(
    request: pytest.FixtureRequest, planted: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """A small decoder with all graphs."""
    folder = tmp_path_factory.mktemp("parts")
    spec = find_model("text-smollm2-135m")
    options = {"backbone": str(make_backbone(request.param, folder / "backbone")), "lora_rank": 4}
    spec = dataclasses.replace(spec, config=with_options(spec.config, options))
    made = train(spec, planted, folder / "made", Settings(batch=8, micro_batch=4, epochs=1, epoch_rows=8))
    return export(made, planted, ["fp32", "int8"])


def scorer_of(artifact: Artifact, graph: Path, cache: PrefixCache | None = None) -> LanguageScorer:
    call = OnnxLanguageCall(open_session(graph, threads=1))
    return LanguageScorer(call, artifact_prompts(artifact), cache)


def earlier_graph(artifact: Artifact, path: Path) -> Path:
    """The graph that takes a mask, as versions before wrote it."""
    model = load_model(artifact)
    graph = trace_graph(model, backbone_config(artifact))
    fill(graph, artifact.file(WEIGHTS), lambda name: name, data_file(path), 32, {})
    save(graph, path, {})
    return path


def test_a_graph_of_an_earlier_version_scores_as_one_that_reads_parts(
    artifact: Artifact, planted: Dataset, tmp_path: Path
) -> None:
    earlier = scorer_of(artifact, earlier_graph(artifact, tmp_path / "earlier.onnx"))
    own = scorer_of(artifact, artifact.file("onnx/fp32.onnx"))
    assert own._call.takes_parts
    assert not earlier._call.takes_parts
    histories = planted.ctr("test").histories
    for row, slate in ((0, 1), (1, 7), (2, 40)):
        request = slate_request(histories[row], np.arange(slate, dtype=np.int32))
        np.testing.assert_allclose(own.score(request), earlier.score(request), atol=1e-6, rtol=0)


def test_graphs_in_fp32_have_operators_of_onnx_alone(artifact: Artifact) -> None:
    domains = {
        precision: {node.domain for node in onnx.load(artifact.file(f"onnx/{precision}.onnx")).graph.node}
        for precision in ("fp32", "int8")
    }
    assert domains["fp32"] <= {"", "ai.onnx"}
    assert DOMAIN in domains["int8"]


def test_the_fixed_start_is_read_once_whatever_scorers_share_it(artifact: Artifact, planted: Dataset) -> None:
    """With and without a user cache, which finds more of a prompt than its start."""
    scorer = open_scorer(artifact, "onnx-fp32")
    assert isinstance(scorer, LanguageScorer)
    warm = scorer.remembering(1 << 24)
    test = planted.ctr("test")
    request = slate_request(test.histories[0], np.arange(5, dtype=np.int32))
    scores = [one.score(request) for one in (scorer, warm, warm)]
    assert warm._start is scorer._start
    kept = scorer._start.cache()
    assert kept.shape[-2] == scorer._start.length == len(artifact_prompts(artifact).pieces.start)
    assert scorer._start.cache() is kept
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], atol=1e-6, rtol=0)
    reference = open_scorer(artifact, "torch-fp32").score(request)
    np.testing.assert_allclose(scores[0], reference, atol=1e-5, rtol=0)


def test_scales_that_are_merged_change_no_score(
    artifact: Artifact, planted: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged, apart = tmp_path / "merged", tmp_path / "apart"
    plan = rounding_plan(artifact, planted)
    for folder in (merged, apart):
        folder.mkdir()
        write(artifact, folder, "int8", plan)
        monkeypatch.setattr(weights_module, "merge_scales", list)
    nodes = [len(onnx.load(folder / "int8.onnx").graph.node) for folder in (merged, apart)]
    assert nodes[0] == nodes[1], "a scale moves for each MLP: no node is lost"
    request = slate_request(planted.ctr("test").histories[1], np.arange(9, dtype=np.int32))
    scores = [scorer_of(artifact, folder / "int8.onnx").score(request) for folder in (merged, apart)]
    np.testing.assert_allclose(scores[0], scores[1], atol=2e-3, rtol=0)
    firsts = [
        {
            name
            for node in onnx.load(folder / "int8.onnx").graph.node
            for name in node.output
            if name.endswith(".own")
        }
        for folder in (merged, apart)
    ]
    assert [len(names) for names in firsts] == [2, 0], "one for each of two layers"
