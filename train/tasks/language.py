"""Click prediction with a language model as a training task: packaged as it is (zero-shot), or fine-tuned with LoRA.

The rows of one user share the history and so the beginning of their prompts. They are packed behind it, as in serving.
The loss and its gradients are those of separate prompts, at a third of the tokens.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rbserve.core.errors import AssetError, UsageError
from rbserve.core.tasks import CTR
from rbserve.core.types import ModelSpec, Progress
from rbserve.data.artifact import BACKBONE, TOKENIZER
from rbserve.data.columns import Ragged
from rbserve.data.dataset import Dataset
from rbserve.data.semantic_ids import copy_semantic_ids, find_semantic_ids
from rbserve.models import prompts
from rbserve.models.configs import (
    ClickLanguageConfig,
    CodedItems,
    LanguageConfig,
    P5Config,
    SeqP5Config,
    TextLanguageConfig,
    TunedLanguageConfig,
)
from rbserve.models.drivers import ARCHITECTURES, architecture_of, most_tokens, read_config
from rbserve.models.lm import ClickModel, LanguageModel, MaskedWordTransform, PairTransform, as_decoder, bare
from rbserve.models.prompts import Packed, Prompts, pack, pad
from rbserve.runtimes.assembly import prompt_scorer
from rbserve.runtimes.evaluate import score_rows
from rbserve.runtimes.torch_models import torch_call
from rbserve.stats.pairwise import auc
from rbserve.train.encoders.backbone import load_tokenizer, loading
from rbserve.train.fitting.loop import Rows, require_finite
from rbserve.train.semantic_ids.fit_codes import ensure_semantic_ids
from rbserve.train.tasks.backbones import adapted, backbone_folder, merged, weights_kind
from rbserve.train.tasks.ctr import no_texts, trained_items
from rbserve.train.tasks.packing import users_begin
from rbserve.train.tasks.prompt_pieces import MAX_HISTORY, make_pieces
from rbserve.train.tasks.warm_start import WarmStart

VALIDATION_ROWS = 2_000
TEXTS_AT_ONCE = 10_000
YES = ("Yes", " Yes", "YES", " YES", "yes", " yes")
NO = ("No", " No", "NO", " NO", "no", " no")


def make(
    spec: ModelSpec, dataset: Dataset, progress: Progress, start: WarmStart | None = None
) -> tuple[ClickModel, LanguageTask]:
    """The language model of a zoo row with prompts for the data set's items, and its training task.

    With `start`, its weights are those of that artefact.
    """
    config: LanguageConfig = spec.config
    check_texts(spec, dataset)
    folder = backbone_folder(spec)
    tokenizer = load_tokenizer(folder)
    words = [single_tokens(tokenizer, ways, config.backbone) for ways in (YES, NO)]
    language = load(folder, [*words[0], *words[1]], weights_kind(spec, folder))
    seen = trained_items(dataset.ctr("train"), len(dataset.items))
    if isinstance(config, TunedLanguageConfig):
        relate(language)
    if isinstance(config, TextLanguageConfig):
        meet_late(language, config)
        check_question(language, config)
    item_prompts = make_prompts(tokenizer, language, config, dataset, seen, progress, yes=len(words[0]))
    if isinstance(config, ClickLanguageConfig) and item_prompts.pieces.shared and not config.shared_history:
        raise UsageError(
            f"shared_history=false is for encoders: {config.backbone} reads a history before it sees a candidate",
            "leave it out",
        )
    model = ClickModel(language, len(words[0]))
    if start is not None:
        start.load(model)
    if isinstance(config, TunedLanguageConfig) and not spec.random:
        language.base = adapted(language.base, config)
    return model, LanguageTask(dataset, spec, item_prompts, folder)


def check_texts(spec: ModelSpec, dataset: Dataset) -> None:
    """Raises UsageError if a row reads item texts and the data set has none."""
    if spec.item_form != "id" and not any(dataset.items.texts):
        raise no_texts(spec, dataset)


class LanguageTask:
    """The training task of pair-wise language models; a row is a user's history with all its labelled candidates."""

    metric = CTR.metric
    max_history = MAX_HISTORY

    def __init__(self, dataset: Dataset, spec: ModelSpec, item_prompts: Prompts, folder: Path) -> None:
        self._train, self._valid = dataset.ctr("train"), dataset.ctr("valid")
        self._folder, self.prompts = folder, item_prompts
        self._tuned = isinstance(spec.config, TunedLanguageConfig)
        self._sids = find_semantic_ids(dataset, spec.config) if isinstance(spec.config, CodedItems) else None
        self._begins = users_begin(self._train) if self._tuned else np.zeros(1, np.int64)
        self.rows = len(self._begins) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """The tokens of each row, int64[rows], so that rows of similar length are batched together."""
        histories, candidates = self._train.histories, self._train.candidates
        return np.array([
            sum(self.prompts.sizes(histories[begin], candidates[begin:end]))
            for begin, end in pairwise(self._begins.tolist())
        ])  # fmt: skip

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Cross-entropy summed over the candidates of the given rows."""
        tensors, is_answer, wanted = self.batch(rows, next(model.parameters()).device)
        odds, _ = model(**tensors)
        return F.binary_cross_entropy_with_logits(odds[is_answer], wanted, reduction="sum")

    def batch(self, rows: Rows, device: torch.device) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The model's tensors for B prompts, which answers bool[B, N] are a candidate's, and their labels float[C]."""
        packed = [prompt for row in rows.tolist() for prompt in self._pack(row)]
        labels = np.concatenate([self._train.labels[self._span(row)] for row in rows.tolist()])
        answers = np.array([prompt.read.shape[1] for prompt in packed])
        padded = pad(packed)
        tensors = {name: torch.from_numpy(array).to(device) for name, array in padded.arrays.items()}
        is_answer = torch.from_numpy(np.arange(padded.read.shape[1]) < answers[:, None]).to(device)
        return tensors, is_answer, torch.from_numpy(labels).to(device, torch.float32)

    def validate(self, model: nn.Module) -> float:
        """AUC over at most VALIDATION_ROWS rows of the validation users, the first ones."""
        rows = np.arange(min(VALIDATION_ROWS, len(self._valid)))
        valid = self._valid.take(rows)
        scorer = prompt_scorer(torch_call(cast(ClickModel, model)), self.prompts)
        scores = score_rows(scorer, valid.histories, valid.candidates)
        require_finite(bool(np.isfinite(scores).all()), "the model's scores are")
        return auc(valid.labels, scores)

    def weights(self, model: nn.Module) -> Mapping[str, Tensor]:
        """All weights of the model, after its adapters were merged into the layers that they adapt."""
        if self._tuned:
            language = cast(ClickModel, model).language
            language.base = merged(language.base)
        return model.state_dict()

    def save(self, folder: Path) -> None:
        """Writes prompts, tokeniser and the language model's config, and the semantic identifiers of group F."""
        save_prompts(self.prompts, self._folder, folder)
        if self._sids is not None:
            copy_semantic_ids(self._sids, folder)

    def _span(self, row: int) -> slice:
        return slice(self._begins[row], self._begins[row + 1])

    def _pack(self, row: int) -> list[Packed]:
        """A row's prompts: all candidates behind one history or, if the model cannot share it, a prompt for each."""
        span = self._span(row)
        prefix = self.prompts.prefix(self._train.histories[span.start])
        suffixes = [self.prompts.suffix(candidate) for candidate in self._train.candidates[span].tolist()]
        groups = [suffixes] if self.prompts.pieces.shared else [[suffix] for suffix in suffixes]
        return [pack(prefix, group, self.prompts.pieces) for group in groups]


