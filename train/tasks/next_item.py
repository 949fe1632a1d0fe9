"""Next-item prediction with a language model as a training task (groups I and J): eq. 7, over items or over codes.

The prompt is the history; the answer is the next item, as one token of the catalogue or as a semantic identifier, code
by code or, beyond the paper, all codes at once. An encoder reads the prompt in both directions and the answer from left
to right only (a prefix language model), so that no position sees the token that it predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rbserve.core.errors import UsageError
from rbserve.core.tasks import SEQREC
from rbserve.core.types import ModelSpec, Progress, Ranker
from rbserve.data.dataset import Dataset, SeqSplit
from rbserve.data.semantic_ids import SemanticIds, copy_semantic_ids
from rbserve.models.configs import CodedItems, NextItemLanguageConfig, SeqParallelConfig, SeqSidConfig
from rbserve.models.drivers import architecture_of
from rbserve.models.lm import LanguageModel
from rbserve.models.prompts import Packed, Prompts, pack_answer, pack_questions, pad
from rbserve.runtimes.evaluate import rank_rows
from rbserve.runtimes.language import LanguageStepper, packed_questions
from rbserve.runtimes.ranking import GeneratingRanker, ScoringRanker
from rbserve.runtimes.torch_models import TorchBestItems, TorchLanguageCall
from rbserve.stats.listwise import ndcg_at_k, ranks_in_lists
from rbserve.train.encoders.backbone import load_tokenizer
from rbserve.train.fitting.loop import Rows, require_finite_weights
from rbserve.train.semantic_ids.fit_codes import ensure_semantic_ids
from rbserve.train.tasks.backbones import adapted, backbone_folder, merged, weights_kind
from rbserve.train.tasks.code_heads import code_heads_loss
from rbserve.train.tasks.ctr import trained_items
from rbserve.train.tasks.language import check_texts, load, make_prompts, save_prompts
from rbserve.train.tasks.seq import AT
from rbserve.train.tasks.softmax import softmax_loss
from rbserve.train.tasks.warm_start import WarmStart

VALIDATION_ROWS = 500
HEAD_STD = 0.02


def make(
    spec: ModelSpec, dataset: Dataset, progress: Progress, start: WarmStart | None = None
) -> tuple[LanguageModel, NextItemTask]:
    """The language model of a list-wise row with new tokens and a head for them, and its training task.

    With `start`, its weights are those of that artefact.
    """
    config: NextItemLanguageConfig = spec.config
    check_texts(spec, dataset)
    folder = backbone_folder(spec)
    language = load(folder, answers=[0], precision=weights_kind(spec, folder))
    if isinstance(config, SeqSidConfig) and architecture_of(language.config).reads == "encoder-decoder":
        raise UsageError(
            f"{spec.name}: {language.config.model_type} answers with one word, and semantic identifiers have several",
            f"rbserve train --model seq-sid-parallel --backbone {config.backbone} predicts all codes at once",
        )
    seen = trained_items(dataset.seqrec("train"), len(dataset.items))
    item_prompts = make_prompts(load_tokenizer(folder), language, config, dataset, seen, progress)
    sids = ensure_semantic_ids(dataset, config, progress) if isinstance(config, CodedItems) else None
    answers = config.levels * config.codes if isinstance(config, CodedItems) else len(dataset.items)
    language.transform = nn.Identity()
    language.head = nn.Linear(language.head.in_features, answers, bias=sids is not None)
    nn.init.normal_(language.head.weight, std=HEAD_STD)
    if start is not None:
        start.load(language)
    if not spec.random:
        language.base = adapted(language.base, config)
    return language, NextItemTask(dataset, config, item_prompts, folder, sids)


class NextItemTask:
    """The training task of list-wise language models; a row is a user's history and the item that came next."""

    metric = SEQREC.metric

    def __init__(
        self,
        dataset: Dataset,
        config: NextItemLanguageConfig,
        item_prompts: Prompts,
        folder: Path,
        sids: SemanticIds | None,
    ) -> None:
        self._train, self._valid = dataset.seqrec("train"), dataset.seqrec("valid")
        self._config, self.prompts, self._folder, self.sids = config, item_prompts, folder, sids
        self.rows, self.max_history = len(self._train), config.max_history

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Items int64[rows] of each row's history, so that rows of like length can be batched together."""
        return self._train.histories.lengths

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Cross-entropy summed over the answers' tokens of the given rows."""
        language, device = cast(LanguageModel, model), next(model.parameters()).device
        tensors, wanted = self.batch(rows, device)
        if isinstance(self._config, SeqSidConfig):
            logits, _ = model(**tensors)
            return F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), reduction="sum")
        hidden, _ = language.hidden(tensors["tokens"], tensors["positions"], tensors["mask"])
        last = hidden[torch.arange(len(wanted), device=device), tensors["read"][:, 0]]
        if isinstance(self._config, SeqParallelConfig):
            codes = self._codes(device)
            return code_heads_loss(last, language.head, codes, wanted[:, 0], self._config.loss)
        return softmax_loss(last, language.head.weight, wanted[:, 0])

    def batch(self, rows: Rows, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
        """The model's tensors for the prompts of rows, and the answers int64[R, A]: codes in turn, or the item."""
        split = self._train.take(rows)
        packed = pad([self._pack(split, row) for row in range(len(split))])
        tensors = {name: torch.from_numpy(array).to(device) for name, array in packed.arrays.items()}
        return tensors, torch.from_numpy(self._answers(split)).to(device)

    def validate(self, model: nn.Module) -> float:
        """nDCG@10 of the first 500 validation users, ranks among the whole catalogue."""
        require_finite_weights(model)
        valid = self._valid.take(np.arange(min(VALIDATION_ROWS, len(self._valid))))
        items = rank_rows(self.ranker(cast(LanguageModel, model)), valid.histories, AT, batch=16)
        return ndcg_at_k(ranks_in_lists(items, valid.targets), AT)

    def ranker(self, language: LanguageModel) -> Ranker:
        """The ranker that serves the model, for validation."""
        if isinstance(self._config, SeqSidConfig):
            assert self.sids is not None
            stepper = LanguageStepper(TorchLanguageCall(language), self.prompts)
            return GeneratingRanker(stepper, self.sids, self._config, self.prompts.questions)
        scores = TorchBestItems(language, self.sids.tokens_by_level if self.sids is not None else None)
        return ScoringRanker(scores, self._config.max_history, packed_questions(self.prompts))

    def weights(self, model: nn.Module) -> Mapping[str, Tensor]:
        """All weights of the model, after its adapters were merged into the layers that they adapt."""
        language = cast(LanguageModel, model)
        language.base = merged(language.base)
        return model.state_dict()

    def save(self, folder: Path) -> None:
        """Writes prompts, the language model's config and tokeniser, and the semantic identifiers that it reads."""
        save_prompts(self.prompts, self._folder, folder)
        if self.sids is not None:
            copy_semantic_ids(self.sids, folder)

    def _answers(self, split: SeqSplit) -> NDArray[np.int64]:
        """The targets: items int64[R, 1], or of identifiers that are written code by code int64[R, levels]."""
        if not isinstance(self._config, SeqSidConfig):
            return split.targets.astype(np.int64)[:, None]
        assert self.sids is not None
        return self.sids.tokens[split.targets].astype(np.int64)

    def _codes(self, device: torch.device) -> Tensor:
        """The code tokens int64[L, n] of all items."""
        assert self.sids is not None
        return torch.from_numpy(self.sids.tokens_by_level.astype(np.int64)).to(device)

    def _pack(self, split: SeqSplit, row: int) -> Packed:
        history = split.histories[row][-self._config.max_history :]
        questions = self.prompts.questions(history[None])
        if not isinstance(self._config, SeqSidConfig):
            return pack_questions(questions, self.prompts.pieces.causal)
        answer = self.prompts.items[int(split.targets[row])].astype(np.int64)
        return pack_answer(questions[0], answer, self.prompts.pieces.causal)
