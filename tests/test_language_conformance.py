"""Language models of every architecture: what they score, whatever is packed together, in every variant."""

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
    check_items_that_training_never_saw_score_alike,
    check_scores_are_probabilities,
)
from small_backbone import ARCHITECTURES, CAUSAL, MASKED, make_backbone
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from rbserve.core.errors import UsageError
from rbserve.core.options import with_options
from rbserve.core.requests import slate_request
from rbserve.core.types import ModelSpec
from rbserve.data.artifact import WEIGHTS, Artifact
from rbserve.data.dataset import Dataset, open_dataset
from rbserve.data.golden import scored_otherwise
from rbserve.exporters.export import export
from rbserve.models.beam import search
from rbserve.models.lm import LanguageModel
from rbserve.models.prompts import Packed, item_limit, pack, pack_answer
from rbserve.models.zoo import find_model
from rbserve.profilers.measure.harness import profile
from rbserve.runs.plan import Plan
from rbserve.runtimes import language
from rbserve.runtimes.contents import artifact_prompts, artifact_tokenizer
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.language import LanguageScorer, LanguageStepper
from rbserve.runtimes.opening import open_scorer
from rbserve.runtimes.openvino import without_bf16
from rbserve.runtimes.torch_models import TorchLanguageCall
from rbserve.train.fit import train
from rbserve.train.fitting.loop import Settings
from rbserve.train.tasks.language import load, make
from rbserve.train.tasks.next_item import NextItemTask
from rbserve.train.tasks.next_item import make as make_next_item

pytestmark = pytest.mark.usefixtures("few_validation_rows")

Folders = dict[str, Path]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return {name: make_backbone(name, tmp_path_factory.mktemp("backbones") / name) for name in ARCHITECTURES}


def row(recipe: str, folder: Path, **options: Any) -> ModelSpec:
    """A recipe with a backbone, small LoRA."""
    spec = find_model(f"{recipe}-smollm2-135m")
    return dataclasses.replace(spec, config=with_options(spec.config, {"backbone": str(folder), **options}))


SMALL = {"text": {}, "p5": {}, "sid": {"levels": 3, "codes": 8}}


def tuned(recipe: str, folder: Path, planted: Dataset, path: Path) -> Artifact:
    settings = Settings(batch=8, micro_batch=4, lr=1e-2, epochs=1, epoch_rows=24)
    return train(row(recipe, folder, lora_rank=4, **SMALL[recipe]), planted, path, settings)