def save_prompts(item_prompts: Prompts, backbone: Path, folder: Path) -> None:
    """Writes prompts, and the config and tokeniser of the language model at `backbone`, into an artefact."""
    item_prompts.save(folder / prompts.FOLDER)
    save_tokenizer(backbone, folder)
    shutil.copyfile(backbone / "config.json", folder / BACKBONE)


def save_tokenizer(backbone: Path, folder: Path) -> None:
    """Writes the tokeniser of the language model at `backbone` into an artefact, for the tokenizers library."""
    (folder / TOKENIZER).parent.mkdir(exist_ok=True)
    load_tokenizer(backbone).backend_tokenizer.save(str(folder / TOKENIZER))


def load(
    folder: Path, answers: Sequence[int], precision: torch.dtype | None = torch.float32
) -> LanguageModel:
    """The language model of a directory, with a head for the tokens `answers` only.

    With precision None it has the shape of the directory's config and no weights (device "meta"). A model without a
    head for words, such as a sentence encoder, uses its word embeddings as the head. Raises AssetError if it cannot be
    loaded or its architecture is not supported.
    """
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

    kinds: dict[str, Any] = {
        "decoder": AutoModelForCausalLM,
        "encoder": AutoModelForMaskedLM,
        "encoder-decoder": AutoModelForSeq2SeqLM,
    }
    with torch.random.fork_rng(), loading(folder):
        config = read_config(folder)
        if config.model_type not in ARCHITECTURES:
            raise AssetError(
                f"{folder} is of an architecture that is not supported: {config.model_type}",
                f"supported: {', '.join(ARCHITECTURES)}; another one takes a line in rbserve/models/drivers.py",
            )
        reads = architecture_of(config).reads
        if precision is None:
            with torch.device("meta"):
                whole = kinds[reads].from_config(config)
            headed = reads != "encoder" or any("MaskedLM" in name for name in config.architectures or [])
        else:
            whole, report = kinds[reads].from_pretrained(
                folder, config=config, local_files_only=True, dtype=precision, output_loading_info=True
            )
            headed = all(key.startswith(f"{whole.base_model_prefix}.") for key in report["missing_keys"])
    base = whole.base_model
    words = whole.get_output_embeddings() if headed else base.get_input_embeddings()
    head = _answers(words, answers)
    # T5 scales what it multiplies by its embeddings; transformers 5 says so in a field of its own
    if reads == "encoder-decoder" and getattr(config, "scale_decoder_outputs", config.tie_word_embeddings):
        with torch.no_grad():
            head.weight *= config.d_model**-0.5
    bare(base)
    as_decoder(base.config)
    for module in base.modules():  # BERT's attention copies it when it is created
        if hasattr(module, "is_decoder") and config.model_type == "bert":
            module.is_decoder = True
    return LanguageModel(base.eval(), head, _transform(whole) if reads == "encoder" and headed else None)


