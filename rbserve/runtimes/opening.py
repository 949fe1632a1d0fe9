"""One way to score, `open_scorer(artifact, variant)`, and one to rank, `open_ranker`, in any runtime and precision.

Accuracy, latency and the server all go through what is returned here, so what is profiled is what is served.
ONNX variants need onnxruntime alone; only `torch-fp32`, the reference, and `torch-bf16` import torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rbserve.core.errors import ArtifactError, UsageError, unknown_name
from rbserve.core.files import cache
from rbserve.core.tasks import TASKS
from rbserve.core.types import Items, Ranker, Scorer, Scores, Vectors
from rbserve.core.variants import REFERENCE, find_variant
from rbserve.data.artifact import (
    BACKBONE,
    TOKENIZER,
    WEIGHTS,
    Artifact,
)
from rbserve.data.columns import Ragged, runs
from rbserve.models import prompts
from rbserve.models.configs import (
    EndpointConfig,
    LanguageConfig,
    ModelConfig,
    SasRecConfig,
    SeqP5Config,
    SeqSidConfig,
    SidSasRecConfig,
    config_from_dict,
)
from rbserve.models.prompts import ItemTokenizer, Prompts, item_limit, open_prompts
from rbserve.runtimes import endpoint
from rbserve.runtimes.endpoint import EndpointScorer, Estimate
from rbserve.runtimes.language import (
    LanguageCall,
    LanguageScorer,
    LanguageStepper,
    OnnxBestItems,
    OnnxLanguageCall,
    PrefixCache,
    ProtocolScorer,
    TorchBestItems,
    TorchLanguageCall,
    packed_questions,
)
from rbserve.runtimes.memory import require_memory
from rbserve.runtimes.ranking import (
    GeneratingRanker,
    OnnxItemScores,
    OnnxStepper,
    ScoringRanker,
    TorchItemScores,
    TorchStepper,
)
from rbserve.runtimes.session import Session, open_bf16_session, open_session

if TYPE_CHECKING:
    from rbserve.models.ctr import CtrModel

ITEM_TABLE = "model.item_embedding.weight"
"""The graph's input, with a default, that has the vectors of all items: of models whose items are made of content."""


def open_ranker(artifact: Artifact, variant: str, threads: int = 1) -> Ranker:
    """A ranker of one variant of a list-wise artefact, its files verified, computing on `threads` threads.

    Raises ArtifactError for a damaged or missing file, UsageError for a variant the artefact lacks.
    """
    if not TASKS[artifact.manifest.task].ranks:
        raise UsageError(f"{artifact.name} scores candidates; it does not rank the catalogue")
    _require_variant(artifact, variant)
    require_memory(artifact, variant)
    if find_variant(variant).runtime == "torch":
        return torch_ranker(artifact, _torch_model(artifact, variant, threads))
    return exported_ranker(artifact, _onnx_files(artifact, variant), threads, variant)


class _Opened(NamedTuple):
    """The parts of a list-wise model in one runtime; an artefact has one of them."""

    item_scores: Callable[[], Any]
    stepper: Callable[[], Any]
    best_items: Callable[[], Any]
    language: Callable[[], LanguageCall]


Opening = Callable[[Path], Session]
"""How a graph becomes a session."""


def exported_ranker(
    artifact: Artifact,
    graphs: Sequence[Path],
    threads: int = 1,
    variant: str | None = None,
    opening: Opening | None = None,
) -> Ranker:
    """The ranker of a list-wise artefact over its exported graphs, in the order in which they run.

    `variant` matters for a graph that several are loaded from. `opening` opens the graphs of models other than language
    models, if not `open_session`.
    """
    sessions = map(opening or partial(open_session, threads=threads), graphs)
    opened = _Opened(
        lambda: OnnxItemScores(*sessions),
        lambda: OnnxStepper(*sessions),
        lambda: OnnxBestItems(_language_session(graphs[0], threads, variant)),
        lambda: OnnxLanguageCall(_language_session(graphs[0], threads, variant)),
    )
    return _ranker(artifact, opened)


def torch_ranker(artifact: Artifact, model: Any) -> Ranker:
    """The ranker of a list-wise artefact over its torch module."""
    opened = _Opened(
        lambda: TorchItemScores(model),
        lambda: TorchStepper(model),
        lambda: TorchBestItems(model),
        lambda: TorchLanguageCall(model),
    )
    return _ranker(artifact, opened)


