"""Encoders whose candidates meet the history late: what they score, wherever a candidate's states come from."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conformance import (
    check_a_loaded_copy_scores_the_same,
    check_a_slate_scores_like_its_candidates_one_by_one,
    check_empty_history_and_empty_slate_are_legal,
    check_scores_are_probabilities,
)
from small_backbone import make_backbone

from rbserve.core.errors import ArtifactError, UsageError
from rbserve.core.files import digest
from rbserve.core.options import with_options
from rbserve.core.requests import slate_request
from rbserve.core.types import ModelSpec
from rbserve.data.artifact import ITEM_STATES, Artifact, open_artifact
from rbserve.data.columns import ColumnWriter
from rbserve.data.dataset import Dataset
from rbserve.data.golden import scored_otherwise
from rbserve.exporters.export import export
from rbserve.models.lm import ClickModel
from rbserve.models.prompts import Packed, pack
from rbserve.models.zoo import find_model
from rbserve.profilers.measure.harness import profile
from rbserve.runs.plan import Plan
from rbserve.runtimes import language, meeting
from rbserve.runtimes.contents import artifact_prompts, artifact_states, artifact_tokenizer
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.language import LanguageScorer
from rbserve.runtimes.meeting import MeetingScorer
from rbserve.runtimes.opening import open_scorer
from rbserve.runtimes.openvino import without_bf16
from rbserve.stats.pairwise import auc
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings
from rbserve.train.tasks.language import LanguageTask, make

pytestmark = pytest.mark.usefixtures("few_validation_rows")

CASES = [
    ("sentence-bert", 1),
    ("sentence-bert", 2),
    ("sentence-mpnet", 1),
    ("sentence-mpnet", 2),
    ("bert", 1),
    ("mpnet", 1),
]
"""Small backbones of two layers, and the layers in which their candidates are alone."""


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("backbones")
    return {name: make_backbone(name, folder / name) for name in {name for name, _ in CASES}}


def row(folder: Path, meet: int, **options: Any) -> ModelSpec:
    spec = find_model("text-minilm-l6")
    changed = {"backbone": str(folder), "meet": meet, "lora_rank": 0, **options}
    return dataclasses.replace(spec, config=with_options(spec.config, changed))


def made(folder: Path, meet: int, dataset: Dataset, **options: Any) -> tuple[ClickModel, LanguageTask]:
    torch.manual_seed(1)
    model, task = make(row(folder, meet, **options), dataset, lambda *_: None)
    return model.eval(), task


def tensors(packed: Packed) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in packed.arrays.items()}


@pytest.mark.parametrize(("name", "meet"), CASES)
def test_candidates_packed_together_have_the_odds_of_candidates_alone(
    name: str, meet: int, backbones: dict[str, Path], planted: Dataset
) -> None:
    model, task = made(backbones[name], meet, planted)
    prompts, history = task.prompts, planted.ctr("test").histories[0]
    prefix, suffixes = prompts.prefix(history), [prompts.suffix(item) for item in (1, 5, 9)]
    with torch.inference_mode():
        together = model(**tensors(pack(prefix, suffixes, prompts.pieces)))[0][0]
        alone = [model(**tensors(pack(prefix, [suffix], prompts.pieces)))[0][0, 0] for suffix in suffixes]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-5)
    assert len({round(float(odds), 4) for odds in together}) == 3


@pytest.mark.parametrize(("name", "meet"), CASES)
def test_a_candidates_early_states_are_those_of_its_text_alone_and_depend_on_nothing_else(
    name: str, meet: int, backbones: dict[str, Path], planted: Dataset
) -> None:
    """Behind histories of any length: the packed forward that is trained gives what the table has."""
    model, task = made(backbones[name], meet, planted)
    prompts, encoder = task.prompts, model.language
    suffix = prompts.suffix(3)
    alone = tensors(pack(suffix, [], prompts.pieces))
    del alone["read"]
    with torch.inference_mode():
        expected = encoder.early(**alone)[0]
        for history in (np.arange(1), np.arange(7)):
            packed = pack(
                prompts.prefix(history.astype(np.int32)), [prompts.suffix(8), suffix], prompts.pieces
            )
            given = tensors(packed)
            own = given["mask"] & given["mask"].transpose(1, 2)
            states = encoder.early(given["tokens"], given["positions"], own)[0]
            torch.testing.assert_close(states[-len(suffix) :], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["sentence-bert", "sentence-mpnet", "bert", "mpnet"])
def test_some_layers_after_others_compute_what_all_layers_do(
    name: str, backbones: dict[str, Path], planted: Dataset
) -> None:
    """A prompt of one part, beside the forward that meet=0 has: transformers' own, of BERT."""
    model, task = made(backbones[name], 0, planted)
    packed = tensors(pack(task.prompts.prefix(np.arange(5, dtype=np.int32)), [], task.prompts.pieces))
    inputs = packed["tokens"], packed["positions"], packed["mask"]
    with torch.inference_mode():
        expected, cache = model.language.hidden(*inputs)
        model.language.meet = 1
        hidden, late_cache = model.language.hidden(*inputs)
    torch.testing.assert_close(hidden, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(late_cache, cache[1:], rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def artifact(
    request: pytest.FixtureRequest,
    backbones: dict[str, Path],
    planted: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Artifact:
    name, meet = request.param
    settings = Settings(batch=8, micro_batch=4, lr=1e-3, epochs=1, epoch_rows=24)
    path = tmp_path_factory.mktemp("late") / f"{name}-{meet}"
    return export(
        train(row(backbones[name], meet), planted, path, settings), planted, ["fp32", "int8", "int4"]
    )


def test_every_variant_conforms(artifact: Artifact, planted: Dataset, tmp_path: Path) -> None:
    check_a_loaded_copy_scores_the_same(artifact, planted, tmp_path / "copy")
    assert artifact.manifest.variants["onnx-fp32"].parity.max_abs <= 1e-5
    assert len(artifact.manifest.variants["onnx-int8"].graphs) == 2
    for variant in artifact.variants:
        scorer = open_scorer(artifact, variant)
        tolerance = 5e-3 if variant in ("onnx-int8", "onnx-int4") else 1e-5
        check_a_slate_scores_like_its_candidates_one_by_one(scorer, planted, tolerance)
        check_empty_history_and_empty_slate_are_legal(scorer)
        checks = artifact.checks(variant)
        assert checks is None or scored_otherwise(checks, scorer.score) is None
    check_scores_are_probabilities(open_scorer(artifact, "onnx-fp32"), planted, rows=60)


@pytest.mark.skipif(bool(without_bf16()), reason=without_bf16() or "")
@pytest.mark.parametrize("artifact", CASES[:2], indirect=True, ids=["layer-1", "layer-2"])
def test_the_fp32_graphs_score_alike_in_bf16(artifact: Artifact, planted: Dataset) -> None:
    exact, coarse = (open_scorer(artifact, variant) for variant in ("onnx-fp32", "openvino-bf16"))
    assert isinstance(coarse, LanguageScorer)
    warm = coarse.remembering(1 << 20)
    request = slate_request(planted.ctr("test").histories[0], np.arange(9, dtype=np.int32))
    for scorer in (coarse, warm, warm):
        np.testing.assert_allclose(scorer.score(request), exact.score(request), atol=0.03, rtol=0)
    check_empty_history_and_empty_slate_are_legal(coarse)


def test_ids_texts_and_computed_states_score_alike(artifact: Artifact, planted: Dataset) -> None:
    """Of the table, of texts that are no items, beside one another; and all computed, without a table.

    Where a number lies between two of 16 bits, a difference of 1e-7 moves it by a step of these.
    """
    tokenizer, prompts = artifact_tokenizer(artifact), artifact_prompts(artifact)
    history, rows = planted.ctr("test").histories[0], [3, 7, 11, 20]
    texts = [tokenizer.tokens(planted.items.texts[item]) for item in rows]
    for variant, tolerance in (("torch-fp32", 2e-4), ("onnx-fp32", 2e-4), ("onnx-int8", 2e-2)):
        scorer = open_scorer(artifact, variant)
        assert isinstance(scorer, MeetingScorer)
        by_id = scorer.score(slate_request(history, np.array(rows, np.int32)))
        bare = MeetingScorer(scorer._halves, prompts, None)
        for scores in (
            scorer.score_tokens(history, texts),
            scorer.score_tokens(history, [rows[0], texts[1], rows[2], texts[3]]),
            scorer.score_tokens([prompts.items[item] for item in history], texts),
            bare.score(slate_request(history, np.array(rows, np.int32))),
        ):
            np.testing.assert_allclose(scores, by_id, atol=tolerance, rtol=0)
        assert len(set(np.round(by_id, 6).tolist())) == 4


def test_groups_of_candidates_score_like_one_call(
    artifact: Artifact, planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    history, candidates = planted.ctr("test").histories[0], np.arange(12, dtype=np.int32)
    for variant in ("torch-fp32", "onnx-fp32"):
        scorer = open_scorer(artifact, variant)
        together = scorer.score(slate_request(history, candidates))
        with monkeypatch.context() as patch:
            patch.setattr(language, "CALL_TOKENS", 5)
            patch.setattr(meeting, "ROWS_TOKENS", 40)
            in_parts = scorer.score(slate_request(history, candidates))
        np.testing.assert_allclose(in_parts, together, atol=1e-5, rtol=0)


def test_a_known_user_scores_the_same_and_is_not_read_again(artifact: Artifact, planted: Dataset) -> None:
    """Also with a history that grew, all of which is read anew."""
    for variant in ("torch-fp32", "onnx-fp32"):
        cold = open_scorer(artifact, variant)
        assert isinstance(cold, LanguageScorer)
        warm, candidates = cold.remembering(1 << 24), np.arange(15, dtype=np.int32)
        history = planted.ctr("test").histories[0]
        stages: list[list[str]] = []
        for read in (history[:-1], history, history[:-1], history):
            stages.append([])
            request = slate_request(read, candidates)
            scores = warm.score_staged(request, stages[-1].append)
            np.testing.assert_allclose(scores, cold.score(request), atol=1e-5, rtol=0)
        assert [("user cache" in heard, "prefill" in heard) for heard in stages] == [
            (False, True), (False, True), (True, False), (True, False)
        ]  # fmt: skip


def test_the_table_is_read_from_the_file_and_has_the_states_of_every_item(
    artifact: Artifact, planted: Dataset
) -> None:
    table, prompts = artifact_states(artifact), artifact_prompts(artifact)
    assert table is not None
    assert not table.flags.owndata
    assert (table.dtype, table.shape[1]) == (np.float16, 32)
    sizes = [1 if prompts.pieces.pooled else len(prompts.suffix(item)) for item in range(len(planted.items))]
    assert [len(table[prompts.state_rows(item)]) for item in range(len(sizes))] == sizes
    assert len(table) == sum(sizes)
    size = artifact.manifest.files[ITEM_STATES].bytes
    assert size == pytest.approx(table.nbytes, abs=256)
    assert ITEM_STATES in artifact.variant_files("onnx-int8"), "what a profile says of the variant's size"


def test_a_table_of_other_items_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    copy = open_artifact(Path(shutil.copytree(artifact.path, tmp_path / "copy")))
    column = ColumnWriter(copy.path / ITEM_STATES, np.float16)
    column.append(np.zeros(33, np.float16))
    column.close()
    copy.manifest.files[ITEM_STATES] = digest(copy.path / ITEM_STATES)
    with pytest.raises(ArtifactError, match="33 numbers of states"):
        open_scorer(copy, "onnx-fp32")


@pytest.mark.parametrize("artifact", [("sentence-bert", 2)], indirect=True)
def test_it_is_profiled_with_its_cost_cold_and_warm(artifact: Artifact, planted: Dataset) -> None:
    """A user who is remembered costs less than one whose history is read."""
    plan = Plan(1, 2, 5.0, [4], 1, "forward", seed=1, test_users=3, warm=True, cost=True)
    run = profile(artifact, planted, plan, ["onnx-int8"])
    assert [result.scope for result in run.results] == ["forward", "warm"]
    stages = [result.stages or {} for result in run.results]
    assert ["prefill" in names for names in stages] == [True, False]
    assert all("item states" in names for names in stages)
    (cost,) = run.costs
    assert sum(cost.flops.values()) > 0


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("sentence-bert", {"meet": 3}, "has 2 layers"),
        ("bert", {"meet": 2}, r"\[MASK\] must see the history"),
        ("bert", {"meet": 1, "shared_history": False}, "sees the candidate in every layer"),
        ("bert", {"meet": 1, "checkpointing": True}, "recompute nothing"),
        ("llama", {"meet": 1}, "is no encoder"),
        ("t5", {"meet": 1}, "is no encoder"),
    ],
)
def test_what_cannot_meet_late_is_refused(
    name: str, options: dict[str, Any], reason: str, planted: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        make(row(make_backbone(name, tmp_path / name), **options), planted, lambda *_: None)
    assert refused.value.hint


@pytest.mark.parametrize("meet", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_it_learns_what_is_liked(
    meet: int, backbones: dict[str, Path], judged: Dataset, tmp_path: Path
) -> None:
    """A ranking that knew the topics would reach an AUC of 0.9."""
    settings = Settings(batch=4, micro_batch=4, lr=1e-3, epochs=3, epoch_rows=680)
    artifact = train(row(backbones["sentence-bert"], meet), judged, tmp_path / "late", settings)
    test = judged.ctr("test")
    scores = score_rows(open_scorer(artifact, "torch-fp32"), test.histories, test.candidates)
    assert auc(test.labels, scores) > 0.75


def test_random_weights_have_drawn_states_that_are_served_and_exported(
    backbones: dict[str, Path], planted: Dataset, tmp_path: Path
) -> None:
    """Latency can be measured before anything is trained, and a large catalogue takes seconds."""
    spec = dataclasses.replace(row(backbones["sentence-bert"], 1), random=True)
    lines: list[str] = []
    drawn = train(spec, planted, tmp_path / "random", Settings(), say=lines.append)
    size = drawn.manifest.files[ITEM_STATES].bytes / 2**20
    assert [line for line in lines if f"the states of 82 items take {size:,.1f} MiB" in line]
    artifact = export(drawn, planted, ["int8"])
    table = artifact_states(artifact)
    assert table is not None
    assert table.std() == pytest.approx(1, abs=0.05)
    slate = slate_request(np.arange(3, dtype=np.int32), np.arange(4, dtype=np.int32))
    assert np.isfinite(open_scorer(artifact, "onnx-int8").score(slate)).all()