def _answers(words: Any, answers: Sequence[int]) -> nn.Linear:
    """A head for the answers' tokens only: their rows of a head for words."""
    rows = torch.tensor(list(answers))
    bias = getattr(words, "bias", None)
    like: dict[str, Any] = {"device": words.weight.device, "dtype": words.weight.dtype}
    head = nn.Linear(words.weight.size(1), len(rows), bias=bias is not None, **like)
    with torch.no_grad():
        head.weight.copy_(words.weight[rows])
        if bias is not None:
            head.bias.copy_(bias[rows])
    return head


def _transform(whole: Any) -> MaskedWordTransform:
    """The transformation before the head of a masked language model."""
    if whole.config.model_type == "bert":
        bert = whole.cls.predictions.transform
        dense, norm = bert.dense, bert.LayerNorm
    else:
        dense, norm = whole.lm_head.dense, whole.lm_head.layer_norm
    transform = MaskedWordTransform(dense.in_features, norm.eps)
    transform.dense, transform.norm = dense, norm
    return transform


def relate(language: LanguageModel) -> None:
    """Lets a sentence encoder, which has no head for words, answer from mean vectors, which it was trained for."""
    if architecture_of(language.config).reads == "encoder" and isinstance(language.transform, nn.Identity):
        like = language.head.weight
        language.transform = PairTransform(like.size(1)).to(like.device, like.dtype)


def meet_late(language: LanguageModel, config: TextLanguageConfig) -> None:
    """Keeps candidates and history apart in the first `meet` layers; UsageError where the model cannot."""
    reads, layers = architecture_of(language.config).reads, getattr(language.config, "num_hidden_layers", 0)
    most = layers if language.pairs else layers - 1
    reason, hint = None, f"--set meet=0 for {config.backbone}"
    if not config.meet:
        return
    if reads != "encoder":
        reason = f"it is for encoders: {config.backbone} is no encoder"
    elif not config.shared_history:
        reason, hint = (
            "with shared_history=false the history sees the candidate in every layer",
            "leave one out",
        )
    elif config.checkpointing:
        reason, hint = "its layers are run one by one, and recompute nothing", "--set checkpointing=false"
    elif config.meet > most:
        why = "" if language.pairs else ", and its [MASK] must see the history in one of them"
        reason, hint = f"{config.backbone} has {layers} layers{why}", f"--set meet={most} at most"
    if reason:
        raise UsageError(f"meet={config.meet} does not fit: {reason}", hint)
    language.meet = config.meet


