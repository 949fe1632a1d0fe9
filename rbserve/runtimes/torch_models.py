"""Torch modules as scorers, rankers and their parts: eager mode, the reference that every variant is held against."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from rbserve.core.requests import NO_TENSORS, Request, slate_of
from rbserve.core.types import Items, Scores, Vectors
from rbserve.models.part_packing import PackedParts
from rbserve.models.prompts import Packed, Prompts, pack
from rbserve.runtimes.histories import ReadHistory
from rbserve.runtimes.meeting import PackedStates
from rbserve.runtimes.ranking import Cache, Logits

if TYPE_CHECKING:
    from rbserve.models.ctr_base import CtrModel
    from rbserve.models.item_language import ItemLanguage
    from rbserve.models.itemknn import ItemKnn
    from rbserve.models.lm import ClickModel, LanguageModel
    from rbserve.models.sasrec import ParallelSasRec, SasRec, SidSasRec


class TorchScorer:
    """Scores with the trained module in eager mode: the reference every exported variant is held against."""

    def __init__(self, model: CtrModel) -> None:
        import torch

        self._model = model
        self._tensors = model.fields.tensors if model.fields else []
        self._precision = next(model.parameters()).dtype
        self._inference_mode = torch.inference_mode
        self._from_numpy = torch.from_numpy

    def score(self, request: Request) -> Scores:
        """Click probabilities float32[N]. The arrays are copied: torch wraps no read-only map of a file."""
        history, candidates = map(np.array, slate_of(request))
        with self._inference_mode():
            scores: Scores = (
                self._model.score(
                    self._from_numpy(history), self._from_numpy(candidates), self._of_fields(request)
                )
                .float()
                .numpy()
            )
        return scores

    takes_vectors = True

    def score_vectors(self, history: Vectors, candidates: Vectors, tensors: Request = NO_TENSORS) -> Scores:
        """Click probabilities float32[N] of items float32[N, d] for the user of items float32[T, d].

        `tensors` are those of the fields, of a model that reads some.
        """
        with self._inference_mode():
            scores: Scores = (
                self._model.score_vectors(
                    self._of_float(history), self._of_float(candidates), self._of_fields(tensors)
                )
                .float()
                .numpy()
            )
        return scores

    def _of_fields(self, tensors: Request) -> dict[str, Any]:
        """The tensors of the fields, copied, as torch has them."""
        made = {name: self._from_numpy(np.array(tensors[name])) for name in self._tensors}
        return {name: self._of_weights(tensor) for name, tensor in made.items()}

    def _of_float(self, array: Vectors) -> Any:
        """The numbers in the precision of the weights."""
        return self._of_weights(self._from_numpy(array))

    def _of_weights(self, tensor: Any) -> Any:
        """The tensor, a floating one in the precision of the weights."""
        return tensor.to(self._precision) if tensor.is_floating_point() else tensor


class TorchHistoryCall(TorchScorer):
    """Scores with a module that reads items as tokens, behind what was read of a history before."""

    _model: ItemLanguage

    def score_behind(self, request: Request, state: ReadHistory | None) -> tuple[Scores, ReadHistory]:
        """Click probabilities float32[N], and the state behind the request's history, which follows that of `state`."""
        history, candidates = map(np.array, slate_of(request))
        with self._inference_mode():
            scores, (past, user) = self._model.score_behind(
                self._state(state),
                self._from_numpy(history),
                self._from_numpy(candidates),
                self._of_fields(request),
            )
        items = len(history) + (state.items if state else 0)
        return scores.float().numpy(), ReadHistory(past.float().numpy(), user.float().numpy(), items)

    def _state(self, state: ReadHistory | None) -> Any:
        from rbserve.models.item_language import HistoryState

        if state is None:
            return self._model.start_state()
        return HistoryState(self._of_float(state.past), self._of_float(state.user))


class TorchItemScores:
    """SASRec or item neighbours in eager torch: the reference."""

    def __init__(self, model: SasRec | ParallelSasRec | ItemKnn, codes: Items | None = None) -> None:
        """`codes` int32[L, n] are the code tokens of all items, where the model scores items by them."""
        import torch

        self._torch, self._model = torch, model
        self._codes = [] if codes is None else [_on_device(torch, model, codes)]

    def __call__(self, inputs: Items, k: int) -> tuple[Items, Scores]:
        with self._torch.inference_mode():
            items, scores = self._model.top_k(_on_device(self._torch, self._model, inputs), k, *self._codes)
            return items.cpu().numpy().astype(np.int32), scores.cpu().numpy()


class TorchStepper:
    """SID-SASRec in eager torch: the reference."""

    def __init__(self, model: SidSasRec) -> None:
        import torch

        self._torch, self._model = torch, model

    def prefill(self, prompts: Items) -> tuple[Logits, Cache]:
        """Logits [B, V] after prompts int32[B, T], and their cache."""
        with self._torch.inference_mode():
            logits, prefix = self._model.prefill(_on_device(self._torch, self._model, prompts))
        layers, two, batch, heads, _, width = prefix.shape
        return logits.cpu().numpy(), (prefix, prefix.new_empty((layers, two, batch, 1, heads, 0, width)))

    def step(self, tokens: Items, parents: Items, cache: Cache) -> tuple[Logits, Cache]:
        """Logits [B, W, V] after tokens int32[B, W] that continue beams `parents`, and the longer cache."""
        prefix, suffix = cache
        with self._torch.inference_mode():
            users = self._torch.arange(len(parents), device=prefix.device)[:, None]
            suffix = suffix[:, :, users, _on_device(self._torch, self._model, parents)]
            tokens_BW = _on_device(self._torch, self._model, tokens)
            logits, suffix = self._model.step(tokens_BW, prefix, suffix)
        return logits.cpu().numpy(), (prefix, suffix)


