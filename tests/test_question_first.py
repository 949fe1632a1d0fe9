"""Prompts whose question stands before the candidate: what a candidate is then, and that nothing else changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conformance import (
    check_a_loaded_copy_scores_the_same,
    check_a_slate_scores_like_its_candidates_one_by_one,
    check_empty_history_and_empty_slate_are_legal,
)
from small_backbone import make_backbone
from tokenizers import Tokenizer

from rbserve.core.errors import UsageError
from rbserve.core.options import with_options
from rbserve.core.requests import slate_request
from rbserve.core.types import ModelSpec
from rbserve.data.artifact import TOKENIZER, Artifact
from rbserve.data.dataset import Dataset
from rbserve.exporters.export import export
from rbserve.models.prompts import ANSWER, QUESTION_FIRST, ItemTokenizer, item_limit
from rbserve.models.zoo import find_model
from rbserve.profilers.measure.harness import profile
from rbserve.runs.plan import Plan
from rbserve.runtimes.contents import artifact_prompts
from rbserve.runtimes.language import LanguageScorer
from rbserve.runtimes.opening import open_scorer
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings
from rbserve.train.tasks.language import make

pytestmark = pytest.mark.usefixtures("few_validation_rows")


def row(folder: Path, **options: Any) -> ModelSpec:
    spec = find_model("text-smollm2-135m")
    changed = {"backbone": str(folder), "lora_rank": 4, **options}
    return dataclasses.replace(spec, config=with_options(spec.config, changed))


@pytest.fixture(scope="module", params=["llama", "opt"])
def artifact(
    request: pytest.FixtureRequest, planted: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    """A decoder that is read part by part, and one with a mask."""
    folder = tmp_path_factory.mktemp("question")
    spec = row(make_backbone(request.param, folder / "backbone"), question="first")
    made = train(spec, planted, folder / "made", Settings(batch=8, micro_batch=4, epochs=1, epoch_rows=8))
    return export(made, planted, ["fp32", "int8"])


def test_a_candidate_is_its_title_and_a_line_break(artifact: Artifact) -> None:
    prompts, tokenizer = artifact_prompts(artifact), Tokenizer.from_file(str(artifact.file(TOKENIZER)))
    suffix = prompts.suffix(3)
    assert suffix[:-1].tolist() == prompts.items[3].tolist()
    assert suffix[-1] == tokenizer.encode("\n", add_special_tokens=False).ids[-1]
    question = tokenizer.encode(QUESTION_FIRST, add_special_tokens=False).ids
    assert prompts.prefix(np.arange(2, dtype=np.int32))[-len(question) :].tolist() == question
    last = tokenizer.encode(ANSWER, add_special_tokens=False).ids
    assert len(suffix) - 1 < len(prompts.items[3]) + len(last)


def test_scores_are_the_same_packed_apart_and_cached(
    artifact: Artifact, planted: Dataset, tmp_path: Path
) -> None:
    check_a_loaded_copy_scores_the_same(artifact, planted, tmp_path / "copy")
    reference = open_scorer(artifact, "torch-fp32")
    for variant, tolerance in (("torch-fp32", 1e-5), ("onnx-fp32", 1e-5), ("onnx-int8", 5e-3)):
        scorer = open_scorer(artifact, variant)
        assert isinstance(scorer, LanguageScorer)
        check_a_slate_scores_like_its_candidates_one_by_one(scorer, planted, tolerance)
        check_empty_history_and_empty_slate_are_legal(scorer)
        warm = scorer.remembering(1 << 24)
        for number in range(3):
            request = slate_request(planted.ctr("test").histories[number], np.arange(12, dtype=np.int32))
            expected = reference.score(request) if variant != "onnx-int8" else scorer.score(request)
            for score in (scorer.score, warm.score, warm.score):
                np.testing.assert_allclose(score(request), expected, atol=tolerance, rtol=0)


def test_a_text_scores_as_the_item_that_has_it(artifact: Artifact, planted: Dataset) -> None:
    scorer, history = open_scorer(artifact, "onnx-fp32"), planted.ctr("test").histories[0]
    assert isinstance(scorer, LanguageScorer)
    encode = ItemTokenizer(artifact.file(TOKENIZER), item_limit(artifact_prompts(artifact).pieces.max_tokens))
    items = [1, 4, 7]
    texts = [encode.tokens(planted.items.texts[item]) for item in items]
    expected = scorer.score(slate_request(history, np.array(items, np.int32)))
    np.testing.assert_allclose(scorer.score_tokens(history, texts), expected, atol=1e-6, rtol=0)


def test_it_is_profiled_like_any_other_row(artifact: Artifact, planted: Dataset) -> None:
    measurement = profile(
        artifact, planted, Plan(1, 2, 5.0, [1, 20], 1, "forward", seed=1, test_users=3), ["onnx-int8"]
    )
    assert [result.slate for result in measurement.results] == [1, 20]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("bert", r"a \[MASK\]"), ("sentence-bert", "the means of history and candidate"), ("t5", "first word")],
)
def test_rows_that_answer_elsewhere_refuse_it(
    name: str, reason: str, planted: Dataset, tmp_path: Path
) -> None:
    spec = row(make_backbone(name, tmp_path / name), question="first")
    with pytest.raises(UsageError, match=f"question=first is for decoders.*{reason}"):
        make(spec, planted, lambda *_: None)


def test_the_papers_wording_is_the_default(planted: Dataset, tmp_path: Path) -> None:
    folder = make_backbone("llama", tmp_path / "llama")
    default, last = (
        make(spec, planted, lambda *_: None)[1].prompts
        for spec in (row(folder), row(folder, question="last"))
    )
    assert default.pieces == last.pieces
    with pytest.raises(UsageError, match="question"):
        with_options(find_model("p5-smollm2-135m").config, {"question": "first"})