def _ranker(artifact: Artifact, opened: _Opened) -> Ranker:
    config = _config(artifact)
    if isinstance(config, SeqSidConfig):
        made = artifact_prompts(artifact)
        stepper = LanguageStepper(opened.language(), made)
        return GeneratingRanker(stepper, artifact.sids, config, made.questions)
    if isinstance(config, SeqP5Config):
        asked = packed_questions(artifact_prompts(artifact))
        return ScoringRanker(opened.best_items(), config.max_history, asked, artifact.items.retired)
    if isinstance(config, SidSasRecConfig):
        return GeneratingRanker(opened.stepper(), artifact.sids, config)
    assert isinstance(config, SasRecConfig)
    return ScoringRanker(opened.item_scores(), config.max_history, retired=artifact.items.retired)


def open_scorer(artifact: Artifact, variant: str, threads: int = 1, user_cache: int = 0) -> Scorer:
    """A scorer of one variant of an artefact, its files verified, computing on `threads` threads.

    A language model keeps up to `user_cache` bytes of what it read of its last users' prompts; other models have
    nothing to keep. Raises ArtifactError for a damaged or missing file, UsageError for a variant the artefact lacks.
    """
    if TASKS[artifact.manifest.task].ranks:
        raise UsageError(f"{artifact.name} ranks the catalogue; it does not score candidates")
    _require_variant(artifact, variant)
    if artifact.is_endpoint:
        return open_endpoint(artifact)
    require_memory(artifact, variant)
    if find_variant(variant).precision == "recbench":
        return ProtocolScorer(_torch_model(artifact, variant, threads), artifact_prompts(artifact))
    if find_variant(variant).runtime == "torch":
        return torch_scorer(artifact, _torch_model(artifact, variant, threads), user_cache)
    return exported_scorer(artifact, _onnx_files(artifact, variant), threads, user_cache, variant)


def open_endpoint(artifact: Artifact) -> EndpointScorer:
    """The scorer of a model behind an endpoint; its answers are kept in the cache directory.

    Raises UsageError where OpenAI is to be asked and there is no key.
    """
    config = _config(artifact)
    assert isinstance(config, EndpointConfig)
    key = os.environ.get(config.key_from, "")
    if not key and config.api_base == endpoint.BASE_URL:
        raise UsageError(
            f"{artifact.name} asks {config.api_base}, and there is no key in {config.key_from}",
            f"set {config.key_from}, or train it with --api-base URL for another endpoint",
        )
    return EndpointScorer(
        artifact.items.texts, cache() / "endpoint", base_url=config.api_base, model=config.model, key=key,
        concurrency=config.concurrency, top_logprobs=config.top_logprobs,
        max_completion_tokens=config.max_completion_tokens, greedy=config.greedy,
    )  # fmt: skip


def estimate(artifact: Artifact, histories: Ragged, candidates: Items) -> Estimate:
    """What asking an endpoint for R (history, candidate) pairs would still take."""
    config = _config(artifact)
    assert isinstance(config, EndpointConfig)
    with open_endpoint(artifact) as scorer:
        return scorer.estimate(
            histories,
            candidates,
            config.usd_per_million_prompt_tokens,
            config.usd_per_million_completion_tokens,
        )


def exported_scorer(
    artifact: Artifact,
    graphs: Sequence[Path],
    threads: int = 1,
    user_cache: int = 0,
    variant: str | None = None,
    opening: Opening | None = None,
) -> Scorer:
    """The scorer of a pair-wise artefact over its exported graph; `variant`, `opening` as for `exported_ranker`."""
    (graph,) = graphs
    if artifact.is_language_model:
        call = OnnxLanguageCall(_language_session(graph, threads, variant))
        return _language_scorer(artifact, call, user_cache)
    return OnnxScorer((opening or partial(open_session, threads=threads))(graph))


def _language_session(graph: Path, threads: int, variant: str | None) -> Session:
    if variant and find_variant(variant).runtime == "openvino":
        return open_bf16_session(graph, threads)
    session: Session = open_session(graph, threads, eight_bits=True)
    return session


def torch_scorer(artifact: Artifact, model: Any, user_cache: int = 0) -> Scorer:
    """The scorer of a pair-wise artefact over its torch module."""
    if artifact.is_language_model:
        return _language_scorer(artifact, TorchLanguageCall(model), user_cache)
    return TorchScorer(model)


