"""Fine-tuned language models learn what is planted: from random weights, all of them trained, in seconds."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from small_backbone import make_backbone

from rbserve.core.errors import UsageError
from rbserve.core.options import with_options
from rbserve.core.requests import slate_request
from rbserve.core.tasks import SEQREC
from rbserve.data.artifact import Artifact
from rbserve.data.dataset import Dataset, open_dataset
from rbserve.models.zoo import with_backbone
from rbserve.runs.baselines import baselines
from rbserve.runtimes.contents import artifact_prompts
from rbserve.runtimes.evaluate import rank_rows, score_rows
from rbserve.runtimes.opening import open_ranker, open_scorer
from rbserve.stats.listwise import ndcg_at_k, ranks_in_lists
from rbserve.stats.pairwise import auc
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings

CODES = {"levels": "2", "codes": "16"}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_backbone("llama", tmp_path_factory.mktemp("backbones") / "llama")


@pytest.fixture(scope="module")
def planted(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A copy: identifiers are kept with the data set, and other modules expect theirs alone."""
    return open_dataset(shutil.copytree(planted.path, tmp_path_factory.mktemp("learning") / "planted"))


def fine_tuned(
    recipe: str,
    backbone: Path,
    dataset: Dataset,
    folder: Path,
    changed: Mapping[str, str] = MappingProxyType({}),
    **settings: Any,
) -> Artifact:
    """Every weight, not adapters: those of so small a model have nothing to adapt."""
    spec = with_backbone(recipe, str(backbone))
    options = {"lora_rank": "0", **changed} | (CODES if "sid" in recipe else {})
    spec = dataclasses.replace(spec, config=with_options(spec.config, options))
    return train(spec, dataset, folder / spec.name, Settings(**settings))


@pytest.mark.parametrize("recipe", ["text", pytest.param("p5", marks=pytest.mark.slow), "sid"])
def test_a_pair_wise_row_learns_what_is_liked(
    recipe: str, llama: Path, judged: Dataset, tmp_path: Path
) -> None:
    """A ranking that knew the topics would reach an AUC of 0.9."""
    settings = {"batch": 4, "micro_batch": 4, "lr": 1.5e-3, "epochs": 3, "epoch_rows": 680}
    artifact = fine_tuned(recipe, llama, judged, tmp_path, **settings)
    test = judged.ctr("test")
    scores = score_rows(open_scorer(artifact, "torch-fp32"), test.histories, test.candidates)
    assert auc(test.labels, scores) > 0.75


@pytest.mark.slow
def test_an_encoder_learns_with_a_history_that_sees_the_candidate(judged: Dataset, tmp_path: Path) -> None:
    """What each prompt says depends on all of it, and each is read alone: in training, and when it scores."""
    backbone = make_backbone("sentence-bert", tmp_path / "bert")
    settings = {"batch": 4, "micro_batch": 4, "lr": 1e-3, "epochs": 6, "epoch_rows": 680}
    artifact = fine_tuned("text", backbone, judged, tmp_path, {"shared_history": "false"}, **settings)
    assert not artifact_prompts(artifact).pieces.shared
    test = judged.ctr("test")
    scorer = open_scorer(artifact, "torch-fp32")
    scores = score_rows(scorer, test.histories, test.candidates)
    assert auc(test.labels, scores) > 0.75
    alone = [
        float(scorer.score(slate_request(test.histories[row], test.candidates[row : row + 1]))[0])
        for row in range(20)
    ]
    np.testing.assert_allclose(alone, scores[:20], atol=1e-5, rtol=0)


def test_a_decoders_history_cannot_see_a_candidate(llama: Path, judged: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="shared_history=false is for encoders"):
        fine_tuned("text", llama, judged, tmp_path, {"shared_history": "false"}, epochs=1)


@pytest.mark.parametrize("recipe", ["seq-p5", "seq-sid", "seq-sid-parallel"])
def test_a_list_wise_row_learns_what_follows(
    recipe: str, llama: Path, planted: Dataset, tmp_path: Path
) -> None:
    settings = {"batch": 16, "micro_batch": 16, "lr": 3e-3, "epochs": 4}
    artifact = fine_tuned(recipe, llama, planted, tmp_path, **settings)
    test = planted.seqrec("test")
    ranks = ranks_in_lists(rank_rows(open_ranker(artifact, "torch-fp32"), test.histories, 10), test.targets)
    assert ndcg_at_k(ranks, 10) > 2 * baselines(planted, SEQREC.name).figures["popularity"]["ndcg@10"]