def _on_device(torch: Any, model: Any, array: Items) -> Any:
    tensor = next(chain(model.parameters(), model.buffers()))  # a counted model has buffers alone
    return torch.from_numpy(np.array(array, np.int64)).to(tensor.device)


class TorchBestItems:
    """A language model that scores the catalogue in eager torch: the reference."""

    def __init__(self, model: LanguageModel, codes: Items | None = None) -> None:
        """`codes` int32[L, n] are the code tokens of all items, where the model scores items by them."""
        import torch

        from rbserve.models.lm import ItemScoreHead

        self._torch, self._model = torch, ItemScoreHead(model)
        self._device = next(model.parameters()).device
        self._codes = [] if codes is None else [_on_device(torch, model, codes)]

    def __call__(self, inputs: Packed, k: int) -> tuple[Items, Scores]:
        arrays = {
            name: self._torch.from_numpy(array).to(self._device) for name, array in inputs.arrays.items()
        }
        with self._torch.inference_mode():
            scores = self._model(*arrays.values(), *self._codes)
            scores, items = scores.float().topk(min(k, scores.size(-1)))
        return items.cpu().numpy().astype(np.int32), scores.cpu().numpy()


class TorchLanguageCall:
    """The reference: eager torch."""

    takes_parts = False

    def __init__(self, model: ClickModel | LanguageModel) -> None:
        import torch

        self._torch, self._model = torch, model
        self._device = next(model.parameters()).device

    def __call__(self, packed: Packed | PackedParts, past: Any | None, cached: bool) -> tuple[Scores, Any]:  # noqa: ARG002
        """Log-odds float32[B, N] and the cache, which eager torch has at no cost. It is called with a mask."""
        with self._torch.inference_mode():
            odds, cache = self._model(**self._tensors(packed), past=past)
        return odds.float().cpu().numpy(), cache

    def _tensors(self, packed: Packed | PackedParts | PackedStates) -> dict[str, Any]:
        return {name: self._torch.from_numpy(array).to(self._device) for name, array in packed.arrays.items()}

    def head_of(self, cache: Any, length: int) -> Any:
        """The cache of the first `length` tokens."""
        return cache[..., :length, :].contiguous()  # a view would keep the rest alive

    def joined(self, cache: Any, more: Any) -> Any:
        """The cache of tokens, extended by that of those that follow them."""
        return self._torch.cat((cache, more), dim=-2)


class TorchMeetingCall(TorchLanguageCall):
    """The reference of a model whose candidates meet the history late: eager torch."""

    def __init__(self, model: ClickModel) -> None:
        from rbserve.models.lm import EarlyLayers, LateLayers

        super().__init__(model)
        self._early, self._late = EarlyLayers(model), LateLayers(model)
        self._type = next(model.parameters()).dtype

    def early(self, packed: Packed) -> Vectors:
        """States float32[B, L, d] behind the layers in which a part of a prompt is alone."""
        tensors = self._tensors(packed)
        del tensors["read"]
        with self._torch.inference_mode():
            states: Vectors = self._early(**tensors).float().cpu().numpy()
        return states

    def __call__(self, packed: PackedStates, past: Any | None, cached: bool) -> tuple[Scores, Any]:  # type: ignore[override]  # noqa: ARG002
        """Log-odds float32[B, N] and the cache of the later layers."""
        tensors = self._tensors(packed)
        tensors["states"] = tensors["states"].to(self._type)
        with self._torch.inference_mode():
            odds, cache = self._late(**tensors, past=past)
        return odds.float().cpu().numpy(), cache


def torch_call(model: ClickModel | LanguageModel) -> TorchLanguageCall:
    """The call of a language model in eager torch."""
    from rbserve.models.lm import ClickModel

    if isinstance(model, ClickModel) and model.language.meet:
        return TorchMeetingCall(model)
    return TorchLanguageCall(model)


class ProtocolScorer:
    """The paper's way, to compare with: eager torch, one candidate's whole prompt at a time, nothing kept.

    Every word's logit is computed at every place, two words' at the last are read, as RecBench's public code has it.
    """

    def __init__(self, model: ClickModel, prompts: Prompts) -> None:
        import torch

        self._torch, self._model, self._prompts = torch, model, prompts

    def score(self, request: Request) -> Scores:
        """Click probabilities float32[N]."""
        history, candidates = slate_of(request)
        return np.array(
            [self._score_one(history, candidate) for candidate in candidates.tolist()], np.float32
        )

    def _score_one(self, history: Items, candidate: int) -> float:
        packed = pack(self._prompts.prefix(history), [self._prompts.suffix(candidate)], self._prompts.pieces)
        tokens, positions, mask, read = (self._torch.from_numpy(array) for array in packed.arrays.values())
        language = self._model.language
        with self._torch.inference_mode():
            hidden = language.hidden(tokens, positions, mask)[0]
            if not language.pairs:
                embedding: Any = language.base.get_input_embeddings
                self._torch.nn.functional.linear(language.transform(hidden), embedding().weight)
            odds = self._model.odds(language.answers(hidden, mask, read)[0])
        return float(odds.sigmoid())