def _language_scorer(artifact: Artifact, call: LanguageCall, user_cache: int) -> LanguageScorer:
    return LanguageScorer(call, artifact_prompts(artifact), PrefixCache(user_cache) if user_cache else None)


def artifact_prompts(artifact: Artifact) -> Prompts:
    """The prompts of a language model's artefact, its files verified."""
    folder, *_ = (artifact.file(f"{prompts.FOLDER}/{name}").parent for name in prompts.FILES)
    return open_prompts(folder)


def artifact_tokenizer(artifact: Artifact) -> ItemTokenizer:
    """Makes tokens of the texts of items that a language model's artefact does not have.

    Raises UsageError where the model reads no texts, ArtifactError for a damaged or missing file.
    """
    if not artifact.is_language_model or artifact.manifest.item_form != "text":
        raise UsageError(f"{artifact.name} reads no item texts", "zeroshot- and text- rows do")
    limit = item_limit(artifact_prompts(artifact).pieces.max_tokens)
    return ItemTokenizer(artifact.file(TOKENIZER), limit)


class OnnxScorer:
    """Scores with an exported graph: history int32[T], candidates int32[N] -> scores float32[N]."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.takes_vectors = any(value.name == ITEM_TABLE for value in session.get_overridable_initializers())

    def score(self, history: Items, candidates: Items) -> Scores:
        """Click probabilities float32[N]."""
        scores: Scores = self._session.run(None, {"history": history, "candidates": candidates})[0]
        return scores

    def score_vectors(self, history: Vectors, candidates: Vectors) -> Scores:
        """Click probabilities float32[N] of items float32[N, d] for the user of items float32[T, d].

        Only where the graph `takes_vectors`.
        """
        rows = np.arange(len(history) + len(candidates), dtype=np.int32)
        asked = {
            "history": rows[: len(history)],
            "candidates": rows[len(history) :],
            ITEM_TABLE: np.concatenate([history, candidates]),
        }
        scores: Scores = self._session.run(None, asked)[0]
        return scores


class TorchScorer:
    """Scores with the trained module in eager mode: the reference every exported variant is held against."""

    def __init__(self, model: CtrModel) -> None:
        import torch

        self._model = model
        self._inference_mode = torch.inference_mode
        self._from_numpy = torch.from_numpy

    def score(self, history: Items, candidates: Items) -> Scores:
        """Click probabilities float32[N]. The arrays are copied: torch wraps no read-only map of a file."""
        with self._inference_mode():
            scores: Scores = self._model.score(
                self._from_numpy(np.array(history)), self._from_numpy(np.array(candidates))
            ).numpy()
        return scores

    takes_vectors = True

    def score_vectors(self, history: Vectors, candidates: Vectors) -> Scores:
        """Click probabilities float32[N] of items float32[N, d] for the user of items float32[T, d]."""
        with self._inference_mode():
            scores: Scores = self._model.score_vectors(
                self._from_numpy(history), self._from_numpy(candidates)
            ).numpy()
        return scores


def load_model(artifact: Artifact, variant: str = REFERENCE) -> Any:
    """The trained torch module of an artefact, in eval mode, in the precision of one of torch's variants."""
    from safetensors import SafetensorError

    from rbserve.models import ctr, sasrec

    config, path = _config(artifact), artifact.file(WEIGHTS)
    try:
        weights = _weights(path, variant)
        if isinstance(config, LanguageConfig):
            return rebuild_model(artifact, backbone_config(artifact), weights).eval()
        rebuild: Any = sasrec.rebuild if TASKS[artifact.manifest.task].ranks else ctr.rebuild
        model = rebuild(config, weights)
    except (SafetensorError, RuntimeError, KeyError) as error:
        raise ArtifactError(f"{path} does not hold the weights of {artifact.name}: {error}") from error
    return model.eval()


def _weights(path: Path, variant: str) -> dict[str, Any]:
    """A file's tensors in the variant's precision; those that have it are mapped, not copied."""
    import torch
    from safetensors.torch import load_file

    kept = torch.bfloat16 if find_variant(variant).precision == "bf16" else torch.float32
    return {
        name: tensor.to(kept) if tensor.is_floating_point() else tensor
        for name, tensor in load_file(path).items()
    }


