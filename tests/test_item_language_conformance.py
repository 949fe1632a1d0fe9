"""Rows that read items as tokens pass the conformance suite, in every variant, and remember users."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from conformance import (
    check_a_loaded_copy_scores_the_same,
    check_empty_history_and_empty_slate_are_legal,
    check_it_learns_the_planted_structure,
    check_new_items_score_by_their_content,
    check_variants,
)
from small_backbone import make_backbone

from rbserve.core.errors import Interrupted, UsageError
from rbserve.core.options import with_options
from rbserve.core.requests import slate_request
from rbserve.core.types import ModelSpec, no_progress
from rbserve.data.artifact import WEIGHTS, Artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters.export import export
from rbserve.exporters.parity import PROBABILITY_TOLERANCE
from rbserve.models.configs import ItemLanguageConfig
from rbserve.models.item_language import ItemLanguage
from rbserve.models.items import VectorItems
from rbserve.models.zoo import find_model, with_backbone
from rbserve.profilers.measure.harness import profile
from rbserve.runs.plan import Plan
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.histories import HistoryScorer
from rbserve.runtimes.opening import open_scorer
from rbserve.runtimes.openvino import without_bf16
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings
from rbserve.train.tasks.align import align
from rbserve.train.tasks.ctr import make

SMALL = {"dim": "16", "hidden": "32", "layers": "2", "dropout": "0", "layers_rate": "1.0"}
KINDS = {"llama": {}, "bert": {"item_tokens": "2"}, "opt": {"lora_rank": "4"}}
"""Small language models, and what their rows have beside SMALL."""


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make_backbone(name, tmp_path_factory.mktemp("backbones") / name) for name in (*KINDS, "t5")}


def row(folder: Path, **options: str) -> ModelSpec:
    spec = find_model("item-smollm2-135m")
    return dataclasses.replace(
        spec, config=with_options(spec.config, {"backbone": str(folder), **SMALL, **options})
    )


def settings(**changed: Any) -> Settings:
    return Settings(**{"batch": 16, "micro_batch": 16, "lr": 5e-3, "epochs": 4, "patience": 9, **changed})


@pytest.fixture(scope="module", params=KINDS)
def artifact(
    request: pytest.FixtureRequest,
    backbones: dict[str, Path],
    planted: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Artifact:
    spec = row(backbones[request.param], **KINDS[request.param])
    return export(train(spec, planted, tmp_path_factory.mktemp("items") / "item", settings()), planted)


def test_a_row_conforms(artifact: Artifact, planted: Dataset, tmp_path: Path) -> None:
    check_it_learns_the_planted_structure(artifact, planted)
    check_a_loaded_copy_scores_the_same(artifact, planted, tmp_path / "copy")
    check_new_items_score_by_their_content(artifact, planted)
    check_variants(artifact, planted, {"torch-fp32": 1e-5, "onnx-fp32": 1e-5, "onnx-int8": 5e-3})


def test_exported_scores_agree_with_the_reference(artifact: Artifact, planted: Dataset) -> None:
    test = planted.ctr("test")
    reference = score_rows(open_scorer(artifact, "torch-fp32"), test.histories, test.candidates)
    fp32 = score_rows(open_scorer(artifact, "onnx-fp32"), test.histories, test.candidates)
    np.testing.assert_allclose(fp32, reference, atol=PROBABILITY_TOLERANCE, rtol=0)
    half = score_rows(open_scorer(artifact, "torch-bf16"), test.histories, test.candidates)
    assert 0 < np.abs(half - reference).max() < 0.1
    int8 = artifact.manifest.variants["onnx-int8"].parity
    assert int8.auc_difference is not None
    assert abs(int8.auc_difference) < 0.005


VARIANTS = [
    "torch-fp32", "onnx-fp32", "onnx-int8",
    pytest.param("openvino-bf16", marks=pytest.mark.skipif(bool(without_bf16()), reason=without_bf16() or "")),
]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_remembered_user_scores_as_before(artifact: Artifact, planted: Dataset, variant: str) -> None:
    """At first, again, with one item more, and with a history that begins as a known one does."""
    scorer, slate = open_scorer(artifact, variant), np.arange(5, dtype=np.int32)
    assert isinstance(scorer, HistoryScorer)
    again = scorer.remembering(1 << 20)
    history = np.array([3, 7, 11, 20], np.int32)
    for read in (history, history, np.append(history, 30).astype(np.int32), history[:2], history[:0]):
        request = slate_request(read, slate)
        np.testing.assert_allclose(
            again.score(request), scorer.score(request), atol=0.02 if "fp32" not in variant else 1e-5, rtol=0
        )
    assert again.user_cache is not None
    assert again.user_cache.bytes_kept > 0
    assert again.user_cache.tokens_found >= len(history)


def test_a_known_history_is_not_read_again(artifact: Artifact) -> None:
    stages: list[str] = []
    scorer = open_scorer(artifact, "onnx-fp32", user_cache=1 << 20)
    assert isinstance(scorer, HistoryScorer)
    request = slate_request(np.array([3, 7], np.int32), np.arange(5, dtype=np.int32))
    for _ in range(2):
        scorer.score_staged(request, stages.append)
    assert stages == ["user cache", "history and candidates", "user cache", "candidates"]


def test_it_is_profiled_warm(artifact: Artifact, planted: Dataset) -> None:
    plan = Plan(slates=(3,), processes=1, runs=3, seconds=0.05, test_users=4, warm=True)
    measured = profile(artifact, planted, plan, ["onnx-fp32"])
    assert [result.warm_ms is not None for result in measured.results if result.scope != "warm"] == [True]


def test_an_interrupted_training_ends_with_the_same_weights(
    backbones: dict[str, Path], planted: Dataset, tmp_path: Path
) -> None:
    spec, short = row(backbones["llama"]), settings(epochs=1, epoch_rows=64)
    whole = train(spec, planted, tmp_path / "whole", short)

    steps = 0

    def stop(_done: int, _total: int, line: str) -> None:
        nonlocal steps
        steps += "epoch" in line
        if steps == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        train(spec, planted, tmp_path / "parts", short, progress=stop)
    parts = train(spec, planted, tmp_path / "parts", short, resume=True)
    assert whole.file(WEIGHTS).read_bytes() == parts.file(WEIGHTS).read_bytes()


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_alignment_teaches_tokens_what_the_layers_say_of_texts(
    backbones: dict[str, Path], planted: Dataset, name: str
) -> None:
    """And nothing else: the layers and the vectors of the texts stay as they are."""
    spec = row(backbones[name], item_tokens="2", dim="64")
    model = cast(ItemLanguage, make(spec, planted, no_progress)[0])
    items = cast(VectorItems, model.item_embedding)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    config = cast(ItemLanguageConfig, with_options(spec.config, {"align": "30"}))
    errors = align(model.layers, items, planted.items.texts, config, no_progress)
    assert errors[-1] < 0.6 * errors[0]
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith(("item_embedding.hidden", "item_embedding.projection", "layers.token", "layers.start"))
               for key in changed)  # fmt: skip


def test_drawn_weights_have_the_language_models_shape(
    backbones: dict[str, Path], planted: Dataset, tmp_path: Path
) -> None:
    spec = row(backbones["llama"], start="drawn")
    drawn = train(spec, planted, tmp_path / "drawn", settings(epochs=1, epoch_rows=16))
    known = train(row(backbones["llama"]), planted, tmp_path / "known", settings(epochs=1, epoch_rows=16))
    sizes = [one.manifest.files[WEIGHTS].bytes for one in (drawn, known)]
    assert sizes[0] == sizes[1]
    assert drawn.file(WEIGHTS).read_bytes() != known.file(WEIGHTS).read_bytes()


def test_random_weights_are_exported(backbones: dict[str, Path], planted: Dataset, tmp_path: Path) -> None:
    spec = dataclasses.replace(row(backbones["llama"]), random=True)
    made = export(train(spec, planted, tmp_path / "random", settings()), planted, ["fp32", "int8"])
    check_empty_history_and_empty_slate_are_legal(open_scorer(made, "onnx-int8"))


def test_what_cannot_be_read_is_refused(backbones: dict[str, Path], planted: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"layers=3, and .* has 2"):
        train(row(backbones["llama"], layers="3"), planted, tmp_path / "deep", settings())
    with pytest.raises(UsageError, match="encoder-decoder"):
        train(row(backbones["t5"]), planted, tmp_path / "t5", settings())


def test_every_decoder_and_encoder_has_a_row() -> None:
    assert find_model("item-opt-1b").config.backbone == "opt-1b"
    assert with_backbone("item", "someone/some-model").name == "item-some-model"
    with pytest.raises(UsageError):
        find_model("item-gpt-3.5")