@pytest.fixture(scope="module")
def planted(planted: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A copy: identifiers are kept with the data set, and other modules expect theirs alone."""
    return open_dataset(shutil.copytree(planted.path, tmp_path_factory.mktemp("language") / "planted"))


RECIPES = [*(f"text {name}" for name in ARCHITECTURES if name != "sentence-mpnet"),
           "p5 sentence-bert", "p5 llama", "p5 t5", "sid bert", "sid opt", "sid mpt"]  # fmt: skip


@pytest.fixture(scope="module", params=RECIPES)
def artifact(
    request: pytest.FixtureRequest,
    backbones: Folders,
    planted: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Artifact:
    recipe, name = request.param.split()
    made = tuned(recipe, backbones[name], planted, tmp_path_factory.mktemp("tuned") / name)
    return export(made, planted, ["fp32", "int8", "int4"])


def test_a_row_conforms(artifact: Artifact, planted: Dataset, tmp_path: Path) -> None:
    check_a_loaded_copy_scores_the_same(artifact, planted, tmp_path / "copy")
    new = np.array([planted.items.index["new0"], planted.items.index["new1"]], np.int32)
    one, other = open_scorer(artifact, "torch-fp32").score(
        slate_request(planted.ctr("test").histories[0], new)
    )
    if artifact.manifest.item_form == "id":
        check_items_that_training_never_saw_score_alike(artifact, planted, ["torch-fp32", "onnx-fp32"])
    else:
        assert one != other, "items that training never saw score by what they are made of"
    for variant in artifact.variants:
        scorer = open_scorer(artifact, variant)
        # fp32 differs by 1e-7 between packed and apart; where a token's number lies between two steps of 8 bits, that
        # moves it by a step.
        tolerance = 5e-3 if variant in ("onnx-int8", "onnx-int4") else 1e-5
        check_a_slate_scores_like_its_candidates_one_by_one(scorer, planted, tolerance)
        check_empty_history_and_empty_slate_are_legal(scorer)
    check_scores_are_probabilities(open_scorer(artifact, "onnx-fp32"), planted, rows=60)
    assert artifact.manifest.variants["onnx-fp32"].parity.max_abs <= 1e-5


@pytest.mark.skipif(bool(without_bf16()), reason=without_bf16() or "")
def test_the_fp32_graph_scores_alike_in_bf16(artifact: Artifact, planted: Dataset) -> None:
    """In OpenVINO, whatever the architecture; a user who was read before is not read again."""
    assert "openvino-bf16" in artifact.can_open
    exact, coarse = (open_scorer(artifact, one) for one in ("onnx-fp32", "openvino-bf16"))
    test = planted.ctr("test").take(np.arange(8))
    scores = [score_rows(one, test.histories, test.candidates) for one in (exact, coarse)]
    np.testing.assert_allclose(scores[1], scores[0], atol=0.02, rtol=0)
    assert np.abs(scores[1] - scores[0]).max() > 0, "products are made in bf16"
    check_empty_history_and_empty_slate_are_legal(coarse)
    assert isinstance(coarse, LanguageScorer)
    again, slate = coarse.remembering(1 << 20), np.arange(5, dtype=np.int32)
    for _ in range(2):
        np.testing.assert_allclose(
            again.score(slate_request(test.histories[0], slate)),
            coarse.score(slate_request(test.histories[0], slate)),
            atol=0.02,
            rtol=0,
        )
    checks = artifact.checks("openvino-bf16")
    assert checks is not None
    assert scored_otherwise(checks, coarse.score) is None


def test_candidates_of_several_calls_score_like_those_of_one(
    artifact: Artifact, planted: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history's cache goes along with the next call."""
    history, candidates = planted.ctr("test").histories[0], np.arange(12, dtype=np.int32)
    for variant in ("torch-fp32", "onnx-fp32"):
        scorer = open_scorer(artifact, variant)
        together = scorer.score(slate_request(history, candidates))
        with monkeypatch.context() as patch:
            patch.setattr(language, "CALL_TOKENS", 40)
            np.testing.assert_allclose(
                scorer.score(slate_request(history, candidates)), together, atol=1e-5, rtol=0
            )


def test_a_row_is_profiled_without_torch(artifact: Artifact, planted: Dataset) -> None:
    """In a fresh process, like any other model; accuracy of some users."""
    plan = Plan(1, 2, 5.0, [1, 20], 1, "forward", seed=1, test_users=3)
    measurement = profile(artifact, planted, plan, ["onnx-fp32"])
    assert [result.slate for result in measurement.results] == [1, 20]
    assert len(set(measurement.predictions.users)) == 3
    assert all(result.accuracy["auc"] is not None for result in measurement.results)
    assert all(result.peak_rss_mb < 200 for result in measurement.results), "neither torch nor transformers"


def test_adapters_are_merged_answers_trained_and_all_is_restored(
    artifact: Artifact, backbones: Folders, planted: Dataset
) -> None:
    """Defects 1 and 7 of the public reference code."""
    from safetensors.torch import load_file

    weights = load_file(artifact.file(WEIGHTS))
    assert not [name for name in weights if "lora" in name]
    folder = next(path for path in backbones.values() if path.name == artifact.path.name)
    recipe = artifact.manifest.config_kind
    torch.manual_seed(2024)
    start, task = make(row(recipe, folder, lora_rank=4, **SMALL[recipe]), planted, lambda *_: None)
    before = task.weights(start)
    assert weights.keys() == before.keys()
    moved = {name for name, value in weights.items() if not torch.equal(value, before[name])}
    assert "language.head.weight" in moved
    if recipe in ("p5", "sid"):
        change = (
            (weights["language.new_embedding.weight"] - before["language.new_embedding.weight"]).abs().sum(1)
        )
        assert (change > 0).float().mean() > 0.5, "the new tokens' embeddings are trained"
    adapted = [name for name in moved if name.startswith("language.base.")]
    assert len(adapted) >= (2 if "mpt" in artifact.path.name else 4), "queries and values of two layers"


@pytest.mark.parametrize("name", [*MASKED, *CAUSAL, "t5"])
def test_zero_shot_is_the_softmax_over_yes_and_no_of_the_whole_model(
    name: str, backbones: Folders, planted: Dataset, tmp_path: Path
) -> None:
    """Eq. 6, beside transformers' own model with its own head, on the prompt as one sequence.

    BERT and MPNet at their [MASK]; T5 with the decoder's first word.
    """
    folder = backbones[name]
    artifact = train(row("zeroshot", folder), planted, tmp_path / "zero", Settings())
    assert artifact.manifest.training.best_metric is None
    prompts = artifact_prompts(artifact)
    test = planted.ctr("test")
    history, candidate = test.histories[3], test.candidates[3:4]
    tokens = torch.from_numpy(np.concatenate([prompts.prefix(history), prompts.suffix(int(candidate[0]))]))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)  # type: ignore[no-untyped-call]
    more = {}
    if name in MASKED:
        model: Any = AutoModelForMaskedLM.from_pretrained(folder)
        place = tokens.tolist().index(tokenizer.mask_token_id)
        assert tokens.tolist().count(tokenizer.mask_token_id) == 1
    elif name == "t5":
        model, place = AutoModelForSeq2SeqLM.from_pretrained(folder), 0
        more = {"decoder_input_ids": torch.tensor([[model.config.decoder_start_token_id]])}
        assert tokens[-1] == tokenizer("").input_ids[-1], "an encoder of T5 was trained on texts that end"
    else:
        model, place = AutoModelForCausalLM.from_pretrained(folder), len(tokens) - 1
    with torch.inference_mode():
        chances = model.eval()(input_ids=tokens[None], **more).logits[0, place].softmax(-1)
    ways = [
        {tokenizer.convert_tokens_to_ids(token) for way in (word, f" {word}") for token in tokenizer.tokenize(way)
         if len(tokenizer.tokenize(way)) == 1}
        for word in ("Yes", "yes", "YES", "No", "no", "NO")
    ]  # fmt: skip
    yes, no = (float(sum(chances[token] for token in set().union(*some))) for some in (ways[:3], ways[3:]))
    found = open_scorer(artifact, "torch-fp32").score(slate_request(history, candidate))
    assert found[0] == pytest.approx(yes / (yes + no), abs=1e-5)
    assert 0 < found[0] < 1


