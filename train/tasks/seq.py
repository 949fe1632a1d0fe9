"""Next-item prediction as a training task: full-softmax cross-entropy (eq. 7) and validation nDCG@10.

A row is a user's sequence, its target last. By default every position of it is predicted from what stands before
(`config.targets` "all"), as SASRec trains; eq. 7 as it is written has the last one only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rbserve.core.tasks import SEQREC
from rbserve.core.types import ModelSpec, Progress, Ranker
from rbserve.data.columns import Ragged, slices
from rbserve.data.dataset import Dataset, SeqSplit
from rbserve.data.semantic_ids import SemanticIds, copy_semantic_ids
from rbserve.models.configs import ParallelSasRecConfig, SasRecConfig, SidSasRecConfig
from rbserve.models.sasrec import ParallelSasRec, SasRec, SequentialModel, SidSasRec, build
from rbserve.runtimes.evaluate import rank_rows
from rbserve.runtimes.ranking import GeneratingRanker, ScoringRanker
from rbserve.runtimes.torch_models import TorchItemScores, TorchStepper
from rbserve.stats.listwise import ndcg_at_k, ranks_in_lists
from rbserve.train.fitting.loop import Rows, require_finite_weights
from rbserve.train.tasks.code_heads import code_heads_loss
from rbserve.train.tasks.softmax import softmax_loss

AT = 10
PARTS = 4  # of a batch, each padded to its own longest sequence
NO_LABEL = -100


def make(spec: ModelSpec, dataset: Dataset, progress: Progress) -> tuple[SequentialModel, SeqTask]:
    """The untrained model of a sequential row, and its training task."""
    config: SasRecConfig = spec.config
    model = build(config, len(dataset.items))
    if not isinstance(config, SidSasRecConfig | ParallelSasRecConfig):
        return model, ItemTask(dataset, config)
    from rbserve.train.semantic_ids.fit_codes import ensure_semantic_ids

    sids = ensure_semantic_ids(dataset, config, progress)
    if isinstance(config, ParallelSasRecConfig):
        return model, ParallelTask(dataset, config, sids)
    return model, CodeTask(dataset, config, sids)


class SeqTask:
    """The training task of sequential models; a row is a user's last items up to the target."""

    metric = SEQREC.metric

    def __init__(self, dataset: Dataset, config: SasRecConfig) -> None:
        self.config = config
        self._train, self._valid = dataset.seqrec("train"), dataset.seqrec("valid")
        self.rows = len(self._train)

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Cross-entropy summed over the predicted positions of the given training rows."""
        raise NotImplementedError

    def ranker(self, model: nn.Module) -> Ranker:
        """The ranker that serves the model, for validation."""
        raise NotImplementedError

    def validate(self, model: nn.Module) -> float:
        """nDCG@10 over the validation users, ranks among the whole catalogue; RbserveError after divergence."""
        require_finite_weights(model)
        items = rank_rows(self.ranker(model), self._valid.histories, AT)
        return ndcg_at_k(ranks_in_lists(items, self._valid.targets), AT)

    def weights(self, model: nn.Module) -> Mapping[str, Tensor]:
        """All weights of the model."""
        return model.state_dict()

    def save(self, folder: Path) -> None:
        """Writes nothing: scoring needs no more than weights and items."""

    def _sequences(self, rows: Rows) -> list[Ragged]:
        """The rows' sequences in PARTS of similar length, which have less than half the padding of one batch."""
        sequences = with_targets(self._train.take(rows), self.config.max_history)
        order = np.argsort(sequences.lengths, kind="stable")
        return [sequences.take(part) for part in np.array_split(order, PARTS) if len(part)]