def backbone_config(artifact: Artifact) -> Any:
    """transformers' config of a language model's artefact."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(artifact.file(BACKBONE), local_files_only=True)


def rebuild_model(artifact: Artifact, config: Any, weights: Mapping[str, Any]) -> Any:
    """The torch module of a language model's artefact over a base of `config`, with the given weights."""
    from rbserve.models import lm

    if TASKS[artifact.manifest.task].ranks:
        return lm.rebuild(config, weights)
    return lm.rebuild_click_model(config, weights, artifact_prompts(artifact).pieces.yes)


def score_rows(scorer: Scorer, histories: Ragged, candidates: Items) -> Scores:
    """The score float32[R] of R (history, candidate) pairs; rows in turn that share a history are one slate."""
    if isinstance(scorer, EndpointScorer):  # which asks for many at a time
        return scorer.score_rows(histories, candidates)
    scores = np.empty(len(candidates), np.float32)
    for begin, end in pairwise(runs(histories).tolist()):
        scores[begin:end] = scorer.score(histories[begin], candidates[begin:end])
    return scores


def recommend(ranker: Ranker, history: Items, k: int, exclude_seen: bool = False) -> tuple[Items, Scores]:
    """The k best items int32[<=k] for history int32[T] and their scores, without the history's if asked to."""
    if not exclude_seen:
        return ranker.top_k(history, k)
    return without_seen(history, k, *ranker.top_k(history, k + len(history)))


def without_seen(history: Items, k: int, items: Items, scores: Scores) -> tuple[Items, Scores]:
    """The first k of a list of items int32[n], and their scores, that are not in history int32[T]."""
    unseen = np.flatnonzero(~np.isin(items, history))[:k]
    return items[unseen], scores[unseen]


def rank_rows(
    ranker: Ranker, histories: Ragged, k: int, batch: int = 256, exclude_seen: bool = False
) -> Items:
    """What `recommend` gives for each of R histories, int32[R, k]; -1 at the end of a list shorter than k.

    Histories of one length are ranked together, at most `batch` a call.
    """
    ranked = np.full((len(histories), k), -1, np.int32)
    lengths = histories.lengths
    for length in np.unique(lengths).tolist():
        rows = np.flatnonzero(lengths == length)
        for some in np.split(rows, range(batch, len(rows), batch)):
            seen = histories.take(some).values.reshape(len(some), length)
            items, _ = ranker.top_k_batch(seen, k + exclude_seen * length)
            unwanted = items < 0
            if exclude_seen:
                unwanted |= (items[:, :, None] == seen[:, None, :]).any(axis=2)
            best = _wanted_first(items, unwanted)[:, :k]
            ranked[some, : best.shape[1]] = best
    return ranked


def _wanted_first(items: Items, unwanted: NDArray[np.bool_]) -> Items:
    """Each row of items int32[B, n] without the unwanted ones, then -1, in the order they had."""
    order = np.argsort(unwanted, axis=1, kind="stable")
    moved: Items = np.take_along_axis(np.where(unwanted, np.int32(-1), items), order, axis=1)
    return moved


def _require_variant(artifact: Artifact, variant: str) -> None:
    if variant in artifact.can_open:
        return
    if variant in artifact.can_have:
        precision = find_variant(find_variant(variant).loaded_from).precision
        raise UsageError(
            f"{variant} of {artifact.name} is not exported at {artifact.path}",
            f"rbserve export --model {artifact.path} --precision {precision}",
        )
    raise unknown_name(f"variant of {artifact.name}", variant, artifact.can_have)


def _config(artifact: Artifact) -> ModelConfig:
    return config_from_dict(artifact.manifest.config_kind, artifact.manifest.config)


def _onnx_files(artifact: Artifact, variant: str) -> list[Path]:
    """The graphs of a variant, in the order in which they run, once all its files are found to be whole."""
    record = artifact.exported(variant)
    assert record is not None
    files = {name: artifact.file(name) for name in record.files}
    return [files[name] for name in record.graphs]


def _torch_model(artifact: Artifact, variant: str, threads: int) -> Any:
    """The module for inference, and torch's threads set."""
    try:
        import torch

        torch.set_num_threads(threads)
        return load_model(artifact, variant)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the {variant} variant needs {error.name}",
            "pip install 'rbserve[train]', or choose an ONNX variant",
        ) from None