@pytest.mark.parametrize("name", ["bert", "llama", "mpnet", "mpt", "opt"])
def test_packed_rows_have_the_loss_and_gradients_of_separate_prompts(
    name: str, backbones: Folders, planted: Dataset
) -> None:
    model, task = make(row("text", backbones[name], lora_dropout=0.0), planted, lambda *_: None)
    torch.manual_seed(0)
    for key, parameter in model.named_parameters():  # LoRA starts as nothing
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.1)
    rows = np.arange(3)
    packed = task.loss(model, rows)
    packed.backward()  # type: ignore[no-untyped-call]
    gradients = {key: one.grad.clone() for key, one in model.named_parameters() if one.grad is not None}
    assert any("lora_A" in key for key in gradients)
    model.zero_grad()
    together = task._pack

    def apart(row: int) -> list[Any]:
        span = task._span(row)
        prefix = task.prompts.prefix(task._train.histories[span.start])
        candidates = task._train.candidates[span].tolist()
        return [pack(prefix, [task.prompts.suffix(one)], task.prompts.pieces) for one in candidates]

    task._pack = apart  # type: ignore[method-assign]
    separate = task.loss(model, rows)
    separate.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(packed, separate, rtol=1e-5, atol=1e-5)
    for key, parameter in model.named_parameters():
        if key in gradients:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-3, atol=1e-4)
    tokens = [sum(one.tokens.size for row in rows.tolist() for one in how(row)) for how in (together, apart)]
    assert tokens[1] > 1.5 * tokens[0]