class ItemTask(SeqTask):
    """SASRec's task: to predict the next item among the whole catalogue."""

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Cross-entropy summed over the predicted positions of the given training rows."""
        device = next(model.parameters()).device
        hidden, labels = [], []
        for sequences in self._sequences(rows):
            inputs, wanted = Padded.of(sequences, 1 if self.config.targets == "last" else None).to(device)
            known = wanted != NO_LABEL
            hidden.append(model(inputs)[known])
            labels.append(wanted[known])
        return softmax_loss(torch.cat(hidden), cast(SasRec, model).items, torch.cat(labels))

    def ranker(self, model: nn.Module) -> Ranker:
        """A ranker that scores every item of the catalogue."""
        return ScoringRanker(TorchItemScores(cast(SasRec, model)), self.config.max_history)


class CodeTask(SeqTask):
    """SID-SASRec's task: to predict the next code token."""

    def __init__(self, dataset: Dataset, config: SidSasRecConfig, sids: SemanticIds) -> None:
        super().__init__(dataset, config)
        self._sid_config, self.sids = config, sids

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Cross-entropy summed over the predicted code tokens of the given training rows."""
        levels, device = self._sid_config.levels, next(model.parameters()).device
        losses = []
        for items in self._sequences(rows):
            tokens = Ragged(self.sids.tokens[items.values].ravel(), items.offsets * levels)
            inputs, labels = Padded.of(tokens, levels if self.config.targets == "last" else None).to(device)
            logits = model(inputs).flatten(0, 1)
            losses.append(F.cross_entropy(logits, labels.flatten(), reduction="sum", ignore_index=NO_LABEL))
        return torch.stack(losses).sum()

    def save(self, folder: Path) -> None:
        """Copies the semantic identifiers."""
        copy_semantic_ids(self.sids, folder)

    def ranker(self, model: nn.Module) -> Ranker:
        """A ranker that finds items by beam search."""
        return GeneratingRanker(TorchStepper(cast(SidSasRec, model)), self.sids, self._sid_config)


class ParallelTask(SeqTask):
    """To predict all codes of the next item at once, beyond the paper."""

    def __init__(self, dataset: Dataset, config: ParallelSasRecConfig, sids: SemanticIds) -> None:
        super().__init__(dataset, config)
        self._against, self.sids = config.loss, sids
        self._codes = torch.from_numpy(sids.tokens_by_level.astype(np.int64))

    def loss(self, model: nn.Module, rows: Rows) -> Tensor:
        """Cross-entropy summed over the predicted positions of the given training rows."""
        assert isinstance(model, ParallelSasRec)
        codes = self._codes.to(model.heads.weight.device)
        hidden, labels = [], []
        for sequences in self._sequences(rows):
            last = 1 if self.config.targets == "last" else None
            inputs, wanted = Padded.of(sequences, last).to(codes.device)
            known = wanted != NO_LABEL
            hidden.append(model(inputs, codes)[known])
            labels.append(wanted[known])
        return code_heads_loss(torch.cat(hidden), model.heads, codes, torch.cat(labels), self._against)

    def save(self, folder: Path) -> None:
        """Copies the semantic identifiers."""
        copy_semantic_ids(self.sids, folder)

    def ranker(self, model: nn.Module) -> Ranker:
        """A ranker that scores every item of the catalogue by its codes."""
        scores = TorchItemScores(cast(ParallelSasRec, model), self.sids.tokens_by_level)
        return ScoringRanker(scores, self.config.max_history)


@dataclass(frozen=True)
class Padded:
    """B token sequences, shifted: inputs int64[B, T] and, for the T + 1 positions, labels with NO_LABEL gaps."""

    inputs: NDArray[np.int64]
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, sequences: Ragged, last: int | None = None) -> Padded:
        """Pads sequences; every token is a label or, with `last`, that many tokens at the end of each sequence."""
        lengths = sequences.lengths
        longest = int(lengths.max(initial=0))
        place = np.arange(longest)
        filled = place < lengths[:, None]
        labels = np.full((len(sequences), longest), NO_LABEL, np.int64)
        labels[filled] = sequences.values
        inputs = np.where(filled, labels, 0)[:, :-1]
        if last is not None:
            labels[place < lengths[:, None] - last] = NO_LABEL
        return cls(inputs, labels)

    def to(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Inputs and labels as tensors on a device."""
        return torch.from_numpy(self.inputs).to(device), torch.from_numpy(self.labels).to(device)


def with_targets(split: SeqSplit, max_history: int) -> Ragged:
    """Each row's last `max_history` items and its target behind them."""
    histories = split.histories
    ends = histories.offsets[1:]
    recent = slices(histories.values, np.maximum(histories.offsets[:-1], ends - max_history), ends)
    values = np.insert(recent.values, recent.offsets[1:], split.targets)
    return Ragged(values, recent.offsets + np.arange(len(recent.offsets)))