def check_question(language: LanguageModel, config: TextLanguageConfig) -> None:
    """UsageError where the question is to be read first and the model's answer would not follow the candidate."""
    reads = architecture_of(language.config).reads
    if config.question == "last" or reads == "decoder":
        return
    answer = (
        "the means of history and candidate" if language.pairs else "a [MASK] that stands in the question"
    )
    if reads == "encoder-decoder":
        answer = "its decoder's first word, whatever the order"
    raise UsageError(
        f"question=first is for decoders, which answer where a candidate ends: {config.backbone} is read by {answer}",
        f"--set question=last for {config.backbone}",
    )


def single_tokens(tokenizer: Any, ways: Sequence[str], name: str) -> list[int]:
    """The spellings of a word that are a single token, as token ids; AssetError if there is none."""
    tokens: dict[int, None] = {}
    for way in ways:
        ids = tokenizer(way, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            tokens[ids[0]] = None
    if not tokens:
        raise AssetError(
            f"{name} has no single token for {ways[0]!r}", "choose a language model that has one"
        )
    return list(tokens)


def make_prompts(
    tokenizer: Any,
    language: LanguageModel,
    config: LanguageConfig,
    dataset: Dataset,
    seen: NDArray[np.bool_],
    progress: Progress,
    yes: int = 0,
) -> Prompts:
    """The prompts for a data set's items; adds new tokens to the model if its items are tokens of their own.

    `seen` bool[n] says whether training has each item; `yes` is the number of answers that mean yes, 0 for a model that
    names items.
    """
    limit = min(config.max_tokens, most_tokens(language.config) or config.max_tokens)
    items = _items(language, tokenizer, config, dataset, seen, limit, progress)
    question_first = isinstance(config, TextLanguageConfig) and config.question == "first"
    fixed = make_pieces(tokenizer, language, limit, yes, _shares_history(config), question_first)
    return Prompts(fixed, items)


def _shares_history(config: LanguageConfig) -> bool:
    """Whether an encoder is trained to read the history without the candidate; a zero-shot one is not."""
    if isinstance(config, ClickLanguageConfig):
        return config.shared_history
    return isinstance(config, TunedLanguageConfig)


def _items(
    language: LanguageModel,
    tokenizer: Any,
    config: LanguageConfig,
    dataset: Dataset,
    seen: NDArray[np.bool_],
    limit: int,
    progress: Progress,
) -> Ragged:
    """Every item as token ids: those of its text, or new tokens, which it adds to the model."""
    if isinstance(config, P5Config | SeqP5Config):
        language.add_tokens(len(dataset.items))
        assert language.new_embedding is not None
        with torch.no_grad():  # items that training lacks have one vector, since nothing is known of them
            language.new_embedding.weight[torch.from_numpy(~seen)] = language.new_embedding.weight.mean(0)
        tokens = np.arange(len(dataset.items), dtype=np.int32)[:, None]
    elif isinstance(config, CodedItems):
        tokens = ensure_semantic_ids(dataset, config, progress).tokens
        language.add_tokens(config.levels * config.codes)
    else:
        return _item_tokens(tokenizer, dataset.items.texts, prompts.item_limit(limit), progress)
    offsets = np.arange(len(tokens) + 1, dtype=np.int64) * tokens.shape[1]
    return Ragged((tokens + language.vocabulary).ravel(), offsets)


def _item_tokens(tokenizer: Any, texts: Sequence[str], limit: int, progress: Progress) -> Ragged:
    """The token ids of each text behind a word, at most `limit` of them."""
    space = prompts.space_before(tokenizer("a", add_special_tokens=False).tokens()[0])
    values, lengths = [], []
    for begin in range(0, len(texts), TEXTS_AT_ONCE):
        piece = [space + text for text in texts[begin : begin + TEXTS_AT_ONCE]]
        for ids in tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]:
            values.append(np.array(ids[:limit], np.int32))
            lengths.append(len(values[-1]))
        progress(min(begin + TEXTS_AT_ONCE, len(texts)), len(texts), "item texts to tokens")
    return Ragged(np.concatenate(values), np.concatenate(([0], np.cumsum(lengths))))