@pytest.mark.parametrize("name", ["bert", "llama", "opt", "t5"])
def test_checkpointing_changes_no_gradient(name: str, backbones: Folders, planted: Dataset) -> None:
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(5)
        spec = row("text", backbones[name], lora_dropout=0.0, lora_rank=4, checkpointing=checkpointing)
        model, task = make(spec, planted, lambda *_: None)
        for module in model.modules():  # BERT's and OPT's own
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout") and isinstance(module.dropout, float):
                module.dropout = 0.0
        task.loss(model.train(), np.arange(4)).backward()  # type: ignore[no-untyped-call]
        found.append({key: one.grad for key, one in model.named_parameters() if one.grad is not None})
    assert any("lora_A" in key or "lora_B" in key for key in found[0])
    assert found[0].keys() == found[1].keys()
    for key, gradient in found[0].items():
        torch.testing.assert_close(found[1][key], gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mpnet", "mpt"])
def test_checkpointing_is_refused_where_layers_are_driven_one_by_one(
    name: str, backbones: Folders, planted: Dataset
) -> None:
    with pytest.raises(UsageError, match=f"{name} cannot recompute activations"):
        make(row("text", backbones[name], checkpointing=True), planted, lambda *_: None)


@pytest.mark.parametrize("name", MASKED)
def test_an_encoder_of_sentences_has_its_words_for_a_head(name: str, backbones: Folders) -> None:
    """Its weights have no head, whatever its config says it was made from."""
    language = load(backbones[f"sentence-{name}"], [7, 9])
    words = language.base.get_input_embeddings().weight  # type: ignore[operator]
    torch.testing.assert_close(language.head.weight, words[[7, 9]], rtol=0, atol=0)
    assert isinstance(language.transform, torch.nn.Identity)


@pytest.mark.parametrize("name", MASKED)
def test_a_tuned_encoder_of_sentences_is_read_by_the_means_of_history_and_candidate(
    name: str, backbones: Folders, planted: Dataset
) -> None:
    """Of several candidates in one call, each by its own; others keep the head that their weights have."""
    model, task = make(row("text", backbones[f"sentence-{name}"], lora_rank=0), planted, lambda *_: None)
    history, pieces = planted.ctr("test").histories[0], task.prompts.pieces
    prefix, suffixes = task.prompts.prefix(history), [task.prompts.suffix(item) for item in (1, 2, 3)]
    packed = pack(prefix, suffixes, pieces)
    given = {key: torch.from_numpy(array) for key, array in packed.arrays.items()}
    language = model.eval().language
    with torch.inference_mode():
        found = model(**given)[0][0]
        hidden = language.hidden(given["tokens"], given["positions"], given["mask"])[0][0]
        begin = len(prefix)
        for place, suffix in enumerate(suffixes):
            means = hidden[: len(prefix)].mean(0), hidden[begin : begin + len(suffix)].mean(0)
            expected = model.odds(language.head(language.transform(*means)))
            torch.testing.assert_close(found[place], expected, rtol=1e-5, atol=1e-5)
            begin += len(suffix)
    other, _ = make(row("text", backbones[name], lora_rank=0), planted, lambda *_: None)
    assert task.prompts.pieces.parted
    asked, _ = make(row("zeroshot", backbones[f"sentence-{name}"]), planted, lambda *_: None)
    assert not other.language.pairs
    assert not asked.language.pairs, "nothing has learnt to relate them"


@pytest.mark.parametrize("name", MASKED)
def test_means_are_told_apart_where_the_history_sees_the_candidate(
    name: str, backbones: Folders, planted: Dataset
) -> None:
    """It sees all of it but the place that is read, by which the two parts are known."""
    spec = row("text", backbones[f"sentence-{name}"], lora_rank=0, shared_history=False)
    model, task = make(spec, planted, lambda *_: None)
    language, pieces = model.eval().language, task.prompts.pieces
    assert (pieces.shared, pieces.parted) == (False, True)
    prefix = task.prompts.prefix(planted.ctr("test").histories[0])
    for item in (1, 2):
        packed = pack(prefix, [task.prompts.suffix(item)], pieces)
        (read,) = packed.read[0]
        assert not packed.mask[0, : len(prefix), read].any()
        seen = packed.mask[0].copy()
        seen[: len(prefix), read] = True
        assert seen.all()
        given = {key: torch.from_numpy(array) for key, array in packed.arrays.items()}
        with torch.inference_mode():
            hidden = language.hidden(given["tokens"], given["positions"], given["mask"])[0][0]
            means = hidden[: len(prefix)].mean(0), hidden[len(prefix) :].mean(0)
            expected = model.odds(language.head(language.transform(*means)))
            torch.testing.assert_close(model(**given)[0][0, 0], expected, rtol=1e-5, atol=1e-5)


def test_semantic_identifiers_are_not_answered_by_an_encoder_decoder(
    backbones: Folders, planted: Dataset
) -> None:
    with pytest.raises(UsageError, match="t5 answers with one word") as refused:
        make_next_item(row("seq-sid", backbones["t5"], levels=3, codes=8), planted, lambda *_: None)
    assert "--model seq-sid-parallel --backbone" in (refused.value.hint or "")


def test_a_prompt_reads_as_the_papers(backbones: Folders, planted: Dataset) -> None:
    _, task = make(row("zeroshot", backbones["llama"]), planted, lambda *_: None)
    tokenizer = Tokenizer.from_file(str(backbones["llama"] / "tokenizer.json"))
    one, two, three = planted.items.texts[:3]
    text = tokenizer.decode(task.prompts.prefix(np.array([0, 1], np.int32)).tolist())
    text += tokenizer.decode(task.prompts.suffix(2).tolist())
    assert text == (
        'You are a recommender. Please response "YES" or "NO" to represent whether this user is interested in this '
        f"item. User behavior sequence: \n(1) {one}\n(2) {two}\nCandidate item: {three}\nAnswer (Yes/No): "
    )


def test_the_oldest_items_give_way_and_a_prompt_never_exceeds_its_limit(
    backbones: Folders, planted: Dataset
) -> None:
    _, task = make(row("zeroshot", backbones["llama"], max_tokens=110), planted, lambda *_: None)
    history = np.arange(20, dtype=np.int32)
    kept = task.prompts.kept(history)
    assert 0 < kept < 20
    shorter = task.prompts.prefix(history[-kept:])
    np.testing.assert_array_equal(task.prompts.prefix(history), shorter)
    longest = max(len(task.prompts.suffix(item)) for item in range(len(planted.items)))
    assert len(shorter) + longest <= 110


def test_lost_history_is_told_before_training_kept_and_shown_by_a_profile(
    backbones: Folders, planted: Dataset, tmp_path: Path
) -> None:
    told: list[str] = []
    spec = row("text", backbones["llama"], lora_rank=4, max_tokens=110)
    settings = Settings(batch=4, micro_batch=4, epochs=1, epoch_rows=4)
    artifact = train(spec, planted, tmp_path / "short", settings, say=told.append)
    found = artifact.manifest.prompts["test"]
    made, histories = artifact_prompts(artifact), planted.ctr("test").histories
    kept = np.array([made.kept(histories[one]) for one in range(len(histories))])
    assert found.cut == np.count_nonzero(kept < histories.lengths) > 0
    assert [line.split(" of ")[0] for line in told if "prompts lose" in line] == [
        f"text-smollm2-135m: {artifact.manifest.prompts[split].cut:,}" for split in ("train", "test")
    ]
    plan = Plan(1, 1, 1.0, [1], 1, "forward", seed=1, test_users=1)
    measurement = profile(artifact, planted, plan, ["torch-fp32"])
    (result,) = measurement.results
    assert [one for one in result.warnings if "test prompts lose" in one] == [found.said("test")]
    asked = train(
        row("zeroshot", backbones["llama"]), planted, tmp_path / "asked", Settings(), say=told.append
    )
    assert [*asked.manifest.prompts] == ["test"], "nothing is trained"
    assert sum("prompts lose" in line for line in told) == 3


def test_a_text_scores_like_the_item_it_is_the_text_of(artifact: Artifact, planted: Dataset) -> None:
    """By the tokenizers library alone: what a service needs for texts of new items."""
    if artifact.manifest.item_form != "text":
        with pytest.raises(UsageError, match="reads no item texts"):
            artifact_tokenizer(artifact)
        return
    tokenizer, prompts = artifact_tokenizer(artifact), artifact_prompts(artifact)
    for item, text in enumerate(planted.items.texts):
        np.testing.assert_array_equal(tokenizer.tokens(text), prompts.items[item])
    scorer, history = open_scorer(artifact, "onnx-fp32"), planted.ctr("test").histories[0]
    assert isinstance(scorer, LanguageScorer)
    texts = [*planted.items.texts[:3], "topic1word3 topic2word1", " ".join(planted.items.texts)]
    scores = scorer.score_tokens(history, [tokenizer.tokens(text) for text in texts])
    known = scorer.score(slate_request(history, np.arange(3, dtype=np.int32)))
    longest = len(tokenizer.tokens(texts[-1]))
    assert longest == item_limit(prompts.pieces.max_tokens) > prompts.items.lengths.max()
    assert len(prompts.prefix(history, longest)) + len(prompts.suffix_of(tokenizer.tokens(texts[-1]))) <= 256
    assert np.isfinite(scores).all()
    alone = scorer.score_tokens(history, [tokenizer.tokens(text) for text in texts[:3]])
    np.testing.assert_allclose(alone, known, atol=1e-6, rtol=0)
    assert len(set(scores.tolist())) == 5


@pytest.fixture(scope="module", params=["bert", "llama", "mpnet", "mpt", "opt"])
def next_item(
    request: pytest.FixtureRequest, backbones: Folders, planted: Dataset
) -> tuple[LanguageModel, NextItemTask]:
    spec = row("seq-sid", backbones[request.param], lora_rank=4, levels=3, codes=8)
    model, task = make_next_item(spec, planted, lambda *_: None)
    return model.eval(), task


def logits_of(model: LanguageModel, packed: Packed) -> torch.Tensor:
    with torch.inference_mode():
        found, _ = model(**{name: torch.from_numpy(array) for name, array in packed.arrays.items()})
    return found[0]


def test_no_token_of_the_answer_reaches_what_it_is_predicted_from(
    next_item: tuple[LanguageModel, NextItemTask], planted: Dataset
) -> None:
    """Defect 3 of the public reference code: an encoder that sees in both directions sees what it is asked for."""
    model, task = next_item
    history = planted.seqrec("train").histories[0]
    question = task.prompts.questions(history[None])[0]
    one, other = (task.prompts.items[item].astype(np.int64) for item in (3, 4))
    for place in range(len(one)):
        mixed = np.concatenate((one[:place], other[place:]))
        before, after = (
            logits_of(model, pack_answer(question, answer, task.prompts.pieces.causal))
            for answer in (one, mixed)
        )
        torch.testing.assert_close(after[: place + 1], before[: place + 1], rtol=0, atol=1e-6)


def test_beams_that_share_a_row_score_like_sequences_of_their_own(
    next_item: tuple[LanguageModel, NextItemTask], planted: Dataset
) -> None:
    """Free search: a path's score is the log-probability of its tokens when the whole sequence is read at once."""
    model, task = next_item
    assert task.sids is not None
    histories = planted.seqrec("test").histories
    history = histories[int(np.argmax(histories.lengths))]
    questions, stepper = (
        task.prompts.questions(history[None]),
        LanguageStepper(TorchLanguageCall(model), task.prompts),
    )
    found = search(stepper, questions, task.sids.trie, 8, 5, constrained=False)
    for path, score in zip(found.paths[0], found.scores[0].tolist(), strict=True):
        answer = path + np.int64(model.vocabulary)
        chances = logits_of(model, pack_answer(questions[0], answer, task.prompts.pieces.causal)).log_softmax(
            -1
        )
        assert score == pytest.approx(float(chances[range(3), path].sum()), abs=1e-4)
